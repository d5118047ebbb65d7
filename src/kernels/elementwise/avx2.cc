#include "kernels/common/vec_avx2.h"
// The vector header first: the code below is written in its names.
#include "kernels/elementwise/vector.inc"

namespace rorqual {
namespace {

// The square of an FP32 number is exact in double, so the fused operation rounds as the sum alone does.
__m256d add_square(__m256d sum, __m128 x) {
  const __m256d wide = _mm256_cvtps_pd(x);
  return _mm256_fmadd_pd(wide, wide, sum);
}

void squares_f32(const float* x, int64_t n, double* lanes) {
  __m256d a = _mm256_setzero_pd(), b = a, c = a, d = a;
  int64_t i = 0;
  for (; i + kSquaresLanes <= n; i += kSquaresLanes) {
    a = add_square(a, _mm_loadu_ps(x + i));
    b = add_square(b, _mm_loadu_ps(x + i + 4));
    c = add_square(c, _mm_loadu_ps(x + i + 8));
    d = add_square(d, _mm_loadu_ps(x + i + 12));
  }
  _mm256_storeu_pd(lanes, a);
  _mm256_storeu_pd(lanes + 4, b);
  _mm256_storeu_pd(lanes + 8, c);
  _mm256_storeu_pd(lanes + 12, d);
  for (int lane = 0; i < n; ++i, ++lane) lanes[lane] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
}

}  // namespace

const ElementwiseKernels kElementwiseAvx2 = {convert_vectors, combine_vectors, squares_f32,
                                             scale_vectors,   add_vectors,     ema_vectors};

}  // namespace rorqual
