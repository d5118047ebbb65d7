// The pieces of the AdamW kernels that select.cc joins. Elements are independent, and every kernel does the same operations in
// the same order, each rounded on its own (no fused multiply-add), so that all instruction sets give the same bits.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/adamw/adamw.h"

namespace rorqual::adamw_detail {

// What a step's constants become, computed in double and rounded once to T.
template <class T>
struct Coefficients {
  T keep;             // 1 - lr·decay
  T beta1, rest1;     // β1, 1 - β1
  T beta2, rest2;     // β2, 1 - β2
  T grad_scale;       //
  T step_size;        // lr / (1 - β1^t)
  T inverse_root_c2;  // 1 / sqrt(1 - β2^t)
  T eps;
};

// A piece of one tensor.
struct Block {
  float* w;
  const float* g;
  void* m;
  void* v;
  bool m_is_bf16, v_is_bf16;
  int64_t count;
  Coefficients<float> c;
};

// The vector kernels of one instruction set, updating one block.
using RunBlock = void (*)(const Block& block);
extern const RunBlock kAvx2, kAvx512;

template <class T>
Coefficients<T> coefficients(const AdamWArgs& args, double decay);

// Where a block lies: `begin` and `count` elements of tensor `tensor`.
struct BlockRange {
  int64_t tensor, begin, count;
};
inline constexpr int64_t kBlockElements = 16384;
// The work of a step: all tensors cut into blocks of at most kBlockElements, in order, none across tensors; task i takes blocks
// [task_begin[i], task_begin[i + 1]), which hold kBlockElements at most, so that many small tensors make one task.
struct Partition {
  std::vector<BlockRange> blocks;
  std::vector<int64_t> task_begin;
  int64_t tasks() const { return static_cast<int64_t>(task_begin.size()) - 1; }
};
Partition cut_work(const AdamWArgs& args);

void run_reference(const AdamWArgs& args, const Stream& stream);

}  // namespace rorqual::adamw_detail
