// What the host side of SwiGLU hands to its kernels.
#pragma once

#include "hopper/launch.h"
#include "kernels/common/sm90a_job.h"
#include "numerics/scale.h"

namespace rorqual::swiglu_sm90a_detail {

enum class Code { kNone, kE4M3, kE5M2 };

// A matrix that is plain or coded.
struct Rows {
  hopper::PlainRows plain = {};
  hopper::CodedRows coded = {};
  Code code = Code::kNone;
};

struct ForwardJob {
  int rows, width;
  Rows gate_up, h;
  const float* weight;  // [rows], or null: 1
  ScaleRule rule;       // of h
  hopper::CodedRows cache;
  ScaleRule cache_rule;
};

struct BackwardJob {
  int rows, width;
  Rows gate_up, d_gate_up;
  hopper::PlainRows d_h;
  const float* weight;
  float* d_weight;  // [rows], or null
  ScaleRule rule;
};

void launch(const ForwardJob& job, hopper::DeviceStream stream);
void launch(const BackwardJob& job, hopper::DeviceStream stream);

}  // namespace rorqual::swiglu_sm90a_detail
