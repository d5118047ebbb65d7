// For tests: the AMX row with its tile instructions in software, so that its blocks, packing and order of sums are tested on
// CPUs that lack the unit. TDPBF16PS after Intel's "Architecture Instruction Set Extensions Programming Reference": for every
// row m and column n of the destination
//   even = odd = 0
//   for k ascending over the 16 pairs:   even = fma(a[m][k].even, b[k][n].even, even),   odd likewise
//   dst[m][n] += even + odd
// in FP32, rounded to nearest even, denormal inputs and outputs of every operation taken as zero, whatever MXCSR says.
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/attention/job.h"

#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wunused-function"

namespace rorqual::attention {
namespace {

class TileModel {
 public:
  void configure(bool on) { configured_ = on; }
  void zero(int tile) { memset(bytes(tile), 0, sizeof(tiles_[0])); }
  void load(int tile, const void* from, int64_t stride_bytes) {
    for (int r = 0; r < 16; ++r) memcpy(bytes(tile) + 64 * r, static_cast<const char*>(from) + r * stride_bytes, 64);
  }
  void store(int tile, void* to, int64_t stride_bytes) {
    for (int r = 0; r < 16; ++r) memcpy(static_cast<char*>(to) + r * stride_bytes, bytes(tile) + 64 * r, 64);
  }
  void dot(int sum, int a, int b) {
    for (int m = 0; m < 16; ++m)
      for (int n = 0; n < 16; ++n) {
        float even = 0, odd = 0, c;
        for (int k = 0; k < 16; ++k) {
          even = flush(fmaf(bf16(a, m, 2 * k), bf16(b, k, 2 * n), even));
          odd = flush(fmaf(bf16(a, m, 2 * k + 1), bf16(b, k, 2 * n + 1), odd));
        }
        char* at = bytes(sum) + 64 * m + 4 * n;
        memcpy(&c, at, 4);
        c = flush(flush(c) + flush(even + odd));
        memcpy(at, &c, 4);
      }
  }

 private:
  char* bytes(int tile) {
    if (!configured_) __builtin_trap();  // as the unit does
    return tiles_[tile];
  }
  static float flush(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x; }
  float bf16(int tile, int row, int column) {
    uint16_t half;
    memcpy(&half, bytes(tile) + 64 * row + 2 * column, 2);
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float x;
    memcpy(&x, &bits, 4);
    return flush(x);
  }

  bool configured_ = false;
  char tiles_[8][1024];
};
thread_local TileModel tile_model;

#define TILE_CONFIGURE() tile_model.configure(true)
#define TILE_RELEASE() tile_model.configure(false)
#define TILE_ZERO(tile) tile_model.zero(tile)
#define TILE_LOAD(tile, from, stride_bytes) tile_model.load(tile, from, stride_bytes)
#define TILE_STORE(tile, to, stride_bytes) tile_model.store(tile, to, stride_bytes)
#define TILE_DOT(sum, a, b) tile_model.dot(sum, a, b)

#include "kernels/attention/avx512.inc"
// needs the vectors above
#include "kernels/attention/vector.inc"
// needs the blocks above
#include "kernels/attention/backward.inc"
#include "kernels/attention/forward.inc"
// needs both passes
#include "kernels/attention/amx.inc"

}  // namespace

void forward_amx_model(const ForwardJob& job) {
  amx_forward_job(job);
}
void backward_amx_model(const BackwardJob& job) {
  amx_backward_job(job);
}

}  // namespace rorqual::attention
