#include "kernels/common/vec_avx512.h"
#include "kernels/cross_entropy/kernels.h"
#include "kernels/cross_entropy/vector.inc"

namespace rorqual::cross_entropy_detail {

const VectorKernels kAvx512 = {
    {sum_row<float>, sum_row<Bf16>},
    {{gradient_row<float, float>, gradient_row<float, Bf16>}, {gradient_row<Bf16, float>, gradient_row<Bf16, Bf16>}}};

}  // namespace rorqual::cross_entropy_detail
