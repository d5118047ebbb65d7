#include "data/fim.h"

#include <algorithm>

#include "base/error.h"
#include "base/rng.h"

namespace rorqual {
namespace {

RandomKey fim_key(uint64_t seed, int64_t epoch, uint32_t draw) {
  return {.seed = seed, .purpose = RandomPurpose::kFillInMiddle, .step = static_cast<uint64_t>(epoch), .layer = draw};
}

uint64_t fim_position(int64_t source, int64_t document) {
  CHECK(source >= 0 && source < (1 << 23) && document >= 0 && document < (int64_t{1} << 40), "source {} document {}", source,
        document);
  return static_cast<uint64_t>(source) << 40 | static_cast<uint64_t>(document);
}

}  // namespace

bool fim_applies(uint64_t seed, int64_t epoch, int64_t source, int64_t document, double rate) {
  return rate > 0 && random_uniform(fim_key(seed, epoch, 0), fim_position(source, document)) < rate;
}

FimSplit fim_split(uint64_t seed, int64_t epoch, int64_t source, int64_t document, int64_t tokens) {
  const uint64_t position = fim_position(source, document);
  const auto boundaries = static_cast<uint64_t>(tokens) + 1;
  const auto a = static_cast<int64_t>(random_below(fim_key(seed, epoch, 1), position, boundaries));
  const auto b = static_cast<int64_t>(random_below(fim_key(seed, epoch, 2), position, boundaries));
  return {std::min(a, b), std::max(a, b)};
}

}  // namespace rorqual
