// The copy engine (TMA). One thread issues; loads complete on a barrier that expects their bytes (the whole box, also where it
// lies outside), stores by groups of the issuing thread. Shared memory: 128-byte aligned, 1024 under the swizzle.
#pragma once

#include "hopper/ptx/thread.h"

namespace rorqual::hopper {

HOPPER_DEVICE void tma_prefetch(const TensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
// The box whose first element is (row, column) of matrix `depth`.
HOPPER_DEVICE void tma_load(const TensorMap* map, void* shared, Barrier* barrier, int column, int row, int depth = 0) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(
          shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row), "r"(depth)
      : "memory");
}
// The same into all blocks of the cluster that `blocks` names (bit i: rank i), at the same place, completing on each one's own
// barrier of that place.
HOPPER_DEVICE void tma_load_multicast(const TensorMap* map, void* shared, Barrier* barrier, uint16_t blocks, int column,
                                      int row, int depth = 0) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%4, %5, "
      "%6}], "
      "[%2], %3;" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "h"(blocks), "r"(column), "r"(row), "r"(depth)
      : "memory");
}
// `bytes` (a multiple of 16) of global memory, both ends 16-byte aligned.
HOPPER_DEVICE void bulk_load(void* shared, const void* global, uint32_t bytes, Barrier* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}

// fence_shared_for_async by every thread that wrote, and a barrier, come before.
HOPPER_DEVICE void tma_store(const TensorMap* map, const void* shared, int column, int row, int depth = 0) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map),
               "r"(shared_address(shared)), "r"(column), "r"(row), "r"(depth)
               : "memory");
}
// global += shared, F32. The order among several adds of one element is not fixed.
HOPPER_DEVICE void tma_add(const TensorMap* map, const void* shared, int column, int row, int depth = 0) {
  asm volatile("cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map),
               "r"(shared_address(shared)), "r"(column), "r"(row), "r"(depth)
               : "memory");
}
HOPPER_DEVICE void tma_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Until shared memory of all but the newest kPending groups has been read (and may be written again) …
template <int kPending>
HOPPER_DEVICE void tma_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}
// … and until they are written.
template <int kPending>
HOPPER_DEVICE void tma_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace rorqual::hopper
