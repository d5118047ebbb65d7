#include "kernels/common/vec_avx512.h"
// The vector header first: the code below is written in its names.
#include "kernels/elementwise/vector.inc"

namespace rorqual {
namespace {

// The square of an FP32 number is exact in double, so the fused operation rounds as the sum alone does.
__m512d add_square(__m512d sum, __m256 x) {
  const __m512d wide = _mm512_cvtps_pd(x);
  return _mm512_fmadd_pd(wide, wide, sum);
}

void squares_f32(const float* x, int64_t n, double* lanes) {
  __m512d low = _mm512_setzero_pd(), high = _mm512_setzero_pd();
  for_vectors(n, [&](int64_t i, auto count) {
    const Vec v = load(x + i, count);
    low = add_square(low, low_half(v));
    high = add_square(high, high_half(v));
  });
  _mm512_storeu_pd(lanes, low);
  _mm512_storeu_pd(lanes + 8, high);
}

}  // namespace

const ElementwiseKernels kElementwiseAvx512 = {convert_vectors, combine_vectors, squares_f32,
                                               scale_vectors,   add_vectors,     ema_vectors};

}  // namespace rorqual
