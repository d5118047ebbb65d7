// Cross-entropy, a block per row at a time. The beginning of a row comes into shared memory by the copy engine, chunk by chunk,
// while the row before is still being finished; what follows waits in registers; only what fits neither is read twice (BF16
// logits of DeepSeek's 129280 fit).
#include "hopper/device.h"
#include "kernels/common/sm90a_rows.h"
#include "kernels/cross_entropy/sm90a_job.h"

namespace rorqual::cross_entropy_sm90a_detail {
namespace {

using namespace hopper;  // NOLINT: the language of device code

constexpr int kWarps = 16, kWorkers = kWarps * kWarp;  // one warp more asks the copy engine
constexpr int kThreads = kWorkers + kWarp;
// In vectors of 16 bytes: of a chunk, and of what a worker keeps in registers.
constexpr int kPerWorker = 2, kChunkVectors = kPerWorker * kWorkers, kHeld = 6;
constexpr int kChunks = 13, kChunkBytes = kChunkVectors * 16;
constexpr int kAgain = 4;  // loads in flight of what is read twice
constexpr float kLog2E = 1.44269504f;
constexpr float kLowest = -1e38f;  // below every logit: where they begin with −inf, no NaN comes up on the way

template <class X>
inline constexpr int kPer = 16 / static_cast<int>(sizeof(X));

// Where the vectors of a row are kept; the same for every row. [0, resident): shared memory; [resident, held): registers;
// [held, whole): read twice; the `rest` values behind: one per worker, in registers.
struct Cut {
  int whole, resident, held, chunks, rest;

  template <class X>
  static HOPPER_DEVICE Cut of(int vocabulary) {
    const auto smaller = [](int a, int b) { return a < b ? a : b; };
    Cut cut;
    cut.whole = vocabulary / kPer<X>;
    cut.rest = vocabulary % kPer<X>;
    cut.resident = smaller(cut.whole, kChunks * kChunkVectors);
    cut.held = smaller(cut.whole, cut.resident + kHeld * kWorkers);
    cut.chunks = (cut.resident + kChunkVectors - 1) / kChunkVectors;
    return cut;
  }
  HOPPER_DEVICE int vectors_of_chunk(int chunk) const {
    const int left = resident - chunk * kChunkVectors;
    return left < kChunkVectors ? left : kChunkVectors;
  }
};

struct Shared {
  Words4* chunk;    // [kChunks][kChunkVectors]
  Barrier* full;    // [kChunks]
  Barrier* empty;   // [kChunks]
  Float2* partial;  // [2][kWarps]: of this row and the next
};
constexpr int kSharedBytes = kChunks * (kChunkBytes + 2 * static_cast<int>(sizeof(Barrier))) + 2 * kWarps * 8;
static_assert(kSharedBytes <= kMostSharedBytes);

HOPPER_DEVICE Shared shared_parts() {
  uint8_t* at = shared_memory();
  auto* barriers = reinterpret_cast<Barrier*>(at + kChunks * kChunkBytes);
  return {reinterpret_cast<Words4*>(at), barriers, barriers + kChunks, reinterpret_cast<Float2*>(barriers + 2 * kChunks)};
}

template <class X>
HOPPER_DEVICE void unpack(const Words4& words, float (&x)[kPer<X>]) {
  if constexpr (sizeof(X) == 2) {
    HOPPER_UNROLL
    for (int i = 0; i < 4; ++i) {
      x[2 * i] = bf16_low(words.w[i]);
      x[2 * i + 1] = bf16_high(words.w[i]);
    }
  } else {
    HOPPER_UNROLL
    for (int i = 0; i < 4; ++i) x[i] = bits_to_float(words.w[i]);
  }
}

HOPPER_DEVICE float power(float x, float largest) {  // e^(x − largest)
  return exp2_fast((x - largest) * kLog2E);
}

// Σ e^(x − largest), of the largest so far.
struct Sum {
  float largest = kLowest, total = 0;

  template <int kCount>
  HOPPER_DEVICE void add(const float (&x)[kCount]) {
    float now = largest;
    HOPPER_UNROLL
    for (int i = 0; i < kCount; ++i) now = maximum(now, x[i]);
    float powers[kCount];
    HOPPER_UNROLL
    for (int i = 0; i < kCount; ++i) powers[i] = power(x[i], now);
    HOPPER_UNROLL
    for (int step = 1; step < kCount; step *= 2) {
      HOPPER_UNROLL
      for (int i = 0; i < kCount; i += 2 * step) powers[i] += powers[i + step];
    }
    total = total * power(largest, now) + powers[0];
    largest = now;
  }
  HOPPER_DEVICE void join(float other_largest, float other_total) {
    const float now = maximum(largest, other_largest);
    total = total * power(largest, now) + other_total * power(other_largest, now);
    largest = now;
  }
  HOPPER_DEVICE void join_lanes(int lanes) {
    HOPPER_UNROLL
    for (int mask = 1; mask < lanes; mask *= 2) join(shuffle_xor(largest, mask), shuffle_xor(total, mask));
  }
};

// The sums of all workers, in all of them.
HOPPER_DEVICE void join_workers(Sum& sum, Float2* partial) {
  sum.join_lanes(kWarp);
  const int warp = warp_index(), lane = lane_index();
  if (lane == 0) partial[warp] = {{sum.largest, sum.total}};
  named_sync(1, kWorkers);
  const Float2 of_warp = partial[lane % kWarps];
  sum = {of_warp.v[0], of_warp.v[1]};
  sum.join_lanes(kWarps);
}

// One lane: the resident part of all rows of this block.
template <class X>
HOPPER_DEVICE void ask_for_rows(const Job& job, const Cut& cut, const Shared& shared) {
  uint32_t parity = 1;
  for (int row = block_index(); row < job.rows; row += block_count(), parity ^= 1) {
    const X* x = static_cast<const X*>(job.logits) + row * job.stride;
    for (int c = 0; c < cut.chunks; ++c) {
      const uint32_t bytes = static_cast<uint32_t>(cut.vectors_of_chunk(c)) * 16;
      barrier_wait(&shared.empty[c], parity);
      barrier_arrive_expect(&shared.full[c], bytes);
      bulk_load(shared.chunk + c * kChunkVectors, x + c * kChunkVectors * kPer<X>, bytes, &shared.full[c]);
    }
  }
}

HOPPER_DEVICE void release(Barrier* empty) {
  sync_warp();
  if (lane_index() == 0) barrier_arrive(empty);
}

// What gradients need of a row.
struct Row {
  float largest, factor;  // d = e^(x − largest) · factor
  float of_target;
  int target;
};

// Gradients of the vector's values, written to d, where the vector begins at `column`.
template <class X, class D>
HOPPER_DEVICE void write_gradient(const Row& row, const Words4& words, int column, D* d) {
  float x[kPer<X>];
  unpack<X>(words, x);
  HOPPER_UNROLL
  for (int i = 0; i < kPer<X>; ++i) x[i] = power(x[i], row.largest) * row.factor;
  const int at = row.target - column;
  if (at >= 0 && at < kPer<X>) {
    HOPPER_UNROLL
    for (int i = 0; i < kPer<X>; ++i) x[i] = i == at ? row.of_target : x[i];
  }
  store_chunk<kPer<X>>(d + column, x);
}

// One row of a worker.
template <class X, class D, bool kGradient>
HOPPER_DEVICE void finish_row(const Job& job, const Cut& cut, const Shared& shared, int row_index, int round) {
  const int worker = thread_index();
  const uint32_t parity = static_cast<uint32_t>(round) & 1;
  const X* x = static_cast<const X*>(job.logits) + row_index * job.stride;
  const auto* vectors = reinterpret_cast<const Words4*>(x);
  const auto in_chunk = [&](int c, int i) { return c * kChunkVectors + i * kWorkers + worker; };

  Words4 held[kHeld];
  HOPPER_UNROLL
  for (int j = 0; j < kHeld; ++j)
    if (cut.resident + j * kWorkers + worker < cut.held) held[j] = vectors[cut.resident + j * kWorkers + worker];
  const int rest_column = cut.whole * kPer<X> + worker, target = load(job.target + row_index);
  const float rest[1] = {worker < cut.rest ? load_value(x + rest_column) : bits_to_float(0xff800000u)};
  const bool known = target >= 0 && target < job.vocabulary;
  const float target_logit = known ? load_value(x + target) : bits_to_float(0x7fc00000u);

  // The sum. Chunks, then registers, then what is read again, then the rest.
  Sum sum;
  float values[kPer<X>];
  for (int c = 0; c < cut.chunks; ++c) {
    barrier_wait(&shared.full[c], parity);
    HOPPER_UNROLL
    for (int i = 0; i < kPerWorker; ++i) {
      if (in_chunk(c, i) >= cut.resident) break;
      unpack<X>(shared.chunk[in_chunk(c, i)], values);
      sum.add(values);
    }
    if (!kGradient) release(&shared.empty[c]);
  }
  HOPPER_UNROLL
  for (int j = 0; j < kHeld; ++j) {
    if (cut.resident + j * kWorkers + worker >= cut.held) break;
    unpack<X>(held[j], values);
    sum.add(values);
  }
  const auto read_again = [&](const auto& use) {
    HOPPER_NO_UNROLL
    for (int begin = cut.held + worker; begin < cut.whole; begin += kAgain * kWorkers) {
      Words4 words[kAgain];
      HOPPER_UNROLL
      for (int i = 0; i < kAgain; ++i)
        if (begin + i * kWorkers < cut.whole) words[i] = vectors[begin + i * kWorkers];
      HOPPER_UNROLL
      for (int i = 0; i < kAgain; ++i)
        if (begin + i * kWorkers < cut.whole) use(words[i], begin + i * kWorkers);
    }
  };
  read_again([&](const Words4& words, int) {
    unpack<X>(words, values);
    sum.add(values);
  });
  sum.add(rest);
  join_workers(sum, shared.partial + (parity * kWarps));

  if (worker == 0) job.nll[row_index] = logarithm(sum.total) + (sum.largest - target_logit);
  if constexpr (kGradient) {
    const float coefficient = load(job.coefficient + row_index);
    const Row row{sum.largest, divide(coefficient, sum.total),
                  coefficient * (divide(power(target_logit, sum.largest), sum.total) - 1.0f), target};
    D* d = static_cast<D*>(job.d_logits) + row_index * job.d_stride;
    for (int c = 0; c < cut.chunks; ++c) {
      HOPPER_UNROLL
      for (int i = 0; i < kPerWorker; ++i) {
        if (in_chunk(c, i) >= cut.resident) break;
        write_gradient<X>(row, shared.chunk[in_chunk(c, i)], in_chunk(c, i) * kPer<X>, d);
      }
      release(&shared.empty[c]);
    }
    HOPPER_UNROLL
    for (int j = 0; j < kHeld; ++j) {
      const int vector = cut.resident + j * kWorkers + worker;
      if (vector < cut.held) write_gradient<X>(row, held[j], vector * kPer<X>, d);
    }
    read_again([&](const Words4& words, int vector) { write_gradient<X>(row, words, vector * kPer<X>, d); });
    if (worker < cut.rest)
      store_value(d + rest_column, rest_column == target ? row.of_target : power(rest[0], row.largest) * row.factor);
  }
}

template <class X, class D, bool kGradient>
HOPPER_KERNEL(kThreads)
void cross_entropy_kernel(HOPPER_PARAMETER Job job) {
  const Shared shared = shared_parts();
  const Cut cut = Cut::of<X>(job.vocabulary);
  if (thread_index() == 0) {
    for (int c = 0; c < kChunks; ++c) {
      barrier_init(&shared.full[c], 1);
      barrier_init(&shared.empty[c], kWarps);
    }
    fence_barriers();
  }
  sync_threads();
  if (warp_index() == kWarps) {
    if (lane_index() == 0) ask_for_rows<X>(job, cut, shared);
    return;
  }
  int round = 0;
  for (int row = block_index(); row < job.rows; row += block_count(), ++round)
    finish_row<X, D, kGradient>(job, cut, shared, row, round);
}

template <class X>
void launch_typed(const Job& job, const LaunchShape& shape, DeviceStream stream) {
  if (job.d_logits == nullptr)
    HOPPER_LAUNCH((cross_entropy_kernel<X, float, false>), shape, stream, job);
  else if (job.d_bf16)
    HOPPER_LAUNCH((cross_entropy_kernel<X, Bf16, true>), shape, stream, job);
  else
    HOPPER_LAUNCH((cross_entropy_kernel<X, float, true>), shape, stream, job);
}

}  // namespace

void launch(const Job& job, int multiprocessors, DeviceStream stream) {
  const LaunchShape shape{.blocks = static_cast<uint32_t>(job.rows < multiprocessors ? job.rows : multiprocessors),
                          .threads = kThreads,
                          .shared_bytes = kSharedBytes};
  job.bf16 ? launch_typed<Bf16>(job, shape, stream) : launch_typed<float>(job, shape, stream);
}

}  // namespace rorqual::cross_entropy_sm90a_detail
