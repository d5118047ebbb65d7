// The files of a Hugging Face directory (spec 1.7; interop: "Hugging Face directory").
#pragma once

#include <filesystem>

#include "checkpoint/model_source.h"

namespace rorqual {

inline constexpr const char* kConfigFile = "config.json";
inline constexpr const char* kIndexFile = "model.safetensors.index.json";
inline constexpr const char* kSingleFile = "model.safetensors";
// "X.weight" in FP8 has its scales in "X.weight_scale_inv".
inline constexpr const char* kScaleSuffix = "_scale_inv";
// Of config.json: what an export of ours says of its training, {"tokens_seen": 1000000, "heldout_loss": 2.5}.
inline constexpr const char* kTrainingKey = "rorqual";

// Reads config.json and maps the weights, one file or shards with their index, into `source`.
void open_hugging_face(const std::filesystem::path& directory, ModelSource& source);

}  // namespace rorqual
