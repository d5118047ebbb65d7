#include "kernels/common/vec_avx512.h"
#include "kernels/embedding/kernels.h"
#include "kernels/embedding/vector.inc"

namespace rorqual::embedding {

const VectorKernels kAvx512 = {{copy_row<float>, copy_row<Bf16>}, {add_tokens<float>, add_tokens<Bf16>}};

}  // namespace rorqual::embedding
