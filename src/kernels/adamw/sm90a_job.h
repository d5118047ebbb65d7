// What the host side of AdamW hands to its kernels: tables of tensors, by value in the kernels' parameters.
#pragma once

#include <cstdint>

#include "hopper/launch.h"
#include "numerics/scale.h"

namespace rorqual::adamw_sm90a_detail {

// Of a step, each computed in double and rounded once (adamw_detail::Coefficients).
struct Constants {
  float beta1, rest1, beta2, rest2, grad_scale, step_size, inverse_root_c2, eps;
};

// `first_block`: of the launch; blocks are given to tensors in order.
struct Entry {
  float* w;
  const float* g;
  void* m;
  void* v;
  int64_t count;
  float keep;  // 1 - lr·decay
  int first_block;
  bool m_bf16, v_bf16;
};
inline constexpr int kPieceElements = 8192;  // of a tensor, per block
inline constexpr int kMostEntries = 448;
struct Job {
  Constants constants;
  int entries;
  Entry entry[kMostEntries];
};
static_assert(sizeof(Job) <= 32000);

// A weight [n, k] and its codes, in tiles of 128×128 (`entry.first_block` counts these).
struct CodedEntry {
  Entry entry;
  int n, k;
  uint8_t* codes;  // [n, k], or null
  float* scales;
  uint8_t* transposed;  // [k, n], or null
  float* transposed_scales;
  int64_t codes_stride, scales_stride, transposed_stride, transposed_scales_stride;
  ScaleRule rule;
};
inline constexpr int kTile = 128;
inline constexpr int kMostCodedEntries = 192;
struct CodedJob {
  Constants constants;
  int entries;
  CodedEntry entry[kMostCodedEntries];
};
static_assert(sizeof(CodedJob) <= 32000);

void launch(const Job& job, int blocks, hopper::DeviceStream stream);
void launch(const CodedJob& job, int blocks, hopper::DeviceStream stream);

}  // namespace rorqual::adamw_sm90a_detail
