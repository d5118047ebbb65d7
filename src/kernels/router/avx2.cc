#include "kernels/common/vec_avx2.h"
#include "kernels/router/kernels.h"

namespace rorqual::router {
namespace {

inline Mask same(Vec a, Vec b) {
  return _mm256_cmp_ps(a, b, _CMP_EQ_OQ);
}
inline unsigned lane_bits(Mask mask) {
  return static_cast<unsigned>(_mm256_movemask_ps(mask));
}
// Lane i receives lane i ^ step.
inline Vec exchange(Vec x, int step) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_permutevar8x32_ps(x, _mm256_xor_si256(lane, _mm256_set1_epi32(step)));
}

}  // namespace
}  // namespace rorqual::router

#include "kernels/router/choose.inc"
#include "kernels/router/vector.inc"

namespace rorqual::router {

const VectorKernels kAvx2 = {score_row, choose, backward_row};

}  // namespace rorqual::router
