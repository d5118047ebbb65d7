// Writes a model as a Hugging Face directory (spec 1.7): config.json, model*.safetensors with index, the tokenizer's files and
// generation_config.json. The bytes depend on the model and the options alone: no dates, no paths.
#pragma once

#include <cstdint>
#include <filesystem>

#include "checkpoint/model_source.h"

namespace rorqual {

struct ExportOptions {
  DType dtype = DType::kBF16;           // or kF32; routing biases are F32 always
  bool ema = false;                     // the averaged weights
  int64_t shard_bytes = 5'000'000'000;  // of tensors in a file, at most, unless one tensor is larger
};

// Error: the directory exists and is not empty, or is no directory (usage); the source has FP8 weights, no averaged weights or
// no tokenizer; the disk is full. The directory appears whole or not at all.
void export_model(const ModelSource& source, const std::filesystem::path& directory, const ExportOptions& options);

}  // namespace rorqual
