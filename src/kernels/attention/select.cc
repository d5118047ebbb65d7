// The table of attention's kernels and the public functions that choose from it.
#include "kernels/attention/kernels.h"

namespace rorqual {
namespace {

template <class Args>
std::string anything(const Args&) {
  return {};
}
template <DType kOperands, class Args>
std::string only(const Args& args) {
  if (args.q.dtype == kOperands) return {};
  return fmt::format("operands are {}, not {}", dtype_name(args.q.dtype), dtype_name(kOperands));
}
template <void (*kJob)(const attention::ForwardJob&)>
void run_forward(const AttentionForwardArgs& args, const Stream& stream) {
  attention::run_forward_jobs(args, stream, kJob);
}
template <void (*kJob)(const attention::BackwardJob&)>
void run_backward(const AttentionBackwardArgs& args, const Stream& stream) {
  attention::run_backward_jobs(args, stream, kJob);
}
void run_forward_amx(const AttentionForwardArgs& args, const Stream& stream) {
  attention::run_forward_jobs(args, stream, attention::forward_amx, attention::amx_forward_scratch);
}
void run_backward_amx(const AttentionBackwardArgs& args, const Stream& stream) {
  attention::run_backward_jobs(args, stream, attention::backward_amx, attention::amx_backward_scratch);
}
template <void (*kJob)(const attention::PagedJob&)>
void run_paged(const PagedAttentionArgs& args, const Stream& stream) {
  attention::run_paged_jobs(args, stream, kJob);
}
constexpr auto kF32 = DType::kF32, kBF16 = DType::kBF16;

constexpr KernelRow<AttentionForwardArgs> kForward[] = {
    {"amx_bf16", Isa::kAmx, only<kBF16>, run_forward_amx},
    {"avx512_bf16", Isa::kAvx512, only<kBF16>, run_forward<attention::forward_avx512>},
    {"avx512_f32", Isa::kAvx512, only<kF32>, run_forward<attention::forward_avx512>},
    {"avx2_bf16", Isa::kAvx2, only<kBF16>, run_forward<attention::forward_avx2>},
    {"avx2_f32", Isa::kAvx2, only<kF32>, run_forward<attention::forward_avx2>},
    {"reference", Isa::kReference, anything, attention::forward_reference},
};
constexpr KernelRow<AttentionBackwardArgs> kBackward[] = {
    {"amx_bf16", Isa::kAmx, only<kBF16>, run_backward_amx},
    {"avx512_bf16", Isa::kAvx512, only<kBF16>, run_backward<attention::backward_avx512>},
    {"avx512_f32", Isa::kAvx512, only<kF32>, run_backward<attention::backward_avx512>},
    {"avx2_bf16", Isa::kAvx2, only<kBF16>, run_backward<attention::backward_avx2>},
    {"avx2_f32", Isa::kAvx2, only<kF32>, run_backward<attention::backward_avx2>},
    {"reference", Isa::kReference, anything, attention::backward_reference},
};
constexpr KernelRow<PagedAttentionArgs> kPaged[] = {
    {"avx512_bf16", Isa::kAvx512, only<kBF16>, run_paged<attention::paged_avx512>},
    {"avx512_f32", Isa::kAvx512, only<kF32>, run_paged<attention::paged_avx512>},
    {"avx2_bf16", Isa::kAvx2, only<kBF16>, run_paged<attention::paged_avx2>},
    {"avx2_f32", Isa::kAvx2, only<kF32>, run_paged<attention::paged_avx2>},
    {"reference", Isa::kReference, anything, attention::paged_reference},
};

}  // namespace

std::span<const KernelRow<AttentionForwardArgs>> attention_forward_kernels() {
  return kForward;
}
std::span<const KernelRow<AttentionBackwardArgs>> attention_backward_kernels() {
  return kBackward;
}

std::span<const KernelRow<PagedAttentionArgs>> paged_attention_kernels() {
  return kPaged;
}

void attention_forward(const AttentionForwardArgs& args, const Stream& stream) {
  run_best(attention_forward_kernels(), args, stream);
}

void attention_backward(const AttentionBackwardArgs& args, const Stream& stream) {
  run_best(attention_backward_kernels(), args, stream);
}

void paged_attention(const PagedAttentionArgs& args, const Stream& stream) {
  attention::check_paged(args);
  run_best(paged_attention_kernels(), args, stream);
}

// The rope part of dk, one per key head, before the sum over heads.
int64_t attention_backward_scratch(const AttentionShape& shape, std::span<const AttentionSequence> sequences) {
  int64_t keys = 0;
  for (const AttentionSequence& s : sequences) keys += s.k_end - s.k_begin;
  return shape.kv_heads * keys * shape.rope_dim;
}

}  // namespace rorqual
