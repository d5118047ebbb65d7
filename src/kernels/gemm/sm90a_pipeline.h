// What the FP8 products of Hopper share: a ring of stages in shared memory that one warpgroup fills and others read, and the
// order in which blocks take tiles.
#pragma once

#include "hopper/device.h"
#include "kernels/gemm/sm90a_tile.h"

namespace rorqual::gemm {

using namespace hopper;  // NOLINT: device code is written in its words

// The stages in turn. `parity`: of the phases that end when they are full.
template <int kStages>
struct Ring {
  int stage = 0;
  uint32_t parity = 0;
  HOPPER_DEVICE void next() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// Also where blocks of a cluster share: of the other block only the tensor cores have read what the copy engine overwrites now,
// so that no thread's memory needs ordering between the two. (barrier_wait_cluster would empty the first-level cache, which
// holds scales, at every step.)
HOPPER_DEVICE void wait_until_empty(const Barrier* empty, uint32_t parity) {
  barrier_wait(empty, parity ^ 1);
}

// The tensor cores have read a stage (wgmma_wait) for this warp: said to its own block and to the cluster's other one, whose
// copies come here too.
template <int kCluster>
HOPPER_DEVICE void release(Barrier* empty) {
  sync_warp();
  if (kCluster == 1) {
    if (lane_index() == 0) barrier_arrive(empty);
  } else if (lane_index() < kCluster) {
    barrier_give_back_at(empty, lane_index());
  }
}

// kRows rows of 128 codes, swizzled; if the cluster shares them, each block brings half for both (the map's boxes have half the
// rows then).
template <bool kShared, int kRows>
HOPPER_DEVICE void fetch_codes(const TensorMap* map, uint8_t* stage, Barrier* full, int column, int row) {
  if constexpr (kShared) {
    const int half = cluster_rank() * (kRows / 2);
    tma_load_multicast(map, stage + half * 128, full, 3, column, row + half);
  } else {
    tma_load(map, stage, full, column, row);
  }
}

// partial [64, kN] = A·Bᵀ of 128 codes a row, from zero. Leaves it to the tensor cores.
template <int kN>
HOPPER_DEVICE void multiply_stage(float (&partial)[kN / 2], const uint8_t* a, const uint8_t* b) {
  const MatrixDescriptor da = matrix_descriptor(shared_address(a), 1024), db = matrix_descriptor(shared_address(b), 1024);
  wgmma_fence();
  HOPPER_UNROLL
  for (uint32_t i = 0; i < 4; ++i) wgmma_e4m3<kN>(partial, advance(da, 32 * i), advance(db, 32 * i), i > 0);
  wgmma_commit();
}

}  // namespace rorqual::gemm
