// What pack_weights' kernel is told, by value in its parameters.
#pragma once

#include "hopper/types.h"
#include "numerics/scale.h"

namespace rorqual::gemm {

enum class PackFrom { kF32, kBF16 };
enum class PackTo { kF32, kBF16, kE4M3 };

// One weight: source [rows, cols] into copies [rows, cols] and [cols, rows], rows without gaps; a null copy is not wanted.
struct PackEntry {
  const void* source;
  int64_t stride;  // of the source, in elements
  void* packed;
  void* transposed;
  float* packed_scale;      // E4M3: [ceil(rows/128), ceil(cols/128)]
  float* transposed_scale;  // E4M3: [ceil(cols/128), ceil(rows/128)]
  int32_t rows, cols;
  int32_t first_tile;  // of 128×128, among all entries' tiles
  float tensor_amax;   // the magnitude that all scales are chosen for, or 0: each block's own
  ScaleRule rule;
  bool wide_source;      // four elements of the source may be loaded at once
  bool wide_packed;      // 16 bytes of a row may be stored at once
  bool wide_transposed;  // likewise
};

inline constexpr int kMostPackEntries = 256;
struct PackJob {
  int32_t entries;
  int32_t tiles;  // of all
  PackEntry entry[kMostPackEntries];
};
static_assert(sizeof(PackJob) <= 32000, "kernels take at most 32,000 bytes of parameters");

inline constexpr int kPackTile = 128;

void launch_pack(PackFrom from, PackTo to, const PackJob& job, void* stream);

}  // namespace rorqual::gemm
