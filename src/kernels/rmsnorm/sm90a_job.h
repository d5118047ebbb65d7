// What the host hands to the RMSNorm kernels of Hopper.
#pragma once

#include <cstdint>

#include "hopper/launch.h"
#include "kernels/common/sm90a_job.h"
#include "numerics/scale.h"

namespace rorqual::rmsnorm_sm90a_detail {

using hopper::CodedRows;
using hopper::PlainRows;

inline constexpr int kMostColumns = 16384;
inline constexpr int kBlockRows = 128;  // of the weight gradient

struct ForwardJob {
  PlainRows x = {};
  const float* w = nullptr;
  float eps = 0;
  int rows = 0, cols = 0;
  PlainRows y = {}, y_plain = {};
  CodedRows codes = {};  // E4M3
};
void launch_forward(const ForwardJob& job, ScaleRule rule, hopper::DeviceStream stream);

struct InputGradientJob {
  PlainRows x = {}, d_y = {}, d_x = {};
  const float* w = nullptr;
  float eps = 0;
  int rows = 0, cols = 0;
  bool accumulate = false;
};
void launch_input_gradient(const InputGradientJob& job, hopper::DeviceStream stream);

struct WeightGradientJob {
  PlainRows x = {}, d_y = {};
  float* d_w = nullptr;
  float* inverse_rms = nullptr;  // [rows]
  float* sums = nullptr;         // [blocks][cols]
  float eps = 0;
  int rows = 0, cols = 0;
};
void launch_weight_gradient(const WeightGradientJob& job, hopper::DeviceStream stream);

}  // namespace rorqual::rmsnorm_sm90a_detail
