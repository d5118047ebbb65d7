// AVX-512. BF16 operands are widened and multiplied as floats.
#include <immintrin.h>
#include <math.h>

#include "kernels/attention/job.h"

// GCC 12 calls the undefined vectors inside its own intrinsics uninitialised.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

namespace rorqual::attention {
namespace {

#include "kernels/attention/avx512.inc"
// needs the vectors above
#include "kernels/attention/vector.inc"
// needs the blocks above
#include "kernels/attention/backward.inc"
#include "kernels/attention/forward.inc"
#include "kernels/attention/paged.inc"

}  // namespace

void forward_avx512(const ForwardJob& job) {
  forward_job(job);
}
void backward_avx512(const BackwardJob& job) {
  backward_job(job);
}
void paged_avx512(const PagedJob& job) {
  paged_job(job);
}
void exp2_avx512(const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) store_part(y + i, exp2(load_part(x + i, n - i)), n - i);
}

}  // namespace rorqual::attention
