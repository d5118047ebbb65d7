#include "kernels/gemm/sm90a_cublaslt.h"
#include "kernels/gemm/sm90a_peers.h"

namespace rorqual {
namespace {

const bool kFilled = [] {
  product_peers() = {
      .linear = linear_cublaslt,
      .weight_gradient = weight_gradient_cublaslt,
      .fp8 =
          [](const Tensor& a, const Tensor& a_scale, const Tensor& b, const Tensor& b_scale, const Tensor& c, bool b_is_weight,
             bool accumulate, const Stream& stream) {
            multiply_fp8_cublaslt({.a = a,
                                   .a_scale = a_scale.ptr<float>(),
                                   .b = b,
                                   .b_scale = b_scale.ptr<float>(),
                                   .b_blocks = b_is_weight,
                                   .c = c,
                                   .accumulate = accumulate},
                                  stream);
          },
  };
  return true;
}();

}  // namespace
}  // namespace rorqual
