// Writes a model as a Hugging Face directory (spec 1.7): config.json, model*.safetensors with index, the tokenizer's files and
// generation_config.json. The bytes depend on the model and the options alone: no dates, no paths. Needs memory for a few rows
// of a tensor, however large the model.
#pragma once

#include <cstdint>
#include <filesystem>

#include "checkpoint/model_source.h"
#include "data/tokenizer.h"

namespace rorqual {

struct ExportOptions {
  // Or kF32, or kE4M3: linear layers and experts in FP8 with a scale per 128×128, the rest BF16. Routing biases are F32 always.
  DType dtype = DType::kBF16;
  bool ema = false;                     // the averaged weights
  int64_t shard_bytes = 5'000'000'000;  // of tensors in a file, at most, unless one tensor is larger
};

// FP8: codes and scales of weights that are in FP8 already, in blocks of 128×128, are kept as they are. Other weights get
// scales that are powers of two, chosen as training with such scales chooses them.
// Error: the directory exists and is not empty, or is no directory (usage); the source has no averaged weights or no tokenizer;
// the disk is full. The directory appears whole or not at all.
void export_model(const ModelSource& source, const std::filesystem::path& directory, const ExportOptions& options);

// What every export asks of its source. Error (runtime): a tensor of a dtype that cannot be read, a tokenizer that is larger
// than the vocabulary, no averaged weights.
void check_exportable(const ModelSource& source, const Tokenizer& tokenizer, bool ema);

}  // namespace rorqual
