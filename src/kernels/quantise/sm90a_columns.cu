// Quantising columns in groups of 128 rows. A block takes 128 rows × 128 columns: reads them once into registers as they are
// stored, finds each column's largest magnitude, writes codes to shared memory (along rows or along columns) and from there in
// pieces of 16 bytes.
#include "hopper/launch.h"
#include "kernels/common/sm90a_quantise.h"
#include "kernels/quantise/sm90a_job.h"

namespace rorqual::quantise_sm90a_detail {
namespace {

using namespace hopper;  // NOLINT: device code is written in it

constexpr int kThreads = 256, kWarps = kThreads / kWarp, kTile = 128;
// Shared memory: the warps' largest magnitudes, the scales, the codes.
constexpr uint32_t kScalesAt = kWarps * kTile * 4, kCodesAt = kScalesAt + 1024, kSharedBytes = kCodesAt + kTile * kTile;

template <class X>
inline constexpr bool kCoded = std::is_same_v<X, E4M3> || std::is_same_v<X, E5M2> || std::is_same_v<X, E5M6>;

// What of a row of the tile one thread holds, as it is stored: kWide consecutive values, 16 bytes (12 of E5M6).
struct PlainPiece {
  uint32_t w[4];
};
template <class X>
struct Held {
  static constexpr int kWide = kChunk<X>;
  using Type = PlainPiece;
};
template <>
struct Held<E4M3> {
  static constexpr int kWide = 16;
  using Type = Codes<E4M3, kWide>;
};
template <>
struct Held<E5M6> {
  static constexpr int kWide = 8;
  using Type = Codes<E5M6, kWide>;
};

// A warp holds 16 rows of the tile: kLanes lanes side by side, kRows consecutive rows each.
template <class X>
struct Layout {
  static constexpr int kWide = Held<X>::kWide, kLanes = kTile / kWide, kRows = 64 / kWide;
  HOPPER_DEVICE static int column() { return lane_index() % kLanes * kWide; }
  HOPPER_DEVICE static int row() { return warp_index() * 16 + lane_index() / kLanes * kRows; }
};

template <class X>
HOPPER_DEVICE typename Held<X>::Type load_piece(const uint8_t* row, int column, int valid) {
  constexpr int kWide = Held<X>::kWide;
  if constexpr (kCoded<X>) {
    return load_codes<X, kWide>(row + code_bytes<X>(column), valid);
  } else {
    PlainPiece piece = {};
    const X* p = reinterpret_cast<const X*>(row) + column;
    if (valid == kWide) {
      const auto words = load_once(reinterpret_cast<const Words4*>(p));
      HOPPER_UNROLL
      for (int i = 0; i < 4; ++i) piece.w[i] = words.w[i];
      return piece;
    }
    HOPPER_UNROLL
    for (int i = 0; i < kWide; ++i) {
      const float value = i < valid ? load_value(p + i) : 0.0f;
      piece.w[i * 4 / kWide] |= kWide == 4 ? float_to_bits(value) : float_to_bits(value) >> 16 << (16 * (i % 2));
    }
    return piece;
  }
}
// Values 4k to 4k + 3 of a piece.
template <class X>
HOPPER_DEVICE void four_values(float (&x)[4], const typename Held<X>::Type& piece, int k, float scale) {
  HOPPER_UNROLL
  for (int i = 0; i < 4; i += 2) {
    if constexpr (kCoded<X>) {
      decode_pair(x + i, piece, 4 * k + i);
      x[i] *= scale;
      x[i + 1] *= scale;
    } else if constexpr (std::is_same_v<X, float>) {
      x[i] = bits_to_float(piece.w[i]);
      x[i + 1] = bits_to_float(piece.w[i + 1]);
    } else {
      x[i] = bf16_low(piece.w[2 * k + i / 2]);
      x[i + 1] = bf16_high(piece.w[2 * k + i / 2]);
    }
  }
}

// The rows of the tile that this thread holds, and their scales.
template <class X>
struct Rows {
  static constexpr int kRows = Layout<X>::kRows, kWide = Layout<X>::kWide;
  typename Held<X>::Type piece[kRows];
  float scale[kCoded<X> ? kRows : 1];

  HOPPER_DEVICE Rows(const ColumnProblem& problem, int row, int column) {
    const int left = problem.cols - column, there = left < 0 ? 0 : left < kWide ? left : kWide;
    HOPPER_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const int valid = row + r < problem.rows ? there : 0;
      piece[r] = load_piece<X>(problem.x + (row + r) * problem.x_row_bytes, column, valid);
      if constexpr (kCoded<X>)
        scale[r] = valid > 0 ? load(problem.x_scales + (row + r) * problem.x_scales_stride + column / kGroup) : 0.0f;
    }
  }
  // Makes the compiler decode again what it decoded before, instead of keeping 64 values in registers.
  HOPPER_DEVICE void decode_again() {
    HOPPER_UNROLL
    for (int r = 0; r < kRows; ++r) keep(piece[r].w);
  }
  HOPPER_DEVICE void values(float (&x)[4], int r, int k) const { four_values<X>(x, piece[r], k, kCoded<X> ? scale[r] : 1.0f); }
};

// The largest magnitudes of the thread's columns over the rows of its warp, to amax[warp][128].
template <class X>
HOPPER_DEVICE void warp_amax(const Rows<X>& rows, uint32_t* amax) {
  using L = Layout<X>;
  uint32_t* mine = amax + warp_index() * kTile + L::column();
  HOPPER_UNROLL
  for (int k = 0; k < L::kWide / 4; ++k) {
    uint32_t largest[4] = {};
    HOPPER_UNROLL
    for (int r = 0; r < L::kRows; ++r) {
      float x[4];
      rows.values(x, r, k);
      HOPPER_UNROLL
      for (int i = 0; i < 4; ++i) largest[i] = larger(largest[i], magnitude_bits(x[i]));
    }
    HOPPER_UNROLL
    for (int mask = L::kLanes; mask < kWarp; mask *= 2) {
      HOPPER_UNROLL
      for (int i = 0; i < 4; ++i) largest[i] = larger(largest[i], shuffle_xor(largest[i], mask));
    }
    if (lane_index() < L::kLanes)
      *reinterpret_cast<Words4*>(mine + 4 * k) = Words4{{largest[0], largest[1], largest[2], largest[3]}};
  }
}

// Threads 0 to 127: the scale of a column, to shared memory and to its place.
template <class Code, ScaleRule kRule>
HOPPER_DEVICE void write_scales(const ColumnProblem& problem, int row, int column, const uint32_t* amax, float* scales) {
  const int c = thread_index();
  if (c >= kTile) return;
  uint32_t largest = 0;
  HOPPER_UNROLL
  for (int w = 0; w < kWarps; ++w) largest = larger(largest, amax[w * kTile + c]);
  const float scale = scale_of(bits_to_float(largest), Code::kLargest, kRule);
  scales[c] = scale;
  if (column + c < problem.cols) problem.scales[row / kGroup * problem.scales_stride + column + c] = scale;
}

// Where byte `at` of a line of 128 lies in the tile of codes: 16-byte chunks are exchanged, so that lanes that write to lines
// kWide apart, or read chunks of a line, meet different banks.
template <int kWide>
HOPPER_DEVICE int code_at(int line, int at) {
  return line * kTile + (at ^ (line / kWide % 8 * 16));
}

// The transpose of 4×4 bytes: byte j of word i to byte i of word j.
HOPPER_DEVICE void transpose_bytes(uint32_t (&w)[4]) {
  const uint32_t a = (w[0] & 0x00ff00ffu) | (w[1] & 0x00ff00ffu) << 8, b = (w[0] >> 8 & 0x00ff00ffu) | (w[1] & 0xff00ff00u);
  const uint32_t c = (w[2] & 0x00ff00ffu) | (w[3] & 0x00ff00ffu) << 8, d = (w[2] >> 8 & 0x00ff00ffu) | (w[3] & 0xff00ff00u);
  w[0] = (a & 0xffffu) | c << 16;
  w[1] = (b & 0xffffu) | d << 16;
  w[2] = a >> 16 | (c & 0xffff0000u);
  w[3] = b >> 16 | (d & 0xffff0000u);
}

// The thread's codes to the tile in shared memory, [128 rows][128] or [128 columns][128].
template <class X, class Code, ScaleRule kRule>
HOPPER_DEVICE void write_codes(const Rows<X>& rows, const float* scales, bool transposed, uint8_t* codes) {
  using L = Layout<X>;
  const int row = L::row();
  HOPPER_UNROLL
  for (int k = 0; k < L::kWide / 4; ++k) {
    const int column = L::column() + 4 * k;
    const Float4 scale = *reinterpret_cast<const Float4*>(scales + column);
    const GroupDivision<kRule> division[4] = {GroupDivision<kRule>(scale.v[0]), GroupDivision<kRule>(scale.v[1]),
                                              GroupDivision<kRule>(scale.v[2]), GroupDivision<kRule>(scale.v[3])};
    uint32_t finite = 0;  // columns that are not have codes 0
    HOPPER_UNROLL
    for (int i = 0; i < 4; ++i) finite |= scale.v[i] == scale.v[i] ? 0xffu << (8 * i) : 0u;
    HOPPER_UNROLL
    for (int first = 0; first < L::kRows; first += 4) {
      uint32_t words[4];
      HOPPER_UNROLL
      for (int r = 0; r < 4; ++r) {
        float x[4];
        rows.values(x, first + r, k);
        HOPPER_UNROLL
        for (int i = 0; i < 4; ++i) x[i] = division[i](x[i]);
        encode<Code, 4>(&words[r], x);
        words[r] &= finite;
      }
      if (transposed) transpose_bytes(words);
      HOPPER_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int at = transposed ? code_at<L::kWide>(column + i, row + first) : code_at<L::kWide>(row + first + i, column);
        *reinterpret_cast<uint32_t*>(codes + at) = words[i];
      }
    }
  }
}

// The tile to its place: lines [0, lines) of `bytes` each, as far as they are there.
template <int kWide>
HOPPER_DEVICE void copy_out(const uint8_t* codes, uint8_t* to, int64_t stride, int lines, int bytes) {
  HOPPER_UNROLL
  for (int i = 0; i < kTile * kTile / 16 / kThreads; ++i) {
    const int item = i * kThreads + thread_index(), line = item / 8, at = item % 8 * 16;
    if (line >= lines || at >= bytes) continue;
    const uint8_t* from = codes + code_at<kWide>(line, at);
    uint8_t* p = to + line * stride + at;
    if (at + 16 <= bytes) {
      store_once(reinterpret_cast<Words4*>(p), *reinterpret_cast<const Words4*>(from));
    } else {
      for (int b = 0; b < bytes - at; ++b) p[b] = from[b];
    }
  }
}

// The problem of a tile: the last that begins at it or before.
HOPPER_DEVICE const ColumnProblem& problem_of(const ColumnsJob& job, int tile) {
  int low = 0, high = job.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (job.problems[middle].first_tile <= tile)
      low = middle;
    else
      high = middle;
  }
  return job.problems[low];
}

template <class X, class Code, ScaleRule kRule>
HOPPER_KERNEL_BLOCKS(kThreads, (std::is_same_v<X, float> ? 2 : 3))
void columns_kernel(HOPPER_PARAMETER ColumnsJob job) {
  const ColumnProblem& problem = problem_of(job, block_index());
  const int across = (problem.cols + kTile - 1) / kTile, tile = block_index() - problem.first_tile;
  const int row = tile / across * kTile, column = tile % across * kTile;
  auto* amax = reinterpret_cast<uint32_t*>(shared_memory());
  auto* scales = reinterpret_cast<float*>(shared_memory() + kScalesAt);
  uint8_t* codes = shared_memory() + kCodesAt;

  Rows<X> rows(problem, row + Layout<X>::row(), column + Layout<X>::column());
  warp_amax(rows, amax);
  sync_threads();
  write_scales<Code, kRule>(problem, row, column, amax, scales);
  sync_threads();
  rows.decode_again();
  write_codes<X, Code, kRule>(rows, scales, job.transposed, codes);
  sync_threads();
  const int high = problem.rows - row, wide = problem.cols - column;
  if (job.transposed)
    copy_out<Held<X>::kWide>(codes, problem.codes + column * problem.codes_stride + row, problem.codes_stride, wide, high);
  else
    copy_out<Held<X>::kWide>(codes, problem.codes + row * problem.codes_stride + column, problem.codes_stride, high, wide);
}

template <class X, class Code>
void launch_by_rule(const ColumnsJob& job, ScaleRule rule, DeviceStream stream) {
  const LaunchShape shape{.blocks = static_cast<uint32_t>(job.tiles), .threads = kThreads, .shared_bytes = kSharedBytes};
  if (rule == ScaleRule::kPow2)
    HOPPER_LAUNCH((columns_kernel<X, Code, ScaleRule::kPow2>), shape, stream, job);
  else
    HOPPER_LAUNCH((columns_kernel<X, Code, ScaleRule::kFp32>), shape, stream, job);
}
template <class X>
void launch_by_code(const ColumnsJob& job, Format code, ScaleRule rule, DeviceStream stream) {
  if (code == Format::kE4M3) return launch_by_rule<X, E4M3>(job, rule, stream);
  if (code == Format::kE5M2) return launch_by_rule<X, E5M2>(job, rule, stream);
  launch_failed("requantise_columns", "no type of eight bits");
}

}  // namespace

void launch_columns(const ColumnsJob& job, Format x, Format code, ScaleRule rule, DeviceStream stream) {
  switch (x) {
    case Format::kF32:
      return launch_by_code<float>(job, code, rule, stream);
    case Format::kBF16:
      return launch_by_code<Bf16>(job, code, rule, stream);
    case Format::kE4M3:
      return launch_by_code<E4M3>(job, code, rule, stream);
    case Format::kE5M6:
      return launch_by_code<E5M6>(job, code, rule, stream);
    default:
      launch_failed("requantise_columns", "no kernel for this type");
  }
}

}  // namespace rorqual::quantise_sm90a_detail
