// A model's tensors in few lines: those that differ in layer or expert alone share one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace rorqual {

struct TensorLine {
  std::string name;   // "model.layers.{3..60}.mlp.experts.{0..255}.gate_proj.weight"
  std::string dtype;  // as safetensors names it
  std::vector<int64_t> shape;
  int64_t tensors = 1;  // how many the line stands for
};

// In the order in which each line's first tensor comes. A line stands for exactly the names it spells: every layer with every
// expert.
std::vector<TensorLine> summarise(const std::vector<TensorLine>& tensors);

}  // namespace rorqual
