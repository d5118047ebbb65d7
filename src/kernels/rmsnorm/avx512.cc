#include "kernels/common/vec_avx512.h"
// The vector header first: the code below is written in its names.
#include "kernels/rmsnorm/vector.inc"

namespace rorqual::rmsnorm_avx512 {

void forward_rows(const RmsNormForwardArgs& args, int64_t begin, int64_t end) {
  forward_rows_of(args, begin, end);
}
void input_gradient_rows(const RmsNormInputGradientArgs& args, int64_t begin, int64_t end) {
  input_gradient_rows_of(args, begin, end);
}
void weight_gradient_block(const RmsNormWeightGradientArgs& args, int64_t begin, int64_t end, void* partial) {
  weight_gradient_block_of(args, begin, end, static_cast<float*>(partial));
}

}  // namespace rorqual::rmsnorm_avx512
