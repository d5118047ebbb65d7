// AdamW: every element is read and written once. Plain tensors are cut into pieces of 8192 elements, a block each; weights with
// coded copies into tiles of 128×128, whose new values stay on the chip until the tile's scale is known.
#include "hopper/device.h"
#include "kernels/adamw/sm90a_job.h"
#include "kernels/common/sm90a_quantise.h"

namespace rorqual::adamw_sm90a_detail {
namespace {

using namespace hopper;  // NOLINT: the language of device code

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kBatch = 2;  // groups of four elements whose loads are in flight together

// Four consecutive elements of a tensor.
struct Four {
  Float4 w, g, m, v;
};

template <bool kBf16>
HOPPER_DEVICE Float4 read_moments(const void* from, int64_t at) {
  if constexpr (!kBf16) return *reinterpret_cast<const Float4*>(static_cast<const float*>(from) + at);
  const Words2 words = *reinterpret_cast<const Words2*>(static_cast<const uint16_t*>(from) + at);
  return {{bf16_low(words.w[0]), bf16_high(words.w[0]), bf16_low(words.w[1]), bf16_high(words.w[1])}};
}
template <bool kBf16>
HOPPER_DEVICE void write_moments(void* to, int64_t at, const Float4& x) {
  if constexpr (kBf16)
    store_once(reinterpret_cast<Words2*>(static_cast<uint16_t*>(to) + at),
               Words2{{to_bf16x2(x.v[0], x.v[1]), to_bf16x2(x.v[2], x.v[3])}});
  else
    store_once(reinterpret_cast<Float4*>(static_cast<float*>(to) + at), x);
}

template <bool kM, bool kV>
HOPPER_DEVICE Four read_four(const Entry& t, int64_t at) {
  return {*reinterpret_cast<const Float4*>(t.w + at), load_once(reinterpret_cast<const Float4*>(t.g + at)),
          read_moments<kM>(t.m, at), read_moments<kV>(t.v, at)};
}
template <bool kM, bool kV>
HOPPER_DEVICE void write_four(const Entry& t, int64_t at, const Four& x) {
  store_once(reinterpret_cast<Float4*>(t.w + at), x.w);
  write_moments<kM>(t.m, at, x.m);
  write_moments<kV>(t.v, at, x.v);
}

// One element, in the order of the scalar truth; nothing is fused.
HOPPER_DEVICE void update(const Constants& c, float keep, float g, float& w, float& m, float& v) {
  const float gradient = g * c.grad_scale;
  m = c.beta1 * m + c.rest1 * gradient;
  v = c.beta2 * v + c.rest2 * (gradient * gradient);
  const float denominator = square_root(v) * c.inverse_root_c2 + c.eps;
  w = w * keep - divide(c.step_size * m, denominator);
}
HOPPER_DEVICE void update(const Constants& c, float keep, Four& x) {
  HOPPER_UNROLL
  for (int i = 0; i < 4; ++i) update(c, keep, x.g.v[i], x.w.v[i], x.m.v[i], x.v.v[i]);
}

// Calls body<m is BF16, v is BF16>().
template <class Body>
HOPPER_DEVICE void by_type(const Entry& t, const Body& body) {
  if (t.m_bf16 && t.v_bf16)
    body.template operator()<true, true>();
  else if (t.m_bf16)
    body.template operator()<true, false>();
  else if (t.v_bf16)
    body.template operator()<false, true>();
  else
    body.template operator()<false, false>();
}

// The last entry that begins at this block or before.
template <class Job>
HOPPER_DEVICE int entry_of_block(const Job& job, int block) {
  const auto first_block = [&](int i) {
    if constexpr (requires { job.entry[i].entry; })
      return job.entry[i].entry.first_block;
    else
      return job.entry[i].first_block;
  };
  int low = 0, high = job.entries - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (first_block(middle) <= block)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

template <bool kM, bool kV>
HOPPER_DEVICE void update_piece(const Constants& c, const Entry& t, int64_t begin, int64_t end) {
  constexpr int kStep = kThreads * 4;
  const int64_t whole = end - end % 4;
  HOPPER_NO_UNROLL
  for (int64_t at = begin + thread_index() * 4; at < whole; at += kBatch * kStep) {
    Four x[kBatch];
    HOPPER_UNROLL
    for (int i = 0; i < kBatch; ++i)
      if (at + i * kStep < whole) x[i] = read_four<kM, kV>(t, at + i * kStep);
    HOPPER_UNROLL
    for (int i = 0; i < kBatch; ++i) {
      if (at + i * kStep >= whole) break;
      update(c, t.keep, x[i]);
      write_four<kM, kV>(t, at + i * kStep, x[i]);
    }
  }
  const int64_t at = whole + thread_index();
  if (at >= end) return;
  const auto value = [](const void* from, int64_t i, bool bf16) {
    return bf16 ? from_bf16(static_cast<const uint16_t*>(from)[i]) : static_cast<const float*>(from)[i];
  };
  const auto put = [](void* to, int64_t i, bool bf16, float x) {
    if (bf16)
      static_cast<uint16_t*>(to)[i] = to_bf16(x);
    else
      static_cast<float*>(to)[i] = x;
  };
  float w = t.w[at], m = value(t.m, at, kM), v = value(t.v, at, kV);
  update(c, t.keep, t.g[at], w, m, v);
  t.w[at] = w;
  put(t.m, at, kM, m);
  put(t.v, at, kV, v);
}

HOPPER_KERNEL_BLOCKS(kThreads, 3)
void adamw_kernel(HOPPER_PARAMETER Job job) {
  const Entry& t = job.entry[entry_of_block(job, block_index())];
  const int64_t begin = static_cast<int64_t>(block_index() - t.first_block) * kPieceElements;
  const int64_t end = begin + kPieceElements < t.count ? begin + kPieceElements : t.count;
  by_type(t, [&]<bool kM, bool kV>() { update_piece<kM, kV>(job.constants, t, begin, end); });
}

// ---- Tiles of 128×128: warp i has rows 16·i to 16·i + 15, lane j columns 4·j to 4·j + 3. Shared memory holds the new weights,
// each read only by the lane that wrote it, then the codes transposed.

constexpr int kRows = kTile / kWarps, kTileBytes = kTile * kTile * 4;

struct TilePlace {
  int row, column;  // of the lane's first element in the weight
  int rows;         // of the warp's 16 that the weight has
};

// Updates the tile and leaves the lane's new weights in `w`, a row of the tile apart, 0 beyond the matrix; returns their
// largest magnitude, in bits.
template <bool kM, bool kV>
HOPPER_DEVICE uint32_t update_tile(const Constants& c, const CodedEntry& t, const TilePlace& place, Float4* w) {
  const bool inside = place.column < t.k;
  uint32_t amax = 0;
  HOPPER_NO_UNROLL
  for (int row = 0; row < kRows; row += kBatch) {
    Four x[kBatch] = {};
    const auto at = [&](int i) { return static_cast<int64_t>(place.row + row + i) * t.k + place.column; };
    HOPPER_UNROLL
    for (int i = 0; i < kBatch; ++i)
      if (inside && row + i < place.rows) x[i] = read_four<kM, kV>(t.entry, at(i));
    HOPPER_UNROLL
    for (int i = 0; i < kBatch; ++i) {
      if (inside && row + i < place.rows) {
        update(c, t.entry.keep, x[i]);
        write_four<kM, kV>(t.entry, at(i), x[i]);
      }
      w[(row + i) * (kTile / 4)] = x[i].w;
      HOPPER_UNROLL
      for (int j = 0; j < 4; ++j) amax = larger(amax, magnitude_bits(x[i].w.v[j]));
    }
  }
  return amax;
}

// The largest of all threads' values, in every thread.
HOPPER_DEVICE uint32_t block_maximum(uint32_t mine, uint32_t* of_warps) {
  mine = warp_maximum(mine);
  const int warp = warp_index();
  if (lane_index() == 0) of_warps[warp] = mine;
  sync_threads();
  HOPPER_UNROLL
  for (int i = 0; i < kWarps; ++i) mine = larger(mine, of_warps[i]);
  return mine;
}

// Byte i of four words as a word.
HOPPER_DEVICE uint32_t column_of(const uint32_t* rows, int i) {
  const auto byte = [&](int row) { return (rows[row] >> (8 * i) & 0xffu) << (8 * row); };
  return byte(0) | byte(1) | byte(2) | byte(3);
}

// Where the 16 bytes of rows 16·chunk… of a column lie in shared memory: lanes that write four columns apart, and lanes that
// read a column's chunks, take different banks.
HOPPER_DEVICE int transposed_place(int column, int chunk) {
  return column * kTile + ((chunk ^ (column / 4 % 8)) * 16);
}

// codes[r]: of row r of the warp's 16, the lane's four columns.
HOPPER_DEVICE void store_transposed(const CodedEntry& t, const TilePlace& place, const uint32_t (&codes)[kRows],
                                    uint8_t* tile) {
  sync_threads();  // all have read their weights
  HOPPER_UNROLL
  for (int i = 0; i < 4; ++i)
    *reinterpret_cast<Words4*>(tile + transposed_place(lane_index() * 4 + i, warp_index())) = {
        {column_of(codes, i), column_of(codes + 4, i), column_of(codes + 8, i), column_of(codes + 12, i)}};
  sync_threads();
  const int first_row = place.row - warp_index() * kRows, first_column = place.column - lane_index() * 4;
  HOPPER_UNROLL
  for (int i = 0; i < kTile * kTile / 16 / kThreads; ++i) {
    const int piece = i * kThreads + thread_index(), column = piece / 8, chunk = piece % 8;
    if (first_column + column >= t.k || first_row + chunk * 16 >= t.n) continue;
    store_once(reinterpret_cast<Words4*>(t.transposed + (first_column + column) * t.transposed_stride + first_row + chunk * 16),
               *reinterpret_cast<const Words4*>(tile + transposed_place(column, chunk)));
  }
}

template <ScaleRule kRule>
HOPPER_DEVICE void encode_tile(const CodedEntry& t, const TilePlace& place, const Float4* w, float scale, uint8_t* tile) {
  const GroupDivision<kRule> division(scale);
  const uint32_t finite = scale == scale ? ~0u : 0u;  // a tile that is not has codes 0
  uint32_t codes[kRows];
  HOPPER_UNROLL
  for (int row = 0; row < kRows; ++row) {
    const Float4 four = w[row * (kTile / 4)];
    float x[4];
    HOPPER_UNROLL
    for (int i = 0; i < 4; ++i) x[i] = division(four.v[i]);
    encode<E4M3, 4>(&codes[row], x);
    codes[row] &= finite;
    if (t.codes != nullptr && place.column < t.k && row < place.rows)
      store_once(reinterpret_cast<uint32_t*>(t.codes + (place.row + row) * t.codes_stride + place.column), codes[row]);
  }
  if (t.transposed != nullptr) store_transposed(t, place, codes, tile);
}

HOPPER_KERNEL_BLOCKS(kThreads, 3)
void adamw_coded_kernel(HOPPER_PARAMETER CodedJob job) {
  uint8_t* tile = shared_memory();
  auto* amax_of_warps = reinterpret_cast<uint32_t*>(tile + kTileBytes);
  const CodedEntry& t = job.entry[entry_of_block(job, block_index())];
  const int across = (t.k + kTile - 1) / kTile, block = block_index() - t.entry.first_block;
  const int tile_row = block / across, tile_column = block % across;
  const int row = tile_row * kTile + warp_index() * kRows;
  const TilePlace place{row, tile_column * kTile + lane_index() * 4, t.n - row < kRows ? t.n - row : kRows};

  Float4* w = reinterpret_cast<Float4*>(tile) + warp_index() * kRows * (kTile / 4) + lane_index();
  uint32_t amax = 0;
  by_type(t.entry, [&]<bool kM, bool kV>() { amax = update_tile<kM, kV>(job.constants, t, place, w); });
  const float scale = scale_of(bits_to_float(block_maximum(amax, amax_of_warps)), E4M3::kLargest, t.rule);
  if (thread_index() == 0) {
    if (t.codes != nullptr) t.scales[tile_row * t.scales_stride + tile_column] = scale;
    if (t.transposed != nullptr) t.transposed_scales[tile_column * t.transposed_scales_stride + tile_row] = scale;
  }
  if (t.rule == ScaleRule::kPow2)
    encode_tile<ScaleRule::kPow2>(t, place, w, scale, tile);
  else
    encode_tile<ScaleRule::kFp32>(t, place, w, scale, tile);
}

}  // namespace

void launch(const Job& job, int blocks, DeviceStream stream) {
  HOPPER_LAUNCH(adamw_kernel, (LaunchShape{.blocks = static_cast<uint32_t>(blocks), .threads = kThreads}), stream, job);
}
void launch(const CodedJob& job, int blocks, DeviceStream stream) {
  const LaunchShape shape{
      .blocks = static_cast<uint32_t>(blocks), .threads = kThreads, .shared_bytes = kTileBytes + kWarps * sizeof(uint32_t)};
  HOPPER_LAUNCH(adamw_coded_kernel, shape, stream, job);
}

}  // namespace rorqual::adamw_sm90a_detail
