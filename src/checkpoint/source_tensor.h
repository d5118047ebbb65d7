// A tensor in the files of a model: where its values lie, and how they are read without holding more than a few rows.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "tensor/safetensors.h"

namespace rorqual {

struct SourceTensor {
  const SafetensorsFile* file = nullptr;
  const SafetensorsEntry* entry = nullptr;
  // Of FP8: value[o, i] = code[o, i] · scale[o / block_rows, i / block_cols] (spec 1.7). The scales may lie in another file.
  const SafetensorsFile* scale_file = nullptr;
  const SafetensorsEntry* scale = nullptr;
  int64_t block_rows = 0, block_cols = 0;

  bool is_fp8() const { return scale != nullptr; }
  // As a matrix: all dimensions but the last one are rows.
  int64_t rows() const;
  int64_t cols() const;
  std::string where() const { return file->path().string(); }
};
using SourceTensors = std::map<std::string, SourceTensor>;

// Error (runtime) names the file, the tensor and its dtype unless read_rows can read it.
void check_readable(const SourceTensor& tensor);

// Rows [begin, begin + target.rows) into `target` (F64, F32 or BF16), rounding to nearest even where that is narrower. FP8
// values are products in FP32, as elsewhere, before they are rounded. For any number of threads at once.
void read_rows(const SourceTensor& tensor, int64_t begin, const Tensor& target);

// The tensor band by band: body(first row, rows as `dtype`), in order. A band has some number of 128 rows, and a few megabytes
// if the rows are short; what has been read is forgotten, so memory does not grow with the tensor's rows.
void for_each_band(const SourceTensor& tensor, DType dtype, const std::function<void(int64_t, const Tensor&)>& body);

// The memory of the file behind a tensor that has been read can go.
void forget(const SourceTensor& tensor);

}  // namespace rorqual
