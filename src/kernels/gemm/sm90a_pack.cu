// Weights into rows: a block reads a tile of 128×128 once, chooses its scale (E4M3), and writes it to both copies, the
// transposed one by way of shared memory.
//
// A warp holds 16 rows, a lane 16 rows by 4 columns of them in registers. In the packed copy a lane's 4 columns of a row are
// contiguous, in the transposed copy its 16 rows of a column; both go to shared memory as they will lie in global memory and
// leave from there in pieces of 16 bytes, whole rows of 128 elements together.
#include <type_traits>

#include "hopper/device.h"
#include "hopper/launch.h"
#include "kernels/gemm/sm90a_pack_job.h"
#include "numerics/fp8.h"

namespace rorqual::gemm {
namespace {

using namespace hopper;

constexpr int kTile = kPackTile, kWarps = 8, kThreads = kWarps * kWarp;
constexpr int kRows = kTile / kWarps, kColumns = kTile / kWarp;  // a lane's: 16×4
static_assert(kRows == 16 && kColumns == 4);

template <PackTo kTo>
constexpr int kBytes = kTo == PackTo::kE4M3   ? 1
                       : kTo == PackTo::kBF16 ? 2
                                              : 4;  // of an element

// Tiles of both copies as rows of kTile elements. The 16-byte pieces of a row are permuted by `turn`, so that lanes that write
// pieces of different rows at once use different banks.
template <PackTo kTo>
constexpr int kTileBytes = kTile* kTile* kBytes<kTo>;
template <PackTo kTo>
HOPPER_DEVICE uint8_t* piece_of(uint8_t* tile, int row, int piece, int turn) {
  return tile + row * (kTile * kBytes<kTo>)+(piece ^ (turn & 7)) * 16;
}

// The entry that `tile` belongs to.
HOPPER_DEVICE const PackEntry& entry_of(const PackJob& job, int tile) {
  int low = 0, high = job.entries;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (job.entry[middle].first_tile <= tile)
      low = middle;
    else
      high = middle;
  }
  return job.entry[low];
}

template <PackFrom kFrom>
using Source = std::conditional_t<kFrom == PackFrom::kF32, float, uint16_t>;

HOPPER_DEVICE void load_four(float (&x)[kColumns], const float* from) {
  const Float4 v = load_once(reinterpret_cast<const Float4*>(from));
  HOPPER_UNROLL
  for (int i = 0; i < kColumns; ++i) x[i] = v.v[i];
}
HOPPER_DEVICE void load_four(float (&x)[kColumns], const uint16_t* from) {
  const Words2 v = load_once(reinterpret_cast<const Words2*>(from));
  HOPPER_UNROLL
  for (int i = 0; i < kColumns; ++i) x[i] = i % 2 == 0 ? bf16_low(v.w[i / 2]) : bf16_high(v.w[i / 2]);
}
HOPPER_DEVICE float load_one(const float* from) {
  return load(from);
}
HOPPER_DEVICE float load_one(const uint16_t* from) {
  return from_bf16(load(from));
}

// A lane's part of the tile at (row, column), zeros behind the weight's edges.
template <PackFrom kFrom>
HOPPER_DEVICE void load_tile(float (&x)[kRows][kColumns], const PackEntry& entry, int row, int column) {
  const bool whole = row + kTile <= entry.rows && column + kTile <= entry.cols;
  row += warp_index() * kRows;
  column += lane_index() * kColumns;
  const Source<kFrom>* from = static_cast<const Source<kFrom>*>(entry.source) + row * entry.stride + column;
  if (whole && entry.wide_source) {
    HOPPER_UNROLL
    for (int r = 0; r < kRows; ++r) load_four(x[r], from + r * entry.stride);
    return;
  }
  HOPPER_UNROLL
  for (int r = 0; r < kRows; ++r, from += entry.stride) {
    HOPPER_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      x[r][c] = 0;
      if (row + r < entry.rows && column + c < entry.cols) x[r][c] = load_one(from + c);
    }
  }
}

// The bits of the block's largest magnitude.
HOPPER_DEVICE uint32_t block_amax(const float (&x)[kRows][kColumns]) {
  auto* of_warps = reinterpret_cast<uint32_t*>(shared_memory());
  const int warp = warp_index();
  uint32_t largest = 0;
  const auto larger = [&](uint32_t bits) { largest = bits > largest ? bits : largest; };
  HOPPER_UNROLL
  for (int r = 0; r < kRows; ++r) {
    HOPPER_UNROLL
    for (int c = 0; c < kColumns; ++c) larger(float_to_bits(x[r][c]) & 0x7fffffffu);
  }
  HOPPER_UNROLL
  for (int step = kWarp / 2; step > 0; step /= 2) larger(shuffle_xor(largest, step));
  if (lane_index() == 0) of_warps[warp] = largest;
  sync_threads();
  HOPPER_UNROLL
  for (int w = 0; w < kWarps; ++w) larger(of_warps[w]);
  sync_threads();  // the tiles' memory is free again
  return largest;
}

HOPPER_DEVICE float scale_of_block(const PackEntry& entry, uint32_t amax_bits) {
  const bool own = !(entry.tensor_amax > 0) || amax_bits >= 0x7f800000u;
  return scale_of(own ? bits_to_float(amax_bits) : entry.tensor_amax, E4M3::kLargest, entry.rule);
}

// The codes' arguments; all zero if the block holds a NaN or an infinity.
HOPPER_DEVICE void divide_by_scale(float (&x)[kRows][kColumns], float scale, ScaleRule rule) {
  const bool finite = scale == scale;
  const float inverse = divide(1.0f, scale);  // exact for powers of two, and the product is rounded as the quotient
  HOPPER_UNROLL
  for (int r = 0; r < kRows; ++r) {
    HOPPER_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      const float quotient = rule == ScaleRule::kPow2 ? x[r][c] * inverse : divide(x[r][c], scale);
      x[r][c] = finite ? quotient : 0.0f;
    }
  }
}

// Two elements, the first in the low bits; or one (F32).
template <PackTo kTo>
HOPPER_DEVICE uint32_t to_element(float first, float second) {
  if constexpr (kTo == PackTo::kE4M3) return to_e4m3x2(first, second);
  if constexpr (kTo == PackTo::kBF16) return to_bf16x2(first, second);
  return float_to_bits(first);
}

// A lane's tile in rows to shared memory.
template <PackTo kTo>
HOPPER_DEVICE void write_packed(uint8_t* tile, const float (&x)[kRows][kColumns]) {
  HOPPER_UNROLL
  for (int r = 0; r < kRows; ++r) {
    const int row = warp_index() * kRows + r, byte = lane_index() * kColumns * kBytes<kTo>;
    uint8_t* to = piece_of<kTo>(tile, row, byte / 16, 0) + byte % 16;
    if constexpr (kTo == PackTo::kE4M3) {
      *reinterpret_cast<uint32_t*>(to) = to_element<kTo>(x[r][0], x[r][1]) | to_element<kTo>(x[r][2], x[r][3]) << 16;
    } else if constexpr (kTo == PackTo::kBF16) {
      *reinterpret_cast<Words2*>(to) = {{to_element<kTo>(x[r][0], x[r][1]), to_element<kTo>(x[r][2], x[r][3])}};
    } else {
      *reinterpret_cast<Float4*>(to) = {{x[r][0], x[r][1], x[r][2], x[r][3]}};
    }
  }
}

// Its transpose: a column's 16 rows are kBytes pieces of 16 bytes.
template <PackTo kTo>
HOPPER_DEVICE void write_transposed(uint8_t* tile, const float (&x)[kRows][kColumns]) {
  constexpr int kPerPiece = 16 / kBytes<kTo>;
  HOPPER_UNROLL
  for (int c = 0; c < kColumns; ++c) {
    HOPPER_UNROLL
    for (int piece = 0; piece < kBytes<kTo>; ++piece) {
      Words4 words;
      HOPPER_UNROLL
      for (int w = 0; w < 4; ++w) {
        const int r = piece * kPerPiece + w * (kPerPiece / 4);
        if constexpr (kTo == PackTo::kE4M3)
          words.w[w] = to_element<kTo>(x[r][c], x[r + 1][c]) | to_element<kTo>(x[r + 2][c], x[r + 3][c]) << 16;
        else
          words.w[w] = to_element<kTo>(x[r][c], x[kTo == PackTo::kBF16 ? r + 1 : r][c]);
      }
      *reinterpret_cast<Words4*>(
          piece_of<kTo>(tile, lane_index() * kColumns + c, warp_index() * kBytes<kTo> + piece, lane_index())) = words;
    }
  }
}

// A tile of shared memory to the block at (row, column) of a copy [rows, cols].
template <PackTo kTo>
HOPPER_DEVICE void store_tile(uint8_t* tile, void* copy, int rows, int cols, int row, int column, bool wide, int turn_shift) {
  constexpr int kPieces = kTile * kBytes<kTo> / 16, kPerPiece = 16 / kBytes<kTo>;
  HOPPER_UNROLL
  for (int i = thread_index(); i < kTile * kPieces; i += kThreads) {
    const int r = i / kPieces, piece = i % kPieces, c = column + piece * kPerPiece;
    if (row + r >= rows || c >= cols) continue;
    const uint8_t* from = piece_of<kTo>(tile, r, piece, turn_shift < 0 ? 0 : r >> turn_shift);
    uint8_t* to = static_cast<uint8_t*>(copy) + (static_cast<int64_t>(row + r) * cols + c) * kBytes<kTo>;
    if (wide) {
      store_once(reinterpret_cast<Words4*>(to), *reinterpret_cast<const Words4*>(from));
    } else {
      const int count = cols - c < kPerPiece ? cols - c : kPerPiece;
      for (int byte = 0; byte < count * kBytes<kTo>; ++byte) to[byte] = from[byte];
    }
  }
}

template <PackFrom kFrom, PackTo kTo>
HOPPER_KERNEL_BLOCKS(kThreads, kTo == PackTo::kF32 ? 1 : 2)
void pack_kernel(HOPPER_PARAMETER PackJob job) {
  const PackEntry& entry = entry_of(job, block_index());
  const int groups = (entry.cols + kTile - 1) / kTile, place = block_index() - entry.first_tile;
  const int row = place / groups * kTile, column = place % groups * kTile;

  float x[kRows][kColumns];
  load_tile<kFrom>(x, entry, row, column);
  if constexpr (kTo == PackTo::kE4M3) {
    const float scale = scale_of_block(entry, block_amax(x));
    if (thread_index() == 0) {
      const int row_groups = (entry.rows + kTile - 1) / kTile;
      if (entry.packed != nullptr) entry.packed_scale[place] = scale;
      if (entry.transposed != nullptr)
        entry.transposed_scale[static_cast<int64_t>(column / kTile) * row_groups + row / kTile] = scale;
    }
    divide_by_scale(x, scale, entry.rule);
  }

  uint8_t* packed = shared_memory();
  uint8_t* transposed = packed + kTileBytes<kTo>;
  if (entry.packed != nullptr) write_packed<kTo>(packed, x);
  if (entry.transposed != nullptr) write_transposed<kTo>(transposed, x);
  sync_threads();
  if (entry.packed != nullptr)
    store_tile<kTo>(packed, entry.packed, entry.rows, entry.cols, row, column, entry.wide_packed, -1);
  if (entry.transposed != nullptr)
    store_tile<kTo>(transposed, entry.transposed, entry.cols, entry.rows, column, row, entry.wide_transposed, 2);
}

template <PackFrom kFrom, PackTo kTo>
void launch(const PackJob& job, void* stream) {
  HOPPER_LAUNCH(
      (pack_kernel<kFrom, kTo>),
      LaunchShape{.blocks = static_cast<uint32_t>(job.tiles), .threads = kThreads, .shared_bytes = 2 * kTileBytes<kTo>}, stream,
      job);
}

}  // namespace

void launch_pack(PackFrom from, PackTo to, const PackJob& job, void* stream) {
  const bool wide = from == PackFrom::kF32;
  if (to == PackTo::kE4M3)
    wide ? launch<PackFrom::kF32, PackTo::kE4M3>(job, stream) : launch<PackFrom::kBF16, PackTo::kE4M3>(job, stream);
  else if (to == PackTo::kBF16)
    wide ? launch<PackFrom::kF32, PackTo::kBF16>(job, stream) : launch<PackFrom::kBF16, PackTo::kBF16>(job, stream);
  else
    wide ? launch<PackFrom::kF32, PackTo::kF32>(job, stream) : launch<PackFrom::kBF16, PackTo::kF32>(job, stream);
}

}  // namespace rorqual::gemm
