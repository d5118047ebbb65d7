// How far apart two words are, for "did you mean".
#pragma once

#include <cstddef>
#include <string_view>

namespace rorqual {

// Levenshtein distance: how many bytes to change, add or drop.
size_t edit_distance(std::string_view a, std::string_view b);

}  // namespace rorqual
