#include "kernels/router/sm90a.h"

#include "hopper/runtime.h"
#include "kernels/router/kernels.h"
#include "kernels/router/sm90a_job.h"

namespace rorqual {
namespace {

using namespace router_sm90a_detail;  // NOLINT: the jobs' types

static_assert(router_sm90a_detail::kTiny == router::kTiny);

void check_shape(const RouterShape& s) {
  CHECK(s.experts >= 1 && s.top_k >= 1 && s.top_k <= s.experts, "router: top {} of {} experts", s.top_k, s.experts);
  CHECK(s.groups >= 1 && s.experts % s.groups == 0, "router: {} experts in {} groups", s.experts, s.groups);
  CHECK(s.top_groups >= 1 && s.top_groups <= s.groups && s.top_groups * (s.experts / s.groups) >= s.top_k,
        "router: top {} of {} experts from {} of {} groups", s.top_k, s.experts, s.top_groups, s.groups);
}

void check_matrix(const char* name, const Tensor& x, int64_t rows, int64_t cols) {
  CHECK(x && x.dtype == DType::kF32 && x.rows == rows && x.cols == cols, "router: {} is {}x{} {}, wanted {}x{} F32", name,
        x.rows, x.cols, dtype_name(x.dtype), rows, cols);
}

// f_i of a sequence per token counted.
double frequency_unit(const RouterShape& shape, int64_t sequence_length) {
  return static_cast<double>(shape.experts) / static_cast<double>(shape.top_k * sequence_length);
}

std::string refuse(const RouterShape& shape, const Tensor& x) {
  if (x.dtype != DType::kF32) return "not F32";
  if (shape.experts > kMostExperts) return "more than 512 experts";
  if (shape.groups > kMostGroups) return "more than 32 groups";
  return x.rows <= INT32_MAX - kMostExperts * kMostExperts ? "" : "too many tokens";
}

Shape shape_of(const RouterShape& s) {
  return {.experts = static_cast<int>(s.experts),
          .top_k = static_cast<int>(s.top_k),
          .groups = static_cast<int>(s.groups),
          .top_groups = static_cast<int>(s.top_groups),
          .softmax = s.score == ScoreFunction::kSoftmax,
          .group_sum_of_two = s.group_sum_of_two,
          .normalise = s.normalise,
          .scale = static_cast<float>(s.scale)};
}

}  // namespace

std::string refuse_router_forward_sm90a(const RouterForwardArgs& args) {
  return refuse(args.shape, args.logits);
}

void router_forward_sm90a(const RouterForwardArgs& args, const Stream& stream) {
  const int64_t tokens = args.logits.rows;
  if (tokens == 0) return;
  const std::string refusal = refuse_router_forward_sm90a(args);
  CHECK(refusal.empty(), "router: {}", refusal);
  check_shape(args.shape);
  check_matrix("logits", args.logits, tokens, args.shape.experts);
  check_matrix("scores", args.scores, tokens, args.shape.experts);
  check_matrix("weight", args.weight, tokens, args.shape.top_k);
  if (args.bias) check_matrix("bias", args.bias, 1, args.shape.experts);
  const ForwardJob job{.shape = shape_of(args.shape),
                       .tokens = static_cast<int>(tokens),
                       .logits = args.logits.ptr<float>(),
                       .bias = args.bias ? args.bias.ptr<float>() : nullptr,
                       .scores = args.scores.ptr<float>(),
                       .expert = args.expert,
                       .weight = args.weight.ptr<float>(),
                       .logits_stride = args.logits.stride,
                       .scores_stride = args.scores.stride,
                       .weight_stride = args.weight.stride};
  launch(job, hopper::device_info().multiprocessors, stream.device_stream());
}

std::string refuse_router_backward_sm90a(const RouterBackwardArgs& args) {
  if (args.balance_coefficient != 0 && args.count == nullptr) return "a balance loss without the counts of its sequences";
  return refuse(args.shape, args.scores);
}

void router_backward_sm90a(const RouterBackwardArgs& args, const Stream& stream) {
  const int64_t tokens = args.scores.rows;
  if (tokens == 0) return;
  const std::string refusal = refuse_router_backward_sm90a(args);
  CHECK(refusal.empty(), "router: {}", refusal);
  check_shape(args.shape);
  check_matrix("scores", args.scores, tokens, args.shape.experts);
  check_matrix("d_weight", args.d_weight, tokens, args.shape.top_k);
  check_matrix("d_logits", args.d_logits, tokens, args.shape.experts);
  const bool balance = args.balance_coefficient != 0;
  CHECK(!balance || (args.sequence_length >= 1 && tokens % args.sequence_length == 0),
        "router: {} rows are not whole sequences of {}", tokens, args.sequence_length);
  const double unit = balance ? args.balance_coefficient * frequency_unit(args.shape, args.sequence_length) /
                                    static_cast<double>(args.sequence_length)
                              : 0;
  const BackwardJob job{.shape = shape_of(args.shape),
                        .tokens = static_cast<int>(tokens),
                        .sequence_length = balance ? static_cast<int>(args.sequence_length) : 1,
                        .scores = args.scores.ptr<float>(),
                        .expert = args.expert,
                        .d_weight = args.d_weight.ptr<float>(),
                        .count = balance ? args.count : nullptr,
                        .unit = unit,
                        .d_logits = args.d_logits.ptr<float>(),
                        .scores_stride = args.scores.stride,
                        .d_weight_stride = args.d_weight.stride,
                        .d_logits_stride = args.d_logits.stride};
  launch(job, hopper::device_info().multiprocessors, stream.device_stream());
}

int64_t router_statistics_scratch_sm90a(int64_t tokens, int64_t sequence_length) {
  return tokens / sequence_length * ((sequence_length + kSliceTokens - 1) / kSliceTokens);
}

std::string refuse_router_statistics_sm90a(const RouterStatisticsSm90aArgs& args) {
  return refuse(args.shape, args.scores);
}

void router_statistics_sm90a(const RouterStatisticsSm90aArgs& args, const Stream& stream) {
  const int64_t tokens = args.scores.rows, length = args.sequence_length;
  const std::string refusal = refuse_router_statistics_sm90a(args);
  CHECK(refusal.empty(), "router: {}", refusal);
  check_shape(args.shape);
  CHECK(length >= 1 && tokens % length == 0, "router: {} rows are not whole sequences of {}", tokens, length);
  CHECK(args.scores.cols == args.shape.experts, "router: {} scores per row, {} experts", args.scores.cols, args.shape.experts);
  CHECK(tokens == 0 || args.count != nullptr, "router: no place for counts");
  CHECK(args.loss == nullptr || tokens == 0 || args.scratch != nullptr, "router: a loss needs scratch");
  const StatisticsJob job{.shape = shape_of(args.shape),
                          .sequences = static_cast<int>(tokens / length),
                          .sequence_length = static_cast<int>(length),
                          .scores = args.scores.ptr<float>(),
                          .expert = args.expert,
                          .scores_stride = args.scores.stride,
                          .count = args.count,
                          .load = args.load,
                          .loss = args.loss,
                          .scratch = args.scratch,
                          .unit = frequency_unit(args.shape, length),
                          .coefficient = args.coefficient / static_cast<double>(length)};
  launch(job, stream.device_stream());
}

}  // namespace rorqual
