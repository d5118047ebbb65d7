#include "kernels/common/vec_quantise_avx2.h"
// The vector header first: the code below is written in its names.
#include "kernels/swiglu/vector.inc"

namespace rorqual::swiglu_avx2 {

void forward(const void* gate, const void* up, DType x_type, double weight, void* h, DType h_type, int64_t n) {
  forward_of_row(gate, up, x_type, static_cast<float>(weight), h, h_type, n);
}
void forward_quantised(const void* gate, const void* up, DType x_type, double weight, int64_t ahead, const QuantiseRow& h,
                       const QuantiseRow* gate_cache, const QuantiseRow* up_cache) {
  forward_quantised_row(gate, up, x_type, static_cast<float>(weight), ahead, h, gate_cache, up_cache);
}
void forward_of_codes(const uint8_t* codes, const float* scales, double weight, int64_t ahead, const QuantiseRow& h) {
  forward_of_codes_row(codes, scales, static_cast<float>(weight), ahead, h);
}
double backward_of_codes(const uint8_t* codes, const float* scales, double weight, const void* d_h, DType d_h_type,
                         float* d_gate_up, int64_t width) {
  return backward_of_codes_row(codes, scales, static_cast<float>(weight), d_h, d_h_type, d_gate_up, width);
}
double backward(const void* gate_up, DType x_type, double weight, const void* d_h, DType d_h_type, void* d_gate_up,
                DType d_type, int64_t width) {
  return backward_of_row(gate_up, x_type, static_cast<float>(weight), d_h, d_h_type, d_gate_up, d_type, width);
}

}  // namespace rorqual::swiglu_avx2
