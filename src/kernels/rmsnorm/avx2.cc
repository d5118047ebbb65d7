#include "kernels/common/vec_quantise_avx2.h"
// The vector header first: the code below is written in its names.
#include "kernels/rmsnorm/vector.inc"

namespace rorqual::rmsnorm_avx2 {

double inverse_rms(const void* x, DType x_type, int64_t d, double eps) {
  return inverse_rms_of_row(x, x_type, d, eps);
}
void forward(const void* x, DType x_type, const void* w, double r, void* y, DType y_type, int64_t n) {
  forward_of_row(x, x_type, static_cast<const float*>(w), static_cast<float>(r), y, y_type, n);
}
void forward_quantised(const void* x, DType x_type, int64_t ahead, const void* w, double r, void* plain, DType plain_type,
                       const QuantiseRow& y) {
  forward_quantised_row(x, x_type, ahead, static_cast<const float*>(w), static_cast<float>(r), plain, plain_type, y);
}
void input_gradient_rows(const RmsNormInputGradientArgs& args, int64_t begin, int64_t end) {
  input_gradient_rows_of(args, begin, end);
}
void weight_gradient_block(const RmsNormWeightGradientArgs& args, int64_t begin, int64_t end, void* partial) {
  weight_gradient_block_of(args, begin, end, static_cast<float*>(partial));
}

}  // namespace rorqual::rmsnorm_avx2
