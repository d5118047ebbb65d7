// The files of a Hugging Face directory (spec 1.7; interop: "Hugging Face directory").
#pragma once

#include <filesystem>

#include "checkpoint/model_source.h"

namespace rorqual {

inline constexpr const char* kConfigFile = "config.json";
inline constexpr const char* kIndexFile = "model.safetensors.index.json";
inline constexpr const char* kSingleFile = "model.safetensors";

// Reads config.json and maps the weights, one file or shards with their index, into `source`.
void open_hugging_face(const std::filesystem::path& directory, ModelSource& source);

}  // namespace rorqual
