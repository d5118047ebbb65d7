// The tile instructions of amx_tile.h in software, exact to the bit, for machines without the unit. TDPBF16PS after Intel's
// "Architecture Instruction Set Extensions Programming Reference": for every row m and column n of the destination
//   even = odd = 0
//   for k ascending over the 16 pairs:   even = fma(a[m][k].even, b[k][n].even, even),   odd likewise
//   dst[m][n] += even + odd
// in FP32, rounded to nearest even, denormal inputs and outputs of every operation taken as zero, whatever MXCSR says.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "base/error.h"

namespace rorqual::gemm {

class TileModel {
 public:
  void configure() { configured_ = true; }
  void release() { configured_ = false; }
  void zero(int tile) {
    check();
    std::memset(&tiles_[tile], 0, sizeof(Tile));
  }
  void load(int tile, const void* from, int64_t stride_bytes) {
    check();
    for (int r = 0; r < 16; ++r) std::memcpy(tiles_[tile].bytes[r], static_cast<const char*>(from) + r * stride_bytes, 64);
  }
  void store(int tile, void* to, int64_t stride_bytes) {
    check();
    for (int r = 0; r < 16; ++r) std::memcpy(static_cast<char*>(to) + r * stride_bytes, tiles_[tile].bytes[r], 64);
  }
  void dot(int sum, int a, int b) {
    check();
    for (int m = 0; m < 16; ++m) {
      for (int n = 0; n < 16; ++n) {
        float even = 0, odd = 0;
        for (int k = 0; k < 16; ++k) {
          even = flush(std::fma(bf16(a, m, 2 * k), bf16(b, k, 2 * n), even));
          odd = flush(std::fma(bf16(a, m, 2 * k + 1), bf16(b, k, 2 * n + 1), odd));
        }
        float c;
        std::memcpy(&c, tiles_[sum].bytes[m] + 4 * n, 4);
        c = flush(flush(c) + flush(even + odd));
        std::memcpy(tiles_[sum].bytes[m] + 4 * n, &c, 4);
      }
    }
  }

 private:
  struct Tile {
    unsigned char bytes[16][64];
  };
  void check() const { CHECK(configured_, "tile instruction without a configuration"); }
  static float flush(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }
  float bf16(int tile, int row, int column) const {
    uint16_t half;
    std::memcpy(&half, tiles_[tile].bytes[row] + 2 * column, 2);
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return flush(x);
  }

  bool configured_ = false;
  Tile tiles_[8];
};

inline TileModel& tile_model() {
  thread_local TileModel model;
  return model;
}

}  // namespace rorqual::gemm

#define TILE_CONFIGURE() tile_model().configure()
#define TILE_RELEASE() tile_model().release()
#define TILE_ZERO(tile) tile_model().zero(tile)
#define TILE_LOAD(tile, from, stride_bytes) tile_model().load(tile, from, stride_bytes)
#define TILE_STORE(tile, to, stride_bytes) tile_model().store(tile, to, stride_bytes)
#define TILE_DOT(sum, a, b) tile_model().dot(sum, a, b)
