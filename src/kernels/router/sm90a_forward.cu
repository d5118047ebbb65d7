// Scores, choice and weights, a warp per token. Candidates are compared as integers of the same order ("keys"), so that the
// warp's best is one instruction; 0 is no candidate.
#include "kernels/router/sm90a_warp.h"

namespace rorqual::router_sm90a_detail {
namespace {

// NaN ranks as −inf, −0 as 0.
HOPPER_DEVICE uint32_t key_of(float x) {
  const uint32_t bits = float_to_bits(x == x ? x + 0.0f : bits_to_float(0xff800000u));
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
HOPPER_DEVICE float value_of(uint32_t key) {
  return bits_to_float((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}
HOPPER_DEVICE int lowest_bit(uint32_t bits) {
  return count_bits((bits & (0u - bits)) - 1);
}

template <int kPer>
HOPPER_DEVICE void score(const Shape& shape, const float (&logits)[kPer], float (&scores)[kPer]) {
  if (!shape.softmax) {
    HOPPER_UNROLL
    for (int j = 0; j < kPer; ++j) scores[j] = divide(1.0f, 1.0f + exponential(-logits[j]));
    return;
  }
  float max = logits[0];
  HOPPER_UNROLL
  for (int j = 1; j < kPer; ++j) max = maximum(max, logits[j]);
  HOPPER_UNROLL
  for (int mask = 1; mask < kWarp; mask *= 2) max = maximum(max, shuffle_xor(max, mask));
  float sum = 0;
  HOPPER_UNROLL
  for (int j = 0; j < kPer; ++j) {
    scores[j] = expert_of(j) < shape.experts ? exponential(logits[j] - max) : 0.0f;
    sum += scores[j];
  }
  sum = warp_sum(sum);
  HOPPER_UNROLL
  for (int j = 0; j < kPer; ++j) scores[j] = divide(scores[j], sum);
}

// The key of the score of experts [begin, end): the two largest added, or the largest.
template <int kPer>
HOPPER_DEVICE uint32_t group_key(const uint32_t (&key)[kPer], int begin, int end, bool sum_of_two) {
  uint32_t first = 0, second = 0;  // of this lane
  HOPPER_UNROLL
  for (int j = 0; j < kPer; ++j) {
    if (kWarp * (j + 1) <= begin || kWarp * j >= end) continue;
    const uint32_t mine = expert_of(j) >= begin && expert_of(j) < end ? key[j] : 0;
    const uint32_t smaller = mine < first ? mine : first;
    first = mine > first ? mine : first;
    second = smaller > second ? smaller : second;
  }
  const uint32_t largest = warp_maximum(first);
  if (!sum_of_two || end - begin == 1) return largest;
  const int holder = lowest_bit(ballot(first == largest));
  const uint32_t next = warp_maximum(lane_index() == holder ? second : first);
  return key_of(value_of(largest) + value_of(next));
}

// Leaves only the candidates of the top groups.
template <int kPer>
HOPPER_DEVICE void limit_to_groups(const Shape& shape, uint32_t (&key)[kPer]) {
  const int size = shape.experts / shape.groups;
  uint32_t of_group = 0;  // of group `lane`
  for (int g = 0; g < shape.groups; ++g) {
    const uint32_t mine = group_key(key, g * size, (g + 1) * size, shape.group_sum_of_two);
    if (g == lane_index()) of_group = mine;
  }
  uint32_t kept = 0;
  for (int i = 0; i < shape.top_groups; ++i) {
    const int best = lowest_bit(ballot(of_group == warp_maximum(of_group)));
    kept |= 1u << best;
    if (lane_index() == best) of_group = 0;
  }
  for (int g = 0; g < shape.groups; ++g) {
    if ((kept >> g & 1u) != 0) continue;
    HOPPER_UNROLL
    for (int j = 0; j < kPer; ++j)
      if (expert_of(j) >= g * size && expert_of(j) < (g + 1) * size) key[j] = 0;
  }
}

// Bit j: expert 32·j + lane is among the top k. The lowest index wins ties.
template <int kPer>
HOPPER_DEVICE uint32_t choose(uint32_t (&key)[kPer], int top_k) {
  uint32_t chosen = 0;
  for (int k = 0; k < top_k; ++k) {
    uint32_t best = 0;
    int at = 0;
    HOPPER_UNROLL
    for (int j = 0; j < kPer; ++j) {
      if (key[j] <= best) continue;
      best = key[j];
      at = j;
    }
    const bool candidate = best == warp_maximum(best);
    const auto winner = static_cast<int>(warp_minimum(candidate ? static_cast<uint32_t>(expert_of(at)) : ~0u));
    HOPPER_UNROLL
    for (int j = 0; j < kPer; ++j) {
      if (expert_of(j) != winner) continue;
      key[j] = 0;
      chosen |= 1u << j;
    }
  }
  return chosen;
}

// Experts in ascending order and their weights; the sum runs in that order. `picked`: top_k floats of this warp.
template <int kPer>
HOPPER_DEVICE void write_choice(const Shape& shape, const float (&scores)[kPer], uint32_t chosen, int32_t* expert,
                                float* weight, float* picked) {
  int before = 0;
  HOPPER_UNROLL
  for (int j = 0; j < kPer; ++j) {
    const bool mine = (chosen >> j & 1u) != 0;
    const uint32_t all = ballot(mine);
    const int place = before + count_bits(all & ((1u << lane_index()) - 1));
    if (mine) {
      expert[place] = expert_of(j);
      picked[place] = scores[j];
    }
    before += count_bits(all);
  }
  sync_warp();
  float sum = 0;
  for (int k = 0; k < shape.top_k; ++k) sum += picked[k];
  const float denominator = sum + static_cast<float>(kTiny);
  for (int k = lane_index(); k < shape.top_k; k += kWarp)
    weight[k] = (shape.normalise ? divide(picked[k], denominator) : picked[k]) * shape.scale;
  sync_warp();
}

template <int kPer>
HOPPER_KERNEL_BLOCKS(kThreads, kPer > 8 ? 2 : 4)
void router_forward_kernel(HOPPER_PARAMETER ForwardJob job) {
  const Shape& shape = job.shape;
  float* picked = reinterpret_cast<float*>(shared_memory()) + warp_index() * shape.top_k;
  const int step = block_count() * kWarps;
  int token = block_index() * kWarps + warp_index();
  float bias[kPer] = {}, logits[kPer], next[kPer] = {};
  const float beyond = bits_to_float(0xff800000u);  // −inf
  if (job.bias != nullptr) read_row(bias, job.bias, shape.experts, 0.0f);
  if (token < job.tokens) read_row(next, job.logits + token * job.logits_stride, shape.experts, beyond);
  for (; token < job.tokens; token += step) {
    HOPPER_UNROLL
    for (int j = 0; j < kPer; ++j) logits[j] = next[j];
    if (token + step < job.tokens) read_row(next, job.logits + (token + step) * job.logits_stride, shape.experts, beyond);
    float scores[kPer];
    score(shape, logits, scores);
    write_row(job.scores + token * job.scores_stride, scores, shape.experts);
    uint32_t key[kPer];
    HOPPER_UNROLL
    for (int j = 0; j < kPer; ++j) {
      const float biased = job.bias != nullptr ? scores[j] + bias[j] : scores[j];
      key[j] = expert_of(j) < shape.experts ? key_of(biased) : 0;
    }
    if (shape.top_groups < shape.groups) limit_to_groups(shape, key);
    const uint32_t chosen = choose(key, shape.top_k);
    write_choice(shape, scores, chosen, job.expert + static_cast<int64_t>(token) * shape.top_k,
                 job.weight + token * job.weight_stride, picked);
  }
}

}  // namespace

void launch(const ForwardJob& job, int multiprocessors, DeviceStream stream) {
  by_experts(job.shape.experts, [&]<int kPer>() {
    const LaunchShape shape =
        shape_for(job.tokens, multiprocessors, kPer > 8 ? 2 : 4, kWarps * job.shape.top_k * static_cast<int>(sizeof(float)));
    HOPPER_LAUNCH(router_forward_kernel<kPer>, shape, stream, job);
  });
}

}  // namespace rorqual::router_sm90a_detail
