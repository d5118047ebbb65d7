// AMX: BF16 products by tdpbf16ps; everything between the products is AVX-512, which every CPU with AMX has.
#include <immintrin.h>
#include <math.h>

#include "kernels/attention/job.h"
#include "kernels/common/amx_tile.h"

// GCC 12 calls the undefined vectors inside its own intrinsics uninitialised. The AVX-512 jobs are included, but not used here.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wunused-function"

namespace rorqual::attention {
namespace {

#include "kernels/attention/avx512.inc"
// needs the vectors above
#include "kernels/attention/vector.inc"
// needs the blocks above
#include "kernels/attention/backward.inc"
#include "kernels/attention/forward.inc"
// needs both passes
#include "kernels/attention/amx.inc"

}  // namespace

void forward_amx(const ForwardJob& job) {
  amx_forward_job(job);
}
void backward_amx(const BackwardJob& job) {
  amx_backward_job(job);
}

}  // namespace rorqual::attention
