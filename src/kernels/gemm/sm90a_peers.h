// The products that benchmarks compare ours with, where the program has them: sm90a_peers_cuda_bench.cc, which links cuBLASLt,
// fills them in. Empty in the emulator's program.
#pragma once

#include <functional>

#include "kernels/gemm/gemm.h"
#include "tensor/tensor.h"

namespace rorqual {

struct ProductPeers {
  std::function<void(const LinearArgs&, const Stream&)> linear;                   // BF16
  std::function<void(const WeightGradientArgs&, const Stream&)> weight_gradient;  // BF16
  // C [m, n] of E4M3 codes a [m, k] and b [n, k] with scales as cuBLASLt lays them out: a [ceil(k/128), m]; b, if it is a
  // weight, [ceil(n/128), round_up(ceil(k/128), 4)], else like a.
  std::function<void(const Tensor& a, const Tensor& a_scale, const Tensor& b, const Tensor& b_scale, const Tensor& c,
                     bool b_is_weight, bool accumulate, const Stream&)>
      fp8;
};

inline ProductPeers& product_peers() {
  static ProductPeers peers;
  return peers;
}

}  // namespace rorqual
