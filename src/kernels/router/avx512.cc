#include "kernels/common/vec_avx512.h"
#include "kernels/router/kernels.h"
#include "kernels/router/vector.inc"

namespace rorqual::router {

const VectorKernels kAvx512 = {score_row, backward_row};

}  // namespace rorqual::router
