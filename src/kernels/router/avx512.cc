#include "kernels/common/vec_avx512.h"
#include "kernels/router/kernels.h"

namespace rorqual::router {
namespace {

inline Mask same(Vec a, Vec b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}
inline unsigned lane_bits(Mask mask) {
  return mask;
}
// Lane i receives lane i ^ step.
inline Vec exchange(Vec x, int step) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm512_permutexvar_ps(_mm512_xor_si512(lane, _mm512_set1_epi32(step)), x);
}

}  // namespace
}  // namespace rorqual::router

#include "kernels/router/choose.inc"
#include "kernels/router/vector.inc"

namespace rorqual::router {

const VectorKernels kAvx512 = {score_row, choose, backward_row};

}  // namespace rorqual::router
