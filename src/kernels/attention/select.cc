// The table of attention's kernels and the public functions that choose from it.
#include <array>

#include "kernels/attention/kernels.h"

namespace rorqual {
namespace {

template <class Args>
std::string refuse_double(const Args& args) {
  return args.q.dtype == DType::kF64 ? "computes in FP32" : "";
}

void run_forward_avx512(const AttentionForwardArgs& args, const Stream& stream) {
  attention::run_forward_jobs(args, stream, attention::forward_avx512);
}
void run_backward_avx512(const AttentionBackwardArgs& args, const Stream& stream) {
  attention::run_backward_jobs(args, stream, attention::backward_avx512);
}
void run_forward_avx2(const AttentionForwardArgs& args, const Stream& stream) {
  attention::run_forward_jobs(args, stream, attention::forward_avx2);
}
void run_backward_avx2(const AttentionBackwardArgs& args, const Stream& stream) {
  attention::run_backward_jobs(args, stream, attention::backward_avx2);
}

template <class Args>
std::string refuse_nothing(const Args&) {
  return {};
}

constexpr std::array kForward = {
    KernelRow<AttentionForwardArgs>{"avx512", Isa::kAvx512, refuse_double<AttentionForwardArgs>, run_forward_avx512},
    KernelRow<AttentionForwardArgs>{"avx2", Isa::kAvx2, refuse_double<AttentionForwardArgs>, run_forward_avx2},
    KernelRow<AttentionForwardArgs>{"reference", Isa::kReference, refuse_nothing<AttentionForwardArgs>,
                                    attention::forward_reference},
};
constexpr std::array kBackward = {
    KernelRow<AttentionBackwardArgs>{"avx512", Isa::kAvx512, refuse_double<AttentionBackwardArgs>, run_backward_avx512},
    KernelRow<AttentionBackwardArgs>{"avx2", Isa::kAvx2, refuse_double<AttentionBackwardArgs>, run_backward_avx2},
    KernelRow<AttentionBackwardArgs>{"reference", Isa::kReference, refuse_nothing<AttentionBackwardArgs>,
                                     attention::backward_reference},
};

}  // namespace

std::span<const KernelRow<AttentionForwardArgs>> attention_forward_kernels() {
  return kForward;
}
std::span<const KernelRow<AttentionBackwardArgs>> attention_backward_kernels() {
  return kBackward;
}

void attention_forward(const AttentionForwardArgs& args, const Stream& stream) {
  run_best(attention_forward_kernels(), args, stream);
}

void attention_backward(const AttentionBackwardArgs& args, const Stream& stream) {
  run_best(attention_backward_kernels(), args, stream);
}

// The rope part of dk, one per key head, before the sum over heads.
int64_t attention_backward_scratch(const AttentionShape& shape, std::span<const AttentionSequence> sequences) {
  int64_t keys = 0;
  for (const AttentionSequence& s : sequences) keys += s.k_end - s.k_begin;
  return shape.kv_heads * keys * shape.rope_dim;
}

}  // namespace rorqual
