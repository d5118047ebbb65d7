// The table of attention's kernels and the public functions that choose from it.
#include <array>

#include "kernels/attention/kernels.h"

namespace rorqual {
namespace {

template <class Args>
std::string refuse_nothing(const Args&) {
  return {};
}

constexpr std::array kForward = {
    KernelRow<AttentionForwardArgs>{"reference", Isa::kReference, refuse_nothing<AttentionForwardArgs>,
                                    attention::forward_reference},
};
constexpr std::array kBackward = {
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
