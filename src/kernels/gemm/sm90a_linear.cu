// C = A·Bᵀ in E4M3 with scales per 1×128 of A and 128×128 of B: every linear layer's forward and input gradient.
//
// A block computes tiles of C one after another. One warp's thread has the copy engine bring 128 of K of A and B into a ring of
// stages; a warpgroup for each 64 rows multiplies. While one scales its partial sums into FP32, the other keeps the tensor
// cores busy. Scales are read straight from global memory, one step ahead: the four threads of a quad want two rows' scales,
// eight consecutive steps lie in one sector, so the first-level cache serves them and no transposed copy of the scales is
// needed (dispatch sends a token's scales with its codes, as they lie here). C leaves through shared memory by the copy engine,
// beside the next tile's products.
//
// Order of sums: 128 of K on the tensor cores from zero, times (scale of a · scale of b), added in FP32 in ascending steps.
#include "hopper/launch.h"
#include "kernels/gemm/sm90a_linear_job.h"
#include "kernels/gemm/sm90a_pipeline.h"

namespace rorqual::gemm {
namespace {

constexpr int kDepth = 128;  // of K in a stage
constexpr int kOutRows = 16, kOutBoxes = 2;
constexpr uint32_t kOutBytes = kOutRows * 128;  // of a box at most

template <int kRows, int kColumns>
struct Cut {
  static constexpr int kGroups = kRows / 64, kMathWarps = 4 * kGroups, kThreads = kWarpgroup * (1 + kGroups);
  static constexpr uint32_t kBytesA = kRows * kDepth, kBytesB = kColumns * kDepth;
  static constexpr uint32_t kOut = kMathWarps * kOutBoxes * kOutBytes;
  static constexpr int kFit = static_cast<int>((kMostSharedBytes - kOut - 1024) / (kBytesA + kBytesB));
  static constexpr int kStages = kFit < 8 ? kFit : 8;
};

template <int kRows, int kColumns>
struct alignas(1024) LinearShared {
  using C = Cut<kRows, kColumns>;
  uint8_t a[C::kStages][C::kBytesA];  // swizzled
  uint8_t b[C::kStages][C::kBytesB];
  uint8_t out[C::kMathWarps][kOutBoxes][kOutBytes];
  Barrier full[C::kStages];   // an arrival of who asks, and the bytes
  Barrier empty[C::kStages];  // an arrival of each math warp of the cluster
};

struct Tile {
  const LinearJobProblem* problem = nullptr;
  int rows = 0;  // of the problem, in use
  int row = 0, column = 0;
};

// All tiles of all problems in order, this block's every (clusters of the grid)-th. Inside a problem in bands of 16 rows of
// tiles, so that blocks that run together read the same operands.
template <int kRows, int kColumns, Share kShare, int kMost>
class Tiles {
 public:
  HOPPER_DEVICE explicit Tiles(const LinearJob<kMost>& job)
      : job_(job), unit_(block_index() / kCluster), columns_(divided(job.n, kColumns * kUnitColumns)) {}

  HOPPER_DEVICE bool next(Tile& tile) {
    for (; problem_ < job_.problems; ++problem_) {
      const LinearJobProblem& p = job_.problem[problem_];
      const int counted = p.rows_in_use == nullptr ? p.m : load(p.rows_in_use), m = counted < p.m ? counted : p.m;
      const int rows = divided(m, kRows * kUnitRows), place = unit_ - first_;
      if (place < rows * columns_) {
        tile = at(place, rows);
        tile.problem = &p;
        tile.rows = m;
        unit_ += block_count() / kCluster;
        return true;
      }
      first_ += rows * columns_;
    }
    return false;
  }

 private:
  static constexpr int kCluster = cluster_of(kShare);
  static constexpr int kUnitRows = kShare == Share::kB ? 2 : 1, kUnitColumns = kShare == Share::kA ? 2 : 1;
  static constexpr int kBand = 16 / kUnitRows;  // in units: 132 blocks compute 16 by about 8 tiles, which is nearly square
  HOPPER_DEVICE static int divided(int size, int by) { return (size + by - 1) / by; }
  HOPPER_DEVICE Tile at(int place, int rows) const {
    const int top = place / (kBand * columns_) * kBand, within = place % (kBand * columns_);
    const int height = rows - top < kBand ? rows - top : kBand;
    const int rank = kCluster == 1 ? 0 : block_index() % kCluster;
    Tile tile;
    tile.row = ((top + within % height) * kUnitRows + (kUnitRows == 2 ? rank : 0)) * kRows;
    tile.column = (within / height * kUnitColumns + (kUnitColumns == 2 ? rank : 0)) * kColumns;
    return tile;
  }

  const LinearJob<kMost>& job_;
  int unit_, columns_;
  int problem_ = 0, first_ = 0;  // and the number of its first unit
};

// One thread.
template <int kRows, int kColumns, Share kShare, int kMost>
HOPPER_DEVICE void fetch(const LinearJob<kMost>& job, LinearShared<kRows, kColumns>& shared) {
  using C = Cut<kRows, kColumns>;
  Tiles<kRows, kColumns, kShare, kMost> tiles(job);
  Ring<C::kStages> ring;
  Tile tile;
  while (tiles.next(tile)) {
    tma_prefetch(&tile.problem->c);
    for (int k = 0; k < job.k; k += kDepth, ring.next()) {
      wait_until_empty(&shared.empty[ring.stage], ring.parity);
      Barrier* full = &shared.full[ring.stage];
      barrier_arrive_expect(full, C::kBytesA + C::kBytesB);
      fetch_codes<kShare == Share::kA, kRows>(&tile.problem->a, shared.a[ring.stage], full, k, tile.row);
      fetch_codes<kShare == Share::kB, kColumns>(&tile.problem->b, shared.b[ring.stage], full, k, tile.column);
    }
  }
}

// The scales of a step that a thread needs: of its two rows, and of the one or two blocks of 128 columns that a tile touches.
struct Scales {
  float row[2], column[2];
};
template <bool kTwo>
struct ScaleReader {
  const float* row[2];     // null: no such row
  const float* column[2];  // kTwo only: the second
  HOPPER_DEVICE Scales at(int step) const {
    Scales s;
    HOPPER_UNROLL
    for (int i = 0; i < 2; ++i) {
      s.row[i] = row[i] == nullptr ? 0.0f : load(row[i] + step);
      s.column[i] = i == 0 || kTwo ? load(column[i] + step) : 0.0f;
    }
    return s;
  }
};
template <bool kTwo>
HOPPER_DEVICE ScaleReader<kTwo> scales_of(const Tile& tile, int row, int n, int steps) {
  ScaleReader<kTwo> reader;
  const LinearJobProblem& p = *tile.problem;
  HOPPER_UNROLL
  for (int i = 0; i < 2; ++i) reader.row[i] = row + 8 * i < tile.rows ? p.scale_a + (row + 8 * i) * p.scale_a_stride : nullptr;
  const int last = (n - 1) / kDepth, first = tile.column / kDepth < last ? tile.column / kDepth : last;
  reader.column[0] = p.scale_b + static_cast<int64_t>(first) * steps;
  reader.column[1] = p.scale_b + static_cast<int64_t>(first < last ? first + 1 : last) * steps;
  return reader;
}

// sum += partial · scales; columns from 8·split on are those of the second block.
template <int kColumns, bool kTwo>
HOPPER_DEVICE void promote(float (&sum)[kColumns / 2], const float (&partial)[kColumns / 2], const Scales& s, int split) {
  float scale[2][2];
  HOPPER_UNROLL
  for (int r = 0; r < 2; ++r) {
    HOPPER_UNROLL
    for (int c = 0; c < 2; ++c) scale[r][c] = s.row[r] * s.column[c];
  }
  HOPPER_UNROLL
  for (int i = 0; i < kColumns / 2; ++i) {
    const int row = i % 4 / 2;
    sum[i] = fma(partial[i], kTwo && i / 4 >= split ? scale[row][1] : scale[row][0], sum[i]);
  }
}

// One tile's 64 rows of a warpgroup.
template <int kRows, int kColumns, Share kShare>
HOPPER_DEVICE void sum_tile(float (&sum)[kColumns / 2], const Tile& tile, int n, int k, int group,
                            LinearShared<kRows, kColumns>& shared, Ring<Cut<kRows, kColumns>::kStages>& ring) {
  constexpr bool kTwo = kDepth % kColumns != 0;
  const int steps = (k + kDepth - 1) / kDepth;
  const ScaleReader<kTwo> reader =
      scales_of<kTwo>(tile, tile.row + group * 64 + fragment_row(thread_index() % kWarpgroup, 0), n, steps);
  const int split = (kDepth - tile.column % kDepth) / 8;
  HOPPER_UNROLL
  for (int i = 0; i < kColumns / 2; ++i) sum[i] = 0;
  Scales scales = reader.at(0);
  for (int step = 0; step < steps; ++step, ring.next()) {
    float partial[kColumns / 2];
    barrier_wait(&shared.full[ring.stage], ring.parity);
    multiply_stage<kColumns>(partial, shared.a[ring.stage] + group * 64 * kDepth, shared.b[ring.stage]);
    const Scales next = reader.at(step + 1 < steps ? step + 1 : step);
    wgmma_wait<0>();
    keep(partial);
    release<cluster_of(kShare)>(&shared.empty[ring.stage]);
    promote<kColumns, kTwo>(sum, partial, scales, split);
    scales = next;
  }
}

// Adds what C holds, BF16: a pair of columns a load. The second of an odd n's last pair lies behind the row, in the same 16
// bytes; it changes a sum that is not stored.
template <int kColumns>
HOPPER_DEVICE void add_old(float (&sum)[kColumns / 2], const Tile& tile, int n, int first_row, int thread) {
  const uint16_t* old[2];
  HOPPER_UNROLL
  for (int r = 0; r < 2; ++r) {
    const int row = first_row + fragment_row(thread, 2 * r);
    old[r] = row < tile.rows ? tile.problem->old_c + row * tile.problem->c_stride : nullptr;
  }
  HOPPER_UNROLL
  for (int i = 0; i < kColumns / 2; i += 2) {
    const uint16_t* row = old[i % 4 / 2];
    const int column = tile.column + fragment_column(thread, i);
    const uint32_t pair = row != nullptr && column < n ? *reinterpret_cast<const uint32_t*>(row + column) : 0;
    sum[i] += bf16_low(pair);
    sum[i + 1] += bf16_high(pair);
  }
}

// A warp's 16 rows by kWide columns of the tile into a box, as BF16: matrices of 8×8, four at a time.
template <int kWide, bool kSwizzled>
HOPPER_DEVICE void fill_bf16(uint8_t* box, const float* sum) {
  const int lane = lane_index();
  HOPPER_UNROLL
  for (int column = 0; column < kWide; column += 16) {
    // Matrices: rows 0-7 and 8-15 of eight columns, then of the next eight; lanes 8j … 8j + 7 give the rows of matrix j.
    const auto row = static_cast<uint32_t>(lane % 8 + lane / 8 % 2 * 8),
               byte = static_cast<uint32_t>(column + lane / 16 * 8) * 2;
    uint8_t* at = box + (kSwizzled ? swizzled_offset(row, byte) : row * kWide * 2 + byte);
    const float* s = sum + column / 2;
    store_matrices(at, to_bf16x2(s[0], s[1]), to_bf16x2(s[2], s[3]), to_bf16x2(s[4], s[5]), to_bf16x2(s[6], s[7]));
  }
}
template <int kWide, bool kSwizzled>
HOPPER_DEVICE void fill_f32(uint8_t* box, const float* sum) {
  HOPPER_UNROLL
  for (int i = 0; i < kWide / 2; i += 2) {
    const auto row = static_cast<uint32_t>(fragment_row(lane_index(), i)),
               byte = static_cast<uint32_t>(fragment_column(lane_index(), i)) * 4;
    *reinterpret_cast<Float2*>(box +
                               (kSwizzled ? swizzled_offset(row, byte) : row * kWide * 4 + byte)) = {{sum[i], sum[i + 1]}};
  }
}

// A warp's 16 rows of the tile, from `row`. `turn`: the box to fill next, from tile to tile.
template <int kColumns, LinearOut kOut>
HOPPER_DEVICE void store_rows(const float (&sum)[kColumns / 2], uint8_t (&boxes)[kOutBoxes][kOutBytes], int& turn,
                              const TensorMap* c, int row, int column, bool add) {
  constexpr int kWide = out_columns(kColumns, kOut);
  constexpr bool kSwizzled = out_swizzled(kColumns, kOut);
  HOPPER_UNROLL
  for (int i = 0; i < kColumns / kWide; ++i) {
    uint8_t* box = boxes[turn];
    turn = (turn + 1) % kOutBoxes;
    if (lane_index() == 0) tma_wait_read<kOutBoxes - 1>();
    sync_warp();
    if constexpr (kOut == LinearOut::kBF16)
      fill_bf16<kWide, kSwizzled>(box, sum + i * kWide / 2);
    else
      fill_f32<kWide, kSwizzled>(box, sum + i * kWide / 2);
    fence_shared_for_async();
    sync_warp();
    if (lane_index() == 0) {
      if (add)
        tma_add(c, box, column + i * kWide, row);
      else
        tma_store(c, box, column + i * kWide, row);
      tma_commit();
    }
  }
}

// A warpgroup: rows 64·group … of the block's tiles.
template <int kRows, int kColumns, Share kShare, int kMost>
HOPPER_DEVICE void compute(const LinearJob<kMost>& job, LinearShared<kRows, kColumns>& shared, int group) {
  const int thread = thread_index() % kWarpgroup, warp = thread / kWarp;
  Tiles<kRows, kColumns, kShare, kMost> tiles(job);
  Ring<Cut<kRows, kColumns>::kStages> ring;
  int turn = 0;
  Tile tile;
  while (tiles.next(tile)) {
    float sum[kColumns / 2];
    sum_tile<kRows, kColumns, kShare>(sum, tile, job.n, job.k, group, shared, ring);
    const int first = tile.row + group * 64, row = first + warp * kOutRows;
    if (tile.problem->old_c != nullptr) add_old<kColumns>(sum, tile, job.n, first, thread);
    auto& boxes = shared.out[group * 4 + warp];
    if (job.out == LinearOut::kBF16)
      store_rows<kColumns, LinearOut::kBF16>(sum, boxes, turn, &tile.problem->c, row, tile.column, false);
    else
      store_rows<kColumns, LinearOut::kF32>(sum, boxes, turn, &tile.problem->c, row, tile.column,
                                            job.out == LinearOut::kAddF32);
  }
  if (lane_index() == 0) tma_wait<0>();
}

template <int kRows, int kColumns, Share kShare, int kMost>
HOPPER_KERNEL((Cut<kRows, kColumns>::kThreads))
void linear_kernel(HOPPER_PARAMETER LinearJob<kMost> job) {
  using C = Cut<kRows, kColumns>;
  constexpr int kCluster = cluster_of(kShare);
  auto& shared = *reinterpret_cast<LinearShared<kRows, kColumns>*>(shared_memory());
  if (thread_index() == 0) {
    for (int i = 0; i < C::kStages; ++i) {
      barrier_init(&shared.full[i], 1);
      barrier_init(&shared.empty[i], C::kMathWarps * kCluster);
    }
    fence_barriers();
  }
  if constexpr (kCluster > 1)
    sync_cluster();
  else
    sync_threads();
  const int warp = warp_index();
  if (warp < kWarpgroup / kWarp) {
    give_registers<40>();
    if (warp == 0 && lane_index() == 0) fetch<kRows, kColumns, kShare>(job, shared);
  } else {
    take_registers<kRows == 128 ? 232 : 240>();
    compute<kRows, kColumns, kShare>(job, shared, warp / 4 - 1);
  }
  sync_warp();
  if constexpr (kCluster > 1) sync_cluster();  // the other block still arrives here, and copies into here
}

template <int kRows, int kColumns, Share kShare, int kMost>
bool launch(const LinearJob<kMost>& job, int blocks, void* stream) {
  static_assert(sizeof(LinearShared<kRows, kColumns>) <= kMostSharedBytes && Cut<kRows, kColumns>::kStages >= 3);
  HOPPER_LAUNCH((linear_kernel<kRows, kColumns, kShare, kMost>),
                (LaunchShape{.blocks = static_cast<uint32_t>(blocks),
                             .threads = Cut<kRows, kColumns>::kThreads,
                             .shared_bytes = sizeof(LinearShared<kRows, kColumns>),
                             .cluster = static_cast<uint32_t>(cluster_of(kShare))}),
                stream, job);
  return true;
}

template <int kColumns, int kMost>
bool launch_shared(const LinearJob<kMost>& job, Share share, int blocks, void* stream) {
  if (share == Share::kA) return launch<128, kColumns, Share::kA>(job, blocks, stream);
  if (share == Share::kB) return launch<128, kColumns, Share::kB>(job, blocks, stream);
  return launch<128, kColumns, Share::kNothing>(job, blocks, stream);
}

}  // namespace

template <int kMost>
bool launch_linear(const LinearJob<kMost>& job, const LinearTile& tile, int blocks, void* stream) {
  const Share share = tile.share;
  if (tile.rows == 128) {
    switch (tile.columns) {
      case 128:
        return launch_shared<128>(job, share, blocks, stream);
      case 160:
        return launch_shared<160>(job, share, blocks, stream);
      default:
        break;
    }
    if (share != Share::kNothing) return false;
    switch (tile.columns) {
      case 64:
        return launch<128, 64, Share::kNothing>(job, blocks, stream);
      case 96:
        return launch<128, 96, Share::kNothing>(job, blocks, stream);
      case 112:
        return launch<128, 112, Share::kNothing>(job, blocks, stream);
      default:
        return false;
    }
  }
  if (tile.rows != 64 || share != Share::kNothing) return false;
  switch (tile.columns) {
    case 16:
      return launch<64, 16, Share::kNothing>(job, blocks, stream);
    case 32:
      return launch<64, 32, Share::kNothing>(job, blocks, stream);
    case 64:
      return launch<64, 64, Share::kNothing>(job, blocks, stream);
    case 96:
      return launch<64, 96, Share::kNothing>(job, blocks, stream);
    case 128:
      return launch<64, 128, Share::kNothing>(job, blocks, stream);
    default:
      return false;
  }
}

template bool launch_linear<1>(const LinearJob<1>&, const LinearTile&, int, void*);
template bool launch_linear<kMostLinearProblems>(const LinearJob<kMostLinearProblems>&, const LinearTile&, int, void*);

}  // namespace rorqual::gemm
