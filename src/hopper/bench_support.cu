#include "hopper/bench_support_job.h"
#include "hopper/device.h"

namespace rorqual::hopper {
namespace {

constexpr int kThreads = 256, kMostBlocks = 2048;

// 32 bits of (seed, index), well mixed (the finaliser of MurmurHash3, twice).
HOPPER_DEVICE uint32_t mix(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x85ebca6bu;
  x = (x ^ (x >> 13)) * 0xc2b2ae35u;
  return x ^ (x >> 16);
}
HOPPER_DEVICE uint32_t random_bits(uint64_t seed, uint64_t index) {
  const uint32_t high = static_cast<uint32_t>(index >> 32) ^ static_cast<uint32_t>(seed >> 32);
  return mix(mix(static_cast<uint32_t>(index) ^ static_cast<uint32_t>(seed)) + high * 0x9e3779b9u + 1u);
}

// The sum of four bytes, moved to mean 0 and deviation 1.
HOPPER_DEVICE float nearly_normal(uint32_t bits) {
  const int sum = static_cast<int>((bits & 255u) + (bits >> 8 & 255u) + (bits >> 16 & 255u) + (bits >> 24));
  return (static_cast<float>(sum) - 510.0f) * (1.0f / 147.8f);
}

// Word `index` of memory filled in this way.
HOPPER_DEVICE uint32_t word_of(Fill fill, uint64_t seed, uint64_t index) {
  const uint32_t bits = random_bits(seed, index);
  if (fill == Fill::kF32) return float_to_bits(nearly_normal(bits));
  if (fill == Fill::kScales) return (119u << 23) | (bits & 0x7fffffu);
  if (fill == Fill::kPow2Scales) return (119u + (bits & 1u)) << 23;
  const float a = nearly_normal(bits), b = nearly_normal(mix(bits + 1u));
  if (fill == Fill::kBf16) return to_bf16x2(a, b);
  const float c = nearly_normal(mix(bits + 2u)), d = nearly_normal(mix(bits + 3u));
  return static_cast<uint32_t>(to_e4m3x2(100.0f * a, 100.0f * b)) | static_cast<uint32_t>(to_e4m3x2(100.0f * c, 100.0f * d))
                                                                        << 16;
}

HOPPER_KERNEL_BLOCKS(kThreads, 4)
void fill_kernel(Words4* to, int64_t chunks, Fill fill, uint64_t seed) {
  const int64_t step = static_cast<int64_t>(block_count()) * block_threads();
  for (int64_t i = static_cast<int64_t>(block_index()) * block_threads() + thread_index(); i < chunks; i += step) {
    Words4 words;
    HOPPER_UNROLL
    for (int j = 0; j < 4; ++j) words.w[j] = word_of(fill, seed, static_cast<uint64_t>(4 * i + j));
    to[i] = words;
  }
}

HOPPER_KERNEL(32)
void nothing_kernel(int) {}

}  // namespace

void launch_fill(void* to, int64_t chunks, Fill fill, uint64_t seed) {
  const int64_t blocks = (chunks + kThreads - 1) / kThreads;
  HOPPER_LAUNCH(fill_kernel,
                LaunchShape{.blocks = static_cast<uint32_t>(blocks < kMostBlocks ? blocks : kMostBlocks), .threads = kThreads},
                nullptr, static_cast<Words4*>(to), chunks, fill, seed);
}

void launch_nothing(DeviceStream stream) {
  HOPPER_LAUNCH(nothing_kernel, LaunchShape{.blocks = 1, .threads = 32}, stream, 0);
}

}  // namespace rorqual::hopper
