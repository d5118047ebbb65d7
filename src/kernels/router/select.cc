// The tables of router kernels, the checks of their arguments and the partition of their work.
#include <algorithm>
#include <array>

#include "kernels/router/kernels.h"
#include "kernels/router/selection.h"

namespace rorqual {
namespace router {

int64_t tokens_per_task(int64_t experts) {
  return std::max<int64_t>(1, 8192 / std::max<int64_t>(1, experts));
}

namespace {

template <class Args>
std::string accept(const Args&) {
  return {};
}

std::string refuse_forward(const RouterForwardArgs& a) {
  return a.logits.dtype == DType::kF32 ? "" : "logits are not F32";
}

std::string refuse_backward(const RouterBackwardArgs& a) {
  return a.scores.dtype == DType::kF32 ? "" : "scores are not F32";
}

template <const VectorKernels& kernels>
void forward(const RouterForwardArgs& a, const Stream& stream) {
  const int64_t tokens = a.logits.rows, step = tokens_per_task(a.shape.experts);
  const float* bias = a.bias ? a.bias.ptr<float>() : nullptr;
  stream.parallel((tokens + step - 1) / step, [&](int64_t task) {
    std::vector<float> scratch(static_cast<size_t>(choose_scratch(a.shape)));
    std::vector<int32_t> kept(static_cast<size_t>(a.shape.top_groups));
    for (int64_t t = task * step; t < std::min(tokens, (task + 1) * step); ++t) {
      float* scores = a.scores.row<float>(t);
      int32_t* expert = a.expert + t * a.shape.top_k;
      kernels.scores(a.logits.row<float>(t), a.shape.experts, a.shape.score == ScoreFunction::kSoftmax, scores);
      kernels.choose(a.shape, scores, bias, scratch.data(), kept.data(), expert);
      routing_weights(a.shape, scores, expert, a.weight.row<float>(t));
    }
  });
}

template <const VectorKernels& kernels>
void backward(const RouterBackwardArgs& a, const Stream& stream) {
  const int64_t tokens = a.scores.rows, step = tokens_per_task(a.shape.experts);
  const std::vector<float> table = balance_table<float>(a);
  stream.parallel((tokens + step - 1) / step, [&](int64_t task) {
    for (int64_t t = task * step; t < std::min(tokens, (task + 1) * step); ++t)
      kernels.backward({.scores = a.scores.row<float>(t),
                        .balance = table.empty() ? nullptr : table.data() + t / a.sequence_length * a.shape.experts,
                        .expert = a.expert + t * a.shape.top_k,
                        .d_weight = a.d_weight.row<float>(t),
                        .d_logits = a.d_logits.row<float>(t),
                        .experts = a.shape.experts,
                        .top_k = a.shape.top_k,
                        .softmax = a.shape.score == ScoreFunction::kSoftmax,
                        .normalise = a.shape.normalise,
                        .scale = static_cast<float>(a.shape.scale)});
  });
}

constexpr std::array kForward{
    KernelRow<RouterForwardArgs>{"avx512", Isa::kAvx512, refuse_forward, forward<kAvx512>},
    KernelRow<RouterForwardArgs>{"avx2", Isa::kAvx2, refuse_forward, forward<kAvx2>},
    KernelRow<RouterForwardArgs>{"reference", Isa::kReference, accept<RouterForwardArgs>, forward_reference}};
constexpr std::array kBackward{
    KernelRow<RouterBackwardArgs>{"avx512", Isa::kAvx512, refuse_backward, backward<kAvx512>},
    KernelRow<RouterBackwardArgs>{"avx2", Isa::kAvx2, refuse_backward, backward<kAvx2>},
    KernelRow<RouterBackwardArgs>{"reference", Isa::kReference, accept<RouterBackwardArgs>, backward_reference}};

void check_shape(const RouterShape& s) {
  CHECK(s.experts >= 1 && s.top_k >= 1 && s.top_k <= s.experts, "router: top {} of {} experts", s.top_k, s.experts);
  CHECK(s.groups >= 1 && s.experts % s.groups == 0, "router: {} experts in {} groups", s.experts, s.groups);
  CHECK(s.top_groups >= 1 && s.top_groups <= s.groups && s.top_groups * (s.experts / s.groups) >= s.top_k,
        "router: top {} of {} experts from {} of {} groups", s.top_k, s.experts, s.top_groups, s.groups);
}

void check_matrix(const char* name, const Tensor& x, DType dtype, int64_t rows, int64_t cols) {
  CHECK(x && x.dtype == dtype && x.rows == rows && x.cols == cols, "router: {} is {}x{} {}, wanted {}x{} {}", name, x.rows,
        x.cols, dtype_name(x.dtype), rows, cols, dtype_name(dtype));
}

}  // namespace
}  // namespace router

std::span<const KernelRow<RouterForwardArgs>> router_forward_kernels() {
  return router::kForward;
}

std::span<const KernelRow<RouterBackwardArgs>> router_backward_kernels() {
  return router::kBackward;
}

void router_forward(const RouterForwardArgs& args, const Stream& stream) {
  const int64_t tokens = args.logits.rows;
  if (tokens == 0) return;
  const DType dtype = args.logits.dtype;
  router::check_shape(args.shape);
  CHECK(dtype == DType::kF32 || dtype == DType::kF64, "router: logits are {}", dtype_name(dtype));
  router::check_matrix("logits", args.logits, dtype, tokens, args.shape.experts);
  router::check_matrix("scores", args.scores, dtype, tokens, args.shape.experts);
  router::check_matrix("weight", args.weight, dtype, tokens, args.shape.top_k);
  if (args.bias) router::check_matrix("bias", args.bias, dtype, 1, args.shape.experts);
  run_best(router_forward_kernels(), args, stream);
}

void router_backward(const RouterBackwardArgs& args, const Stream& stream) {
  const int64_t tokens = args.scores.rows;
  if (tokens == 0) return;
  const DType dtype = args.scores.dtype;
  router::check_shape(args.shape);
  CHECK(dtype == DType::kF32 || dtype == DType::kF64, "router: scores are {}", dtype_name(dtype));
  router::check_matrix("scores", args.scores, dtype, tokens, args.shape.experts);
  router::check_matrix("d_weight", args.d_weight, dtype, tokens, args.shape.top_k);
  router::check_matrix("d_logits", args.d_logits, dtype, tokens, args.shape.experts);
  CHECK(args.balance_coefficient == 0 || (args.sequence_length >= 1 && tokens % args.sequence_length == 0),
        "router: {} rows are not whole sequences of {}", tokens, args.sequence_length);
  run_best(router_backward_kernels(), args, stream);
}

}  // namespace rorqual
