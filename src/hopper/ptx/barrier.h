// Barriers of shared memory, named barriers, clusters, fences, and the registers of warpgroups.
#pragma once

#include "hopper/ptx/thread.h"

namespace rorqual::hopper {

// ---- Barriers of shared memory. A phase ends when `arrivals` have come and all bytes expected have been copied. One thread
// initialises; fence_barriers and a sync of the block (of the cluster, if others arrive on it) come before the first use.

HOPPER_DEVICE void barrier_init(Barrier* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
HOPPER_DEVICE void fence_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
HOPPER_DEVICE void barrier_arrive(Barrier* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// On the same barrier of block `rank` of the cluster.
HOPPER_DEVICE void barrier_arrive_at(Barrier* barrier, int rank) {
  uint32_t remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(shared_address(barrier)), "r"(rank));
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(remote) : "memory");
}
// The same, but orders this thread's reads and writes for its own block alone; for other blocks that takes a fence of the whole
// GPU. Enough to give back a stage that copy engines fill and tensor cores read (after wgmma_wait). barrier_wait receives it.
HOPPER_DEVICE void barrier_give_back_at(Barrier* barrier, int rank) {
  uint32_t remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(shared_address(barrier)), "r"(rank));
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(remote) : "memory");
}
// Arrives, and makes the phase wait for `bytes` more.
HOPPER_DEVICE void barrier_arrive_expect(Barrier* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}
// Until the phase of this parity has ended. A new barrier is in phase 0: waiting for parity 1 returns at once.
HOPPER_DEVICE void barrier_wait(const Barrier* barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "WAIT:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra DONE;\n"
      "bra WAIT;\n"
      "DONE:\n}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}
// The same across a cluster: sees what threads of other blocks wrote before they arrived. Empties the first-level cache.
HOPPER_DEVICE void barrier_wait_cluster(const Barrier* barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "WAIT:\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
      "@done bra DONE;\n"
      "bra WAIT;\n"
      "DONE:\n}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// ---- Named barriers of the block, 1 to 15 (0 is sync_threads). `threads`: of all that sync or arrive, a multiple of 32.

HOPPER_DEVICE void named_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
HOPPER_DEVICE void named_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- Clusters

HOPPER_DEVICE int cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
// All threads of all blocks of the cluster.
HOPPER_DEVICE void sync_cluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// ---- Fences

// What this thread wrote to shared memory is seen by the copy engine and the tensor cores afterwards.
HOPPER_DEVICE void fence_shared_for_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
// What this thread wrote to global memory is seen by the copy engine afterwards.
HOPPER_DEVICE void fence_global_for_async() {
  asm volatile("fence.proxy.async.global;" ::: "memory");
}
HOPPER_DEVICE void fence_device() {
  __threadfence();
}

// ---- Registers of a warpgroup, a multiple of 8 from 24 to 240; all of its warps call it. Taken are those that others gave: a
// launch of 384 threads begins with 168 each, so two warpgroups can have 240 only if the third keeps 24. Else it hangs.

template <int kRegisters>
HOPPER_DEVICE void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
HOPPER_DEVICE void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace rorqual::hopper
