#include "kernels/common/vec_avx2.h"
#include "kernels/router/kernels.h"
#include "kernels/router/vector.inc"

namespace rorqual::router {

const VectorKernels kAvx2 = {score_row, backward_row};

}  // namespace rorqual::router
