// RoPE: memory moves once, in pieces of 16 bytes. A thread keeps the cosines and sines of its two pieces of a head while it
// walks a few heads of the row.
#include <type_traits>

#include "hopper/device.h"
#include "kernels/rope/sm90a_job.h"

namespace rorqual::rope_sm90a_detail {
namespace {

using namespace hopper;  // NOLINT: the language of device code

constexpr int kThreads = 256;
constexpr int kHeadsPerThread = 4;  // their loads are in flight together

// 16 bytes of BF16 or F32 and their values.
template <bool kBf16>
struct Piece {
  static constexpr int kCount = kBf16 ? 8 : 4;
  Words4 words;

  HOPPER_DEVICE float get(int i) const {
    if constexpr (kBf16) return i % 2 == 0 ? bf16_low(words.w[i / 2]) : bf16_high(words.w[i / 2]);
    return bits_to_float(words.w[i]);
  }
  HOPPER_DEVICE void set_pair(int i, float first, float second) {  // elements i (even) and i + 1
    if constexpr (kBf16) {
      words.w[i / 2] = to_bf16x2(first, second);
    } else {
      words.w[i] = float_to_bits(first);
      words.w[i + 1] = float_to_bits(second);
    }
  }
};

HOPPER_DEVICE uint32_t thread_of_grid() {
  return static_cast<uint32_t>(block_index()) * kThreads + static_cast<uint32_t>(thread_index());
}

struct Pair {
  float first, second;
};
HOPPER_DEVICE Pair rotated(float a, float b, float cosine, float sine) {
  return {a * cosine - b * sine, b * cosine + a * sine};
}

// Pairs within each piece (interleaved), or element i of one with element i of the other.
template <bool kBf16, bool kInterleaved>
HOPPER_DEVICE void rotate(Piece<kBf16>& low, Piece<kBf16>& high, const float (&cosine)[Piece<kBf16>::kCount],
                          const float (&sine)[Piece<kBf16>::kCount]) {
  constexpr int kCount = Piece<kBf16>::kCount;
  if constexpr (kInterleaved) {
    HOPPER_UNROLL
    for (int i = 0; i < kCount / 2; ++i) {
      const Pair a = rotated(low.get(2 * i), low.get(2 * i + 1), cosine[i], sine[i]);
      const Pair b = rotated(high.get(2 * i), high.get(2 * i + 1), cosine[kCount / 2 + i], sine[kCount / 2 + i]);
      low.set_pair(2 * i, a.first, a.second);
      high.set_pair(2 * i, b.first, b.second);
    }
  } else {
    HOPPER_UNROLL
    for (int i = 0; i < kCount; i += 2) {
      const Pair a = rotated(low.get(i), high.get(i), cosine[i], sine[i]);
      const Pair b = rotated(low.get(i + 1), high.get(i + 1), cosine[i + 1], sine[i + 1]);
      low.set_pair(i, a.first, b.first);
      high.set_pair(i, a.second, b.second);
    }
  }
}

template <int kCount>
HOPPER_DEVICE void read_run(const float* from, float* to) {
  using Part = std::conditional_t<kCount % 4 == 0, Float4, Float2>;
  constexpr int kPart = sizeof(Part) / 4;
  HOPPER_UNROLL
  for (int i = 0; i < kCount / kPart; ++i) {
    const Part part = load(reinterpret_cast<const Part*>(from) + i);
    HOPPER_UNROLL
    for (int j = 0; j < kPart; ++j) to[i * kPart + j] = part.v[j];
  }
}

// A thread for piece u of the first half and piece u of the second, of heads first, first + slots, …
template <bool kBf16, bool kInterleaved>
HOPPER_KERNEL_BLOCKS(kThreads, 3)
void rope_kernel(HOPPER_PARAMETER Job job, int slots) {
  using P = Piece<kBf16>;
  const int half = job.dim / 2, pieces = half / P::kCount;
  const uint32_t id = thread_of_grid();
  const int u = static_cast<int>(id % static_cast<uint32_t>(pieces)),
            rest = static_cast<int>(id / static_cast<uint32_t>(pieces));
  const int first = rest % slots;
  const int64_t row = rest / slots;
  if (row >= job.rows) return;
  auto* x = static_cast<Words4*>(job.x);
  const auto piece_of = [&](int head) { return (row * job.stride + head * job.head_stride) / P::kCount + u; };
  P low[kHeadsPerThread], high[kHeadsPerThread];
  HOPPER_UNROLL
  for (int h = 0; h < kHeadsPerThread; ++h) {
    const int head = first + h * slots;
    if (head >= job.heads) break;
    low[h].words = x[piece_of(head)];
    high[h].words = x[piece_of(head) + pieces];
  }
  float cosine[P::kCount], sine[P::kCount];
  const float* angles = job.table + load(job.position + row) * job.table_stride;
  constexpr int kRun = kInterleaved ? P::kCount / 2 : P::kCount;  // angles that lie together
  HOPPER_UNROLL
  for (int run = 0; run < P::kCount / kRun; ++run) {
    read_run<kRun>(angles + u * kRun + run * (half / 2), &cosine[run * kRun]);
    read_run<kRun>(angles + half + u * kRun + run * (half / 2), &sine[run * kRun]);
  }
  HOPPER_UNROLL
  for (int i = 0; i < P::kCount; ++i) sine[i] = job.inverse ? -sine[i] : sine[i];
  HOPPER_UNROLL
  for (int h = 0; h < kHeadsPerThread; ++h) {
    const int head = first + h * slots;
    if (head >= job.heads) break;
    rotate<kBf16, kInterleaved>(low[h], high[h], cosine, sine);
    store_once(x + piece_of(head), low[h].words);
    store_once(x + piece_of(head) + pieces, high[h].words);
  }
}

// Any alignment and any even dim: a thread for a pair.
template <bool kBf16>
HOPPER_KERNEL(kThreads)
void rope_pairs_kernel(HOPPER_PARAMETER Job job) {
  const int half = job.dim / 2;
  const uint32_t id = thread_of_grid();
  const int i = static_cast<int>(id % static_cast<uint32_t>(half)), vector = static_cast<int>(id / static_cast<uint32_t>(half));
  const int64_t row = vector / job.heads;
  const int head = vector % job.heads;
  if (row >= job.rows) return;
  const float* angles = job.table + load(job.position + row) * job.table_stride;
  const float cosine = load(angles + i), sine = job.inverse ? -load(angles + half + i) : load(angles + half + i);
  const int64_t begin = row * job.stride + head * job.head_stride;
  const int64_t first = begin + (job.interleaved ? 2 * i : i), second = begin + (job.interleaved ? 2 * i + 1 : i + half);
  if constexpr (kBf16) {
    auto* x = static_cast<uint16_t*>(job.x);
    const Pair y = rotated(from_bf16(x[first]), from_bf16(x[second]), cosine, sine);
    x[first] = to_bf16(y.first);
    x[second] = to_bf16(y.second);
  } else {
    auto* x = static_cast<float*>(job.x);
    const Pair y = rotated(x[first], x[second], cosine, sine);
    x[first] = y.first;
    x[second] = y.second;
  }
}

LaunchShape shape_of(int64_t threads) {
  return {.blocks = static_cast<uint32_t>((threads + kThreads - 1) / kThreads), .threads = kThreads};
}

template <bool kBf16>
void launch_typed(const Job& job, DeviceStream stream) {
  if (!job.aligned) {
    const int64_t pairs = job.rows * job.heads * (job.dim / 2);
    HOPPER_LAUNCH((rope_pairs_kernel<kBf16>), shape_of(pairs), stream, job);
    return;
  }
  const int slots = (job.heads + kHeadsPerThread - 1) / kHeadsPerThread;
  const LaunchShape shape = shape_of(job.rows * slots * (job.dim / 2 / Piece<kBf16>::kCount));
  if (job.interleaved)
    HOPPER_LAUNCH((rope_kernel<kBf16, true>), shape, stream, job, slots);
  else
    HOPPER_LAUNCH((rope_kernel<kBf16, false>), shape, stream, job, slots);
}

}  // namespace

void launch(const Job& job, DeviceStream stream) {
  job.bf16 ? launch_typed<true>(job, stream) : launch_typed<false>(job, stream);
}

}  // namespace rorqual::rope_sm90a_detail
