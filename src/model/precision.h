// The precision recipe: which number format each kind of tensor has (report §3.3; spec 2.1). FP8 adds its formats here.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"
#include "tensor/dtype.h"

namespace rorqual {

struct Precision {
  std::string_view name;
  DType compute;  // operands of linear layers, cached activations, attention
  DType full;     // residual stream, norms' weights, router, softmax, master weights, gradients
  DType payload;  // what combine sends of a node's sum
  DType moments;  // AdamW
};

inline Precision precision_from_name(std::string_view name) {
  static constexpr Precision kAll[] = {
      {"fp64", DType::kF64, DType::kF64, DType::kF64, DType::kF64},  // the scalar truth, for tests
      {"fp32", DType::kF32, DType::kF32, DType::kF32, DType::kF32},
      {"bf16", DType::kBF16, DType::kF32, DType::kBF16, DType::kBF16},
  };
  for (const Precision& p : kAll)
    if (p.name == name) return p;
  fail_usage("precision = '{}' is unknown: bf16, fp32 or fp64", name);
}

}  // namespace rorqual
