// state.json of a checkpoint (docs/formats/checkpoint.md): everything that is no tensor, the checksums of the tensor files, and
// its own.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace rorqual {

inline constexpr const char* kStateFile = "state.json";
inline constexpr const char* kModelFile = "model.safetensors";
inline constexpr const char* kEmaFile = "ema.safetensors";
inline constexpr const char* kMomentsFile = "moments.safetensors";

std::string encode_state(const CheckpointContents& contents, const std::vector<Checkpoint::File>& files);

// The text of PATH/state.json. Error (runtime) names the file and what is wrong with it.
Checkpoint decode_state(std::string_view text, const std::filesystem::path& checkpoint);

// "step-00000100", and back; −1 for other names.
std::string checkpoint_name(int64_t step);
int64_t checkpoint_step(const std::string& name);

}  // namespace rorqual
