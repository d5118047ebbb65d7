#include "base/rng.h"

#include <cmath>
#include <numbers>

#include "base/error.h"

namespace rorqual {
namespace {

// One pass of splitmix64's finaliser: spreads a small key over 64 bits.
uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

}  // namespace

std::array<uint32_t, 4> detail::philox(std::array<uint32_t, 4> c, uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1), static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1,
         static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

std::array<uint32_t, 4> random_words(const RandomKey& key, uint64_t position) {
  CHECK(key.step < (uint64_t{1} << 48) && key.layer < (1u << 16), "step {} layer {}", key.step, key.layer);
  // The 64-bit Philox key holds seed and purpose; the 128-bit counter holds position, step and layer.
  const uint64_t k = mix(key.seed + 0x9e3779b97f4a7c15ULL * (static_cast<uint64_t>(key.purpose) + 1));
  const uint64_t step_layer = key.step * 0x10000u + key.layer;
  return detail::philox({static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32),
                         static_cast<uint32_t>(step_layer), static_cast<uint32_t>(step_layer >> 32)},
                        static_cast<uint32_t>(k), static_cast<uint32_t>(k >> 32));
}

uint64_t random_u64(const RandomKey& key, uint64_t position) {
  const auto w = random_words(key, position);
  return uint64_t{w[0]} | uint64_t{w[1]} << 32;
}

double random_uniform(const RandomKey& key, uint64_t position) {
  return static_cast<double>(random_u64(key, position) >> 11) * 0x1p-53;
}

double random_normal(const RandomKey& key, uint64_t position) {
  const auto w = random_words(key, position);
  const uint64_t a = uint64_t{w[0]} | uint64_t{w[1]} << 32;
  const uint64_t b = uint64_t{w[2]} | uint64_t{w[3]} << 32;
  const double u = (static_cast<double>(a >> 11) + 0.5) * 0x1p-53;  // in (0, 1): log is finite
  const double v = static_cast<double>(b >> 11) * 0x1p-53;
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
}

uint64_t random_below(const RandomKey& key, uint64_t position, uint64_t n) {
  CHECK(n > 0);
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>((Wide{random_u64(key, position)} * n) >> 64);
}

}  // namespace rorqual
