#include "kernels/common/vec_avx2.h"
#include "kernels/embedding/kernels.h"
#include "kernels/embedding/vector.inc"

namespace rorqual::embedding {

const VectorKernels kAvx2 = {{copy_row<float>, copy_row<Bf16>}, {add_tokens<float>, add_tokens<Bf16>}};

}  // namespace rorqual::embedding
