// Writes a model as a GGUF file of llama.cpp's architecture "deepseek2" (spec interop: "GGUF for llama.cpp";
// docs/formats/gguf.md).
#pragma once

#include <filesystem>
#include <string>

#include "checkpoint/model_source.h"
#include "tensor/gguf.h"

namespace rorqual {

struct GgufOptions {
  // Or kGgmlF32 or kGgmlQ8. Vectors and the router are F32 always; rows that Q8_0's blocks of 32 do not divide are BF16.
  GgmlType type = kGgmlBf16;
  bool ema = false;  // the averaged weights
};

// Why llama.cpp would compute something else than this model, or refuse it; "" if nothing is known against it.
std::string gguf_objection(const ModelConfig& config);

// Without the MTP modules, which llama.cpp's deepseek2 has no use for. Tokenizer, chat template, tokens seen and held-out loss
// go into the metadata. The bytes depend on the model and the options alone. Needs memory for a few rows of a tensor. Error:
// the file exists (usage); an objection; no tokenizer; no averaged weights; a full disk. The file appears whole or not at all.
void export_gguf(const ModelSource& source, const std::filesystem::path& file, const GgufOptions& options);

}  // namespace rorqual
