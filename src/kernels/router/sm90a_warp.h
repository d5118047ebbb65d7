// A token's experts in the registers of a warp: expert 32·j + lane is element j of `lane`, so that a warp reads and writes rows
// as whole lines at any alignment.
#pragma once

#include "hopper/device.h"
#include "kernels/router/sm90a_job.h"

namespace rorqual::router_sm90a_detail {

using namespace hopper;  // NOLINT: the language of device code

inline constexpr int kThreads = 256, kWarps = kThreads / kWarp;

HOPPER_DEVICE int expert_of(int j) {
  return kWarp * j + lane_index();
}
template <int kPer>
HOPPER_DEVICE void read_row(float (&x)[kPer], const float* row, int experts, float beyond) {
  HOPPER_UNROLL
  for (int j = 0; j < kPer; ++j) x[j] = expert_of(j) < experts ? load_once(row + expert_of(j)) : beyond;
}
template <int kPer>
HOPPER_DEVICE void write_row(float* row, const float (&x)[kPer], int experts) {
  HOPPER_UNROLL
  for (int j = 0; j < kPer; ++j)
    if (expert_of(j) < experts) store_once(row + expert_of(j), x[j]);
}
// Over the lanes: a tree, the same in all of them.
template <class T>
HOPPER_DEVICE T warp_sum(T x) {
  HOPPER_UNROLL
  for (int mask = 1; mask < kWarp; mask *= 2) x += shuffle_xor(x, mask);
  return x;
}

// Launches Kernel<kPer> for the experts there are.
template <class Run>
void by_experts(int experts, const Run& run) {
  if (experts <= 64)
    run.template operator()<2>();
  else if (experts <= 128)
    run.template operator()<4>();
  else if (experts <= 256)
    run.template operator()<8>();
  else
    run.template operator()<16>();
}

// Blocks that walk the tokens with strides: as many as fit, or fewer.
inline LaunchShape shape_for(int tokens, int multiprocessors, int blocks_per_multiprocessor, int shared_bytes) {
  const int blocks = (tokens + kWarps - 1) / kWarps, most = multiprocessors * blocks_per_multiprocessor;
  return {.blocks = static_cast<uint32_t>(blocks < most ? blocks : most),
          .threads = kThreads,
          .shared_bytes = static_cast<uint32_t>(shared_bytes)};
}

}  // namespace rorqual::router_sm90a_detail
