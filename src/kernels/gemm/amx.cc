// AMX: bf16 products by tdpbf16ps, two by two tiles of 16 × 16 sums.
#include "base/threads.h"
#include "kernels/common/amx_tile.h"
#include "kernels/gemm/kernels.h"

namespace rorqual::gemm {
namespace {

// Tiles are packed by AVX-512, which every CPU with AMX has.
constexpr auto pack_pairs = pack_pairs_avx512;
constexpr auto pack_transposed = pack_transposed_avx512;
constexpr auto pack_scaled_pairs = pack_scaled_pairs_avx512;
constexpr auto pack_scaled_transposed = pack_scaled_transposed_avx512;
constexpr auto decode_row = decode_row_avx512;
constexpr auto decode_panel = decode_panel_avx512;

#include "kernels/gemm/amx.inc"

}  // namespace

void linear_amx_bf16(const LinearBlock& block) {
  if (block.out == DType::kF32) return linear_block<float>(block);
  linear_block<uint16_t>(block);
}
void gradient_amx_bf16(const GradientBlock& block) {
  gradient_block(block);
}
void linear_amx_fp8(const LinearBlock& block) {
  if (block.out == DType::kF32) return linear_block_fp8<float>(block);
  linear_block_fp8<uint16_t>(block);
}
void gradient_amx_fp8(const GradientBlock& block) {
  gradient_block_fp8(block);
}

double peak_amx(int64_t rounds) {
  TILE_CONFIGURE();
  zero_accumulators();
  TILE_ZERO(4);
  TILE_ZERO(5);
  TILE_ZERO(6);
  TILE_ZERO(7);
  for (int64_t r = 0; r < rounds; ++r) {
    TILE_DOT(0, 4, 6);
    TILE_DOT(1, 4, 7);
    TILE_DOT(2, 5, 6);
    TILE_DOT(3, 5, 7);
  }
  TILE_RELEASE();
  return 4.0 * 2 * 16 * 16 * 32 * static_cast<double>(rounds);
}

}  // namespace rorqual::gemm
