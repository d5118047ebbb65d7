// A training step of one MoE layer of DeepSeek-V3 671B, one GPU's share under expert parallelism over 64 GPUs, in FP8 and by
// turns in BF16 through cuBLASLt. Each GPU brings one sequence of 4096 tokens and holds 4 of the 256 routed experts; with
// balanced loads, the 64·4096·8 choices make 32,768 rows here, 8192 for each expert; the shared expert sees the GPU's own 4096
// tokens. The network is left out: the GPU's own tokens stand for those that arrive. In both precisions the hidden values are
// computed again in backward.
#include "kernels/common/sm90a_figure.h"
#include "kernels/elementwise/sm90a.h"
#include "kernels/gemm/sm90a.h"
#include "kernels/gemm/sm90a_peers.h"
#include "kernels/quantise/sm90a.h"
#include "kernels/swiglu/sm90a.h"

namespace rorqual {
namespace {

using ::rorqual::testing::add_figure;
using ::rorqual::testing::DeviceMemory;
using ::rorqual::testing::Figure;
using ::rorqual::testing::Pass;
using ::rorqual::testing::pass_of;
using ::rorqual::testing::sized;
using Group = ScaledTensor::Group;

constexpr int64_t kTopK = 8, kExperts = 4;
const int64_t kTokens = sized(4096, 64), kWidth = sized(7168, 256), kHidden = sized(2048, 128);
const int64_t kRouted = kTokens * kTopK, kRows = kRouted + kTokens;  // the shared expert's rows come last

struct Layer {
  std::vector<Pass> forward, backward;
};

// Rows of expert e; the last one is the shared expert.
struct Segment {
  int64_t begin, count;
};
Segment segment(int64_t e) {
  return e < kExperts ? Segment{e * kRouted / kExperts, kRouted / kExperts} : Segment{kRouted, kTokens};
}

// Weights of all experts.
std::vector<PackedWeight> make_weights(DeviceMemory& memory, DType dtype, int64_t n, int64_t k) {
  std::vector<PackedWeight> weights;
  for (int64_t e = 0; e <= kExperts; ++e) {
    PackedWeight w{memory.random(dtype, n, k).data, dtype, n, k};
    w.layout = PackedWeight::Layout::kRows;
    if (dtype == DType::kE4M3)
      w.scale = memory.scales(1, (PackedWeight::scale_count(n, k) + 3) / 4 * 4, ScaleRule::kFp32).ptr<float>();
    weights.push_back(w);
  }
  return weights;
}

Pass product(const ScaledTensor& a, const std::vector<PackedWeight>& weights, const Tensor& c) {
  std::vector<LinearProblem> problems;
  for (int64_t e = 0; e <= kExperts; ++e) {
    const auto [begin, count] = segment(e);
    problems.push_back({a.row_range(begin, count), weights[static_cast<size_t>(e)], c.row_range(begin, count)});
  }
  const auto args = [](const std::vector<LinearProblem>& list) {
    return LinearArgs{.problems = list, .scales = ScaleRule::kFp32};
  };
  if (a.is_plain()) return {"", [=](const Stream& stream) { product_peers().linear(args(problems), stream); }};
  return {refuse_linear_sm90a(args(problems)), [=](const Stream& stream) { linear_sm90a(args(problems), stream); }};
}

std::vector<Tensor> make_gradients(DeviceMemory& memory, int64_t n, int64_t k) {
  std::vector<Tensor> gradients;
  for (int64_t e = 0; e <= kExperts; ++e) gradients.push_back(memory.random(DType::kF32, n, k));
  return gradients;
}

// The operands of a weight gradient: BF16 as they are; codes quantised again along the rows, transposed, in `passes`.
std::vector<ScaledTensor> gradient_operands(DeviceMemory& memory, const ScaledTensor& x, std::vector<Pass>& passes) {
  std::vector<ScaledTensor> operands;
  std::vector<RequantiseProblem> problems;
  for (int64_t e = 0; e <= kExperts; ++e) {
    const auto [begin, count] = segment(e);
    operands.push_back(x.is_plain() ? x.row_range(begin, count) : memory.codes(count, x.cols(), Group::kColumnTransposed));
    problems.push_back({x.row_range(begin, count), operands.back()});
  }
  if (x.is_plain()) return operands;
  const auto args = [](const std::vector<RequantiseProblem>& list) {
    return RequantiseColumnsArgs{.problems = list, .quantiser = {.rule = ScaleRule::kFp32}};
  };
  passes.push_back({refuse_requantise_columns_sm90a(args(problems)),
                    [=](const Stream& stream) { requantise_columns_sm90a(args(problems), stream); }});
  return operands;
}

void add_weight_gradient(DeviceMemory& memory, const ScaledTensor& d_y, const ScaledTensor& x, std::vector<Pass>& passes) {
  const std::vector<ScaledTensor> a = gradient_operands(memory, d_y, passes), b = gradient_operands(memory, x, passes);
  const std::vector<Tensor> c = make_gradients(memory, d_y.cols(), x.cols());
  std::vector<WeightGradientProblem> problems;
  for (size_t e = 0; e < c.size(); ++e) problems.push_back({a[e], b[e], c[e]});
  const auto args = [](const std::vector<WeightGradientProblem>& list) {
    return WeightGradientArgs{.problems = list, .scales = ScaleRule::kFp32};
  };
  if (d_y.is_plain())
    passes.push_back({"", [=](const Stream& stream) { product_peers().weight_gradient(args(problems), stream); }});
  else
    passes.push_back({refuse_weight_gradient_sm90a(args(problems)),
                      [=](const Stream& stream) { weight_gradient_sm90a(args(problems), stream); }});
}

// Where the choices of the tokens lie, and the routing weights of the rows.
struct Routing {
  int32_t *row_of_choice, *token_of_row, *node;
  Tensor weight;

  explicit Routing(DeviceMemory& memory) {
    std::vector<int32_t> row, token(static_cast<size_t>(kRows)), nodes;
    for (int64_t i = 0; i < kRouted; ++i) {
      row.push_back(static_cast<int32_t>(i * 12289 % kRouted));
      token[static_cast<size_t>(row.back())] = static_cast<int32_t>(i / kTopK);
      nodes.push_back(static_cast<int32_t>(i % kTopK / 2));
    }
    for (int64_t t = 0; t < kTokens; ++t) token[static_cast<size_t>(kRouted + t)] = static_cast<int32_t>(t);
    row_of_choice = memory.values(row);
    token_of_row = memory.values(token);
    node = memory.values(nodes);
    weight = memory.random(DType::kF32, 1, kRows);
  }

  // y = the shared expert's row and the sums over the eight others of each token.
  Pass combine(DeviceMemory& memory, const Tensor& out) const {
    return pass_of<CombineRowsArgs>(refuse_combine_rows_sm90a, combine_rows_sm90a,
                                    {.x = out.row_range(0, kRouted),
                                     .row = row_of_choice,
                                     .node = node,
                                     .top_k = kTopK,
                                     .payload = DType::kBF16,
                                     .base = out.row_range(kRouted, kTokens),
                                     .y = memory.blank(DType::kBF16, kTokens, kWidth)});
  }
  // Tokens to the rows of their experts, as codes or as they are.
  Pass dispatch(const Tensor& x, const ScaledTensor& rows) const {
    if (rows.is_plain())
      return pass_of<GatherRowsArgs>(refuse_gather_rows_sm90a, gather_rows_sm90a,
                                     {.x = x, .source = token_of_row, .y = rows.codes});
    return pass_of<QuantiseDispatchArgs>(refuse_quantise_dispatch_sm90a, quantise_dispatch_sm90a,
                                         {.x = x,
                                          .row_of_choice = row_of_choice,
                                          .top_k = kTopK,
                                          .y = rows.row_range(0, kRouted),
                                          .own = rows.row_range(kRouted, kTokens)});
  }
};

Layer make_layer(DeviceMemory& memory, DType dtype) {
  const bool fp8 = dtype == DType::kE4M3;
  const auto operand = [&](int64_t cols) -> ScaledTensor {
    if (fp8) return memory.codes(kRows, cols);
    return memory.blank(DType::kBF16, kRows, cols);
  };
  const auto plain = [&](int64_t cols) { return memory.blank(DType::kBF16, kRows, cols); };
  const Routing routing(memory);
  Layer layer;

  const ScaledTensor x = operand(kWidth), h = operand(kHidden);
  const Tensor gate_up = plain(2 * kHidden);
  const ScaledTensor kept = fp8 ? operand(2 * kHidden) : ScaledTensor(gate_up);  // for backward
  const Tensor out = plain(kWidth);
  layer.forward.push_back(routing.dispatch(memory.random(DType::kBF16, kTokens, kWidth), x));
  layer.forward.push_back(product(x, make_weights(memory, dtype, 2 * kHidden, kWidth), gate_up));
  layer.forward.push_back(
      pass_of<SwiGluForwardArgs>(refuse_swiglu_forward_sm90a, swiglu_forward_sm90a,
                                 {.gate_up = gate_up, .weight = routing.weight, .h = h, .cache = fp8 ? kept : ScaledTensor()}));
  layer.forward.push_back(product(h, make_weights(memory, dtype, kWidth, kHidden), out));
  layer.forward.push_back(routing.combine(memory, out));

  const ScaledTensor d_out = operand(kWidth), d_gate_up = operand(2 * kHidden);
  const Tensor d_h = plain(kHidden), d_x = plain(kWidth);
  layer.backward.push_back(routing.dispatch(memory.random(DType::kBF16, kTokens, kWidth), d_out));
  layer.backward.push_back(product(d_out, make_weights(memory, dtype, kHidden, kWidth), d_h));
  layer.backward.push_back(pass_of<SwiGluBackwardArgs>(refuse_swiglu_backward_sm90a, swiglu_backward_sm90a,
                                                       {.gate_up = kept,
                                                        .weight = routing.weight,
                                                        .d_h = d_h,
                                                        .d_gate_up = d_gate_up,
                                                        .d_weight = memory.blank(DType::kF32, 1, kRows)}));
  layer.backward.push_back(product(d_gate_up, make_weights(memory, dtype, kWidth, 2 * kHidden), d_x));
  layer.backward.push_back(routing.combine(memory, d_x));
  layer.backward.push_back(pass_of<SwiGluForwardArgs>(refuse_swiglu_forward_sm90a, swiglu_forward_sm90a,
                                                      {.gate_up = kept, .weight = routing.weight, .h = h}));
  add_weight_gradient(memory, d_out, h, layer.backward);
  add_weight_gradient(memory, d_gate_up, x, layer.backward);
  return layer;
}

enum class Part { kForward, kBackward, kStep };

std::vector<Pass> passes_of(const Layer& layer, Part part) {
  std::vector<Pass> passes;
  if (part != Part::kBackward) passes = layer.forward;
  if (part != Part::kForward) passes.insert(passes.end(), layer.backward.begin(), layer.backward.end());
  return passes;
}

void add_layer(Figure& figure, const char* name, DType dtype, Part part) {
  const Layer layer = make_layer(figure.memory, dtype);
  for (const Pass& pass : layer.forward)  // so that backward finds numbers where it begins
    if (pass.refusal.empty()) pass.run(Stream::on_device());
  const std::vector<Pass> passes = passes_of(layer, part);
  std::string refusal;
  for (const Pass& pass : passes)
    if (refusal.empty()) refusal = pass.refusal;
  figure.add(name, refusal, [=](int, const Stream& stream) {
    for (const Pass& pass : passes) pass.run(stream);
  });
}

void layer_figure(Figure& figure, Part part) {
  // Two products forward, four backward.
  const double products = part == Part::kForward ? 1 : part == Part::kBackward ? 2 : 3;
  figure.set_work({.flops = products * 2 * static_cast<double>(kRows) * 3.0 * static_cast<double>(kWidth * kHidden)},
                  2 * kRows * kWidth);
  add_layer(figure, "ours", DType::kE4M3, part);
  if (product_peers().linear) add_layer(figure, "bf16", DType::kBF16, part);
}

const bool kRegistered = [] {
  add_figure("moe_layer/step", [](Figure& figure) { layer_figure(figure, Part::kStep); });
  add_figure("moe_layer/forward", [](Figure& figure) { layer_figure(figure, Part::kForward); });
  add_figure("moe_layer/backward", [](Figure& figure) { layer_figure(figure, Part::kBackward); });
  return true;
}();

}  // namespace
}  // namespace rorqual
