// C[n, k] += Aᵀ·B over tokens in E4M3 with a scale per 128 tokens and channel on both sides: the weight gradient.
//
// A block computes tiles of 128×128 of C, one after another. Its first warpgroup fetches: warp 0 has the copy engine bring the
// codes of 128 tokens, [128 n, 128 tokens] and [128 k, 128 tokens], into a ring of stages; warps 1 to 3 bring the scales of
// every third stage each, so that each has three stages' time for the latency of a load, whatever the scales' alignment. The
// two other warpgroups multiply 64 rows each; while one scales its partial sums into FP32, the other keeps the tensor cores
// busy. A tile leaves through shared memory by reducing copies: the old C is read where it is added, in the second-level cache,
// so half as many bytes cross the chip as if the block read and wrote it, and the next tile does not wait. Every element is
// added to once, so the result does not depend on the order.
//
// Order of sums: 128 tokens' products on the tensor cores from zero, times (scale of a · scale of b), added in FP32 in
// ascending blocks.
#include "hopper/launch.h"
#include "kernels/gemm/sm90a_gradient_job.h"
#include "kernels/gemm/sm90a_pipeline.h"

namespace rorqual::gemm {
namespace {

constexpr int kTile = kGradientTile, kTokens = 128;  // of a stage
constexpr int kStages = 5;
constexpr int kMathWarps = 8, kScaleWarps = 3, kThreads = 3 * kWarpgroup;
constexpr uint32_t kCodeBytes = kTile * kTokens;  // of one operand
// A warp's way out: boxes [16, 32] of FP32, two of them so that one is filled while the other is read.
constexpr int kOutRows = kGradientOutRows, kOutColumns = kGradientOutColumns, kOutBoxes = 2;
constexpr uint32_t kOutBytes = kOutRows * kOutColumns * 4;

struct alignas(1024) SharedMemory {
  uint8_t a[kStages][kCodeBytes];  // swizzled
  uint8_t b[kStages][kCodeBytes];
  uint8_t out[kMathWarps][kOutBoxes][kOutBytes];
  float scale_a[kStages][kTile];
  float scale_b[kStages][kTile];
  Barrier full[kStages];   // the codes' bytes, and arrivals of who asked for them and of the scales' warp
  Barrier empty[kStages];  // an arrival of each math warp of the cluster
};
static_assert(sizeof(SharedMemory) <= kMostSharedBytes);

HOPPER_DEVICE SharedMemory& shared() {
  return *reinterpret_cast<SharedMemory*>(shared_memory());
}

// A tile of C, or of a cluster's two blocks each its own.
struct Tile {
  int problem, row, column;
};

// Tiles in bands of kBand along n, so that blocks that run together read the same operands. A cluster has two neighbours.
template <Share kShare>
struct Tiles {
  static constexpr int kCluster = cluster_of(kShare), kBand = 8;
  static constexpr int kUnitRows = kShare == Share::kB ? 2 : 1, kUnitColumns = kShare == Share::kA ? 2 : 1;
  int problems, rows, columns;  // rows and columns in units of a cluster

  HOPPER_DEVICE Tiles(int problem_count, int n, int k)
      : problems(problem_count),
        rows((n + kTile * kUnitRows - 1) / (kTile * kUnitRows)),
        columns((k + kTile * kUnitColumns - 1) / (kTile * kUnitColumns)) {}
  HOPPER_DEVICE int first() const { return block_index() / kCluster; }
  HOPPER_DEVICE int step() const { return block_count() / kCluster; }
  HOPPER_DEVICE int end() const { return problems * rows * columns; }
  HOPPER_DEVICE Tile at(int unit) const {
    const int problem = unit / (rows * columns), place = unit % (rows * columns);
    const int top = place / (kBand * columns) * kBand, within = place % (kBand * columns);
    const int height = rows - top < kBand ? rows - top : kBand;
    const int rank = kCluster == 1 ? 0 : block_index() % kCluster;
    const int row = top + within % height, column = within / height;
    return {problem, (row * kUnitRows + (kUnitRows == 2 ? rank : 0)) * kTile,
            (column * kUnitColumns + (kUnitColumns == 2 ? rank : 0)) * kTile};
  }
};

// One thread.
template <Share kShare, int kMost>
HOPPER_DEVICE void fetch_all_codes(const GradientJob<kMost>& job) {
  const Tiles<kShare> tiles(job.problems, job.n, job.k);
  Ring<kStages> ring;
  for (int unit = tiles.first(); unit < tiles.end(); unit += tiles.step()) {
    const Tile tile = tiles.at(unit);
    const GradientProblem& problem = job.problem[tile.problem];
    tma_prefetch(&problem.c);
    const int blocks = static_cast<int>(problem.blocks);
    for (int block = 0; block < blocks; ++block, ring.next()) {
      wait_until_empty(&shared().empty[ring.stage], ring.parity);
      Barrier* full = &shared().full[ring.stage];
      barrier_arrive_expect(full, 2 * kCodeBytes);
      fetch_codes<kShare == Share::kA, kTile>(&problem.a, shared().a[ring.stage], full, block * kTokens, tile.row);
      fetch_codes<kShare == Share::kB, kTile>(&problem.b, shared().b[ring.stage], full, block * kTokens, tile.column);
    }
  }
}

constexpr int kScalesPerLane = kTile / kWarp;

HOPPER_DEVICE void load_scales(float (&value)[kScalesPerLane], const float* scales, int first, int count) {
  HOPPER_UNROLL
  for (int i = 0; i < kScalesPerLane; ++i) {
    const int channel = first + i * kWarp + lane_index();
    value[i] = channel < count ? load(scales + channel) : 0.0f;
  }
}
HOPPER_DEVICE void store_scales(float* stage, const float (&value)[kScalesPerLane]) {
  HOPPER_UNROLL
  for (int i = 0; i < kScalesPerLane; ++i) stage[i * kWarp + lane_index()] = value[i];
}

// A warp: the stages whose number leaves `turn` when divided by kScaleWarps.
template <Share kShare, int kMost>
HOPPER_DEVICE void fetch_scales(const GradientJob<kMost>& job, int turn) {
  const Tiles<kShare> tiles(job.problems, job.n, job.k);
  Ring<kStages> ring;
  for (int unit = tiles.first(); unit < tiles.end(); unit += tiles.step()) {
    const Tile tile = tiles.at(unit);
    const GradientProblem& problem = job.problem[tile.problem];
    const int blocks = static_cast<int>(problem.blocks);
    for (int block = 0; block < blocks; ++block, ring.next()) {
      const bool mine = turn == 0;
      turn = mine ? kScaleWarps - 1 : turn - 1;
      if (!mine) continue;
      float a[kScalesPerLane], b[kScalesPerLane];
      load_scales(a, problem.scale_a + block * problem.scale_a_stride, tile.row, job.n);
      load_scales(b, problem.scale_b + block * problem.scale_b_stride, tile.column, job.k);
      wait_until_empty(&shared().empty[ring.stage], ring.parity);
      store_scales(shared().scale_a[ring.stage], a);
      store_scales(shared().scale_b[ring.stage], b);
      sync_warp();
      if (lane_index() == 0) barrier_arrive(&shared().full[ring.stage]);
    }
  }
}

constexpr int kRegisters = kTile / 2;  // a thread's part of [64, 128]

// A stage's scales of the thread's two rows and 32 columns.
struct Scales {
  float row[2];
  Float2 column[kRegisters / 4];
};
HOPPER_DEVICE void read_scales(Scales& scales, int stage, int group, int thread) {
  HOPPER_UNROLL
  for (int i = 0; i < 2; ++i) scales.row[i] = shared().scale_a[stage][group * 64 + fragment_row(thread, 2 * i)];
  HOPPER_UNROLL
  for (int i = 0; i < kRegisters / 4; ++i)
    scales.column[i] = *reinterpret_cast<const Float2*>(&shared().scale_b[stage][fragment_column(thread, 4 * i)]);
}

HOPPER_DEVICE void promote(float (&sum)[kRegisters], const float (&partial)[kRegisters], const Scales& scales) {
  HOPPER_UNROLL
  for (int i = 0; i < kRegisters; ++i) sum[i] = fma(partial[i], scales.row[i % 4 / 2] * scales.column[i / 4].v[i % 2], sum[i]);
}

// A warp's 16 rows of C, from `row`, by 32 columns at a time.
HOPPER_DEVICE void add_to_c(const TensorMap* c, const float (&sum)[kRegisters], int warp, int thread, int row, int column) {
  constexpr int kPerBox = kRegisters * kOutColumns / kTile;
  HOPPER_UNROLL
  for (int box = 0; box < kTile / kOutColumns; ++box) {
    uint8_t* out = shared().out[warp][box % kOutBoxes];
    if (lane_index() == 0) tma_wait_read<kOutBoxes - 1>();
    sync_warp();
    HOPPER_UNROLL
    for (int i = 0; i < kPerBox; i += 2) {
      const auto at = swizzled_offset(static_cast<uint32_t>(fragment_row(thread % kWarp, i)),
                                      static_cast<uint32_t>(fragment_column(thread, i)) * 4);
      *reinterpret_cast<Float2*>(out + at) = {{sum[box * kPerBox + i], sum[box * kPerBox + i + 1]}};
    }
    fence_shared_for_async();
    sync_warp();
    if (lane_index() == 0) {
      tma_add(c, out, column + box * kOutColumns, row);
      tma_commit();
    }
  }
}

// A warpgroup: rows 64·group … of the block's tiles.
template <Share kShare, int kMost>
HOPPER_DEVICE void compute(const GradientJob<kMost>& job, int group) {
  constexpr int kCluster = Tiles<kShare>::kCluster;
  const Tiles<kShare> tiles(job.problems, job.n, job.k);
  const int thread = thread_index() % kWarpgroup, warp = warp_index() - kWarpgroup / kWarp;
  Ring<kStages> ring;
  for (int unit = tiles.first(); unit < tiles.end(); unit += tiles.step()) {
    const Tile tile = tiles.at(unit);
    const GradientProblem& problem = job.problem[tile.problem];
    const int blocks = static_cast<int>(problem.blocks);
    float sum[kRegisters], partial[kRegisters];
    HOPPER_UNROLL
    for (int i = 0; i < kRegisters; ++i) sum[i] = 0;
    for (int block = 0; block < blocks; ++block, ring.next()) {
      barrier_wait(&shared().full[ring.stage], ring.parity);
      multiply_stage<kTile>(partial, shared().a[ring.stage] + group * 64 * kTokens, shared().b[ring.stage]);
      Scales scales;
      read_scales(scales, ring.stage, group, thread);
      wgmma_wait<0>();
      keep(partial);
      release<kCluster>(&shared().empty[ring.stage]);
      promote(sum, partial, scales);
    }
    add_to_c(&problem.c, sum, warp, thread, tile.row + group * 64 + warp % 4 * kOutRows, tile.column);
  }
  if (lane_index() == 0) tma_wait<0>();
}

template <Share kShare, int kMost>
HOPPER_KERNEL(kThreads)
void gradient_kernel(HOPPER_PARAMETER GradientJob<kMost> job) {
  constexpr int kCluster = Tiles<kShare>::kCluster;
  if (thread_index() == 0) {
    for (int i = 0; i < kStages; ++i) {
      barrier_init(&shared().full[i], 2);
      barrier_init(&shared().empty[i], kMathWarps * kCluster);
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
    if (warp > 0) {
      fetch_scales<kShare>(job, warp - 1);
    } else if (lane_index() == 0) {
      fetch_all_codes<kShare>(job);
    }
  } else {
    take_registers<232>();
    compute<kShare>(job, warp / (kWarpgroup / kWarp) - 1);
  }
  sync_warp();
  if constexpr (kCluster > 1) sync_cluster();  // the other block still arrives here, and copies into here
}

}  // namespace

template <int kMost>
void launch_gradient(const GradientJob<kMost>& job, Share share, int blocks, void* stream) {
  LaunchShape shape{.blocks = static_cast<uint32_t>(blocks), .threads = kThreads, .shared_bytes = sizeof(SharedMemory)};
  if (share == Share::kNothing) {
    HOPPER_LAUNCH((gradient_kernel<Share::kNothing, kMost>), shape, stream, job);
    return;
  }
  shape.cluster = 2;
  if (share == Share::kA)
    HOPPER_LAUNCH((gradient_kernel<Share::kA, kMost>), shape, stream, job);
  else
    HOPPER_LAUNCH((gradient_kernel<Share::kB, kMost>), shape, stream, job);
}

template void launch_gradient<1>(const GradientJob<1>&, Share, int, void*);
template void launch_gradient<kMostGradientProblems>(const GradientJob<kMostGradientProblems>&, Share, int, void*);

}  // namespace rorqual::gemm
