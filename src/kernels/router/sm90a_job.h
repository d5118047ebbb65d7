// What the host side of the router hands to its kernels.
#pragma once

#include <cstdint>

#include "hopper/launch.h"

namespace rorqual::router_sm90a_detail {

inline constexpr int kMostExperts = 512, kMostGroups = 32;
inline constexpr double kTiny = 1e-20;   // router::kTiny
inline constexpr int kSliceTokens = 64;  // of a sequence, whose losses one block adds

struct Shape {
  int experts, top_k, groups, top_groups;
  bool softmax, group_sum_of_two, normalise;
  float scale;
};

struct ForwardJob {
  Shape shape;
  int tokens;
  const float* logits;
  const float* bias;  // or null
  float* scores;
  int32_t* expert;
  float* weight;
  int64_t logits_stride, scores_stride, weight_stride;
};

struct BackwardJob {
  Shape shape;
  int tokens, sequence_length;
  const float* scores;
  const int32_t* expert;
  const float* d_weight;
  const int32_t* count;  // [sequences, experts], or null: no balance loss
  double unit;           // d balance loss / d s' per token counted
  float* d_logits;
  int64_t scores_stride, d_weight_stride, d_logits_stride;
};

struct StatisticsJob {
  Shape shape;
  int sequences, sequence_length;
  const float* scores;
  const int32_t* expert;
  int64_t scores_stride;
  int32_t* count;
  int64_t* load;
  double* loss;
  double* scratch;     // [sequences, slices]
  double unit;         // f_i per token counted
  double coefficient;  // of the mean over a sequence
};

void launch(const ForwardJob& job, int multiprocessors, hopper::DeviceStream stream);
void launch(const BackwardJob& job, int multiprocessors, hopper::DeviceStream stream);
void launch(const StatisticsJob& job, hopper::DeviceStream stream);

}  // namespace rorqual::router_sm90a_detail
