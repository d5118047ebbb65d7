// The tile instructions that the AMX kernels use, on the unit itself. Macros, since a tile's number is part of the instruction.
// Every tile has 16 rows of 64 bytes. gemm/amx_model.h has the same names in software.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace rorqual {
namespace {

struct alignas(64) TileConfiguration {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfiguration) == 64);
constexpr TileConfiguration kTileConfiguration;

}  // namespace
}  // namespace rorqual

// Of the calling thread, until TILE_RELEASE.
#define TILE_CONFIGURE() _tile_loadconfig(&kTileConfiguration)
#define TILE_RELEASE() _tile_release()
#define TILE_ZERO(tile) _tile_zero(tile)
#define TILE_LOAD(tile, from, stride_bytes) _tile_loadd(tile, from, stride_bytes)
#define TILE_STORE(tile, to, stride_bytes) _tile_stored(tile, to, stride_bytes)
// tile `sum` += tile `a` (16 rows × 16 pairs of bf16) · tile `b` (16 pairs × 16 columns), by tdpbf16ps.
#define TILE_DOT(sum, a, b) _tile_dpbf16ps(sum, a, b)
