// Tensors by logical name: what checkpoints hold, whatever the layout of the run that wrote them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/weights.h"
#include "tensor/safetensors.h"

namespace rorqual {

struct NamedTensor {
  std::string name;
  std::vector<int64_t> shape;
  Tensor values;  // as many elements as the shape has, row by row
};

// [n] of a vector, else [rows, cols].
std::vector<int64_t> shape_of(const TensorSpec& spec);

// Every tensor of the list as a view into two flat regions laid out as Weights has them, named prefix + name. With
// trainable_only the routing biases are left out: they have no moments.
std::vector<NamedTensor> named_tensors(const TensorList& list, const Tensor& dense, const Tensor& expert,
                                       const std::string& prefix = "", bool trainable_only = false);
// The master weights.
std::vector<NamedTensor> named_tensors(const Weights& weights);

// Fills the targets from a file, bit for bit. Error (runtime) names the file and what differs: tensors that it lacks or has
// besides, shapes, dtypes. Nothing is written before everything fits.
void restore(const SafetensorsFile& file, const std::vector<NamedTensor>& targets);

// "a, b, c and 4 more": names in messages.
std::string some_of(const std::vector<std::string>& names);

}  // namespace rorqual
