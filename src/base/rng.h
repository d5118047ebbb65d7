// Counter-based random numbers: Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
// A value is a pure function of (seed, purpose, step, layer, position): no state to save, no order to keep.
#pragma once

#include <array>
#include <cstdint>

namespace rorqual {

// What a number is drawn for; two purposes never share numbers. The values are part of the checkpoint format: never renumber.
enum class RandomPurpose : uint32_t {
  kInitialise = 1,    // layer = tensor index, position = element
  kShuffle = 2,       // step = epoch, position = document or sequence
  kFillInMiddle = 3,  // step = epoch, position = document; layer = draw
  kSample = 4,        // step = request seed, layer = draw, position = token position
  kSplit = 5,
  kSimulate = 6,  // layer = draw of what, position = draw
  kTest = 100,
};

struct RandomKey {
  uint64_t seed = 0;
  RandomPurpose purpose = RandomPurpose::kTest;
  uint64_t step = 0;   // below 2^48
  uint32_t layer = 0;  // below 2^16
};

namespace detail {
// The raw function of the paper, ten rounds: counter and key to four words. For its known answers; draw from the functions
// below.
std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, uint32_t key0, uint32_t key1);
}  // namespace detail

// Four independent 32-bit words for one position.
std::array<uint32_t, 4> random_words(const RandomKey& key, uint64_t position);
uint64_t random_u64(const RandomKey& key, uint64_t position);
// Uniform in [0, 1), 53 bits.
double random_uniform(const RandomKey& key, uint64_t position);
// Standard normal (Box-Muller on two uniforms of the same position).
double random_normal(const RandomKey& key, uint64_t position);
// Uniform integer in [0, n), n >= 1, without modulo bias beyond 2^-64·n.
uint64_t random_below(const RandomKey& key, uint64_t position, uint64_t n);

}  // namespace rorqual
