// What the host side of the cross-entropy hands to its kernel.
#pragma once

#include <cstdint>

#include "hopper/launch.h"

namespace rorqual::cross_entropy_sm90a_detail {

struct Job {
  const void* logits;
  const int32_t* target;
  const float* coefficient;
  float* nll;
  void* d_logits;  // or null
  int64_t stride, d_stride;
  int rows, vocabulary;
  bool bf16, d_bf16;
};

void launch(const Job& job, int multiprocessors, hopper::DeviceStream stream);

}  // namespace rorqual::cross_entropy_sm90a_detail
