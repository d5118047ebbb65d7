// MLA attention of training (causal, head sizes 192 and 128) over sequences of 4096, DeepSeek-V3's 128 heads: FLOPs of the
// triangle counted once (half of all pairs, the diagonal's half included), 2·(192 + 128) a pair forward; backward has five
// products where forward has two: 2·(3·192 + 2·128).
#include <fmt/format.h>

#include "kernels/attention/sm90a.h"
#include "kernels/common/sm90a_figure.h"

namespace rorqual {
namespace {

using ::rorqual::testing::add_figure;
using ::rorqual::testing::DeviceMemory;
using ::rorqual::testing::Figure;
using ::rorqual::testing::sized;

constexpr int64_t kNope = 128, kRope = 64, kValue = 128;

struct Case {
  int64_t sequences, length, heads;
};

// Operands as the model lays them out: keys and values of a head side by side, one rope key for all heads.
struct Operands {
  AttentionShape shape;
  std::vector<AttentionSequence> sequences;
  Tensor q, kv, k_rope, o, lse, d_o, d_q, d_kv, d_k_rope, scratch;

  Operands(DeviceMemory& memory, const Case& c) {
    const int64_t rows = c.sequences * c.length;
    shape = {
        .heads = c.heads, .kv_heads = c.heads, .nope_dim = kNope, .rope_dim = kRope, .v_dim = kValue, .scale = 0.0721687836};
    for (int64_t i = 0; i < c.sequences; ++i)
      sequences.push_back({i * c.length, (i + 1) * c.length, i * c.length, (i + 1) * c.length});
    q = memory.random(DType::kBF16, rows, c.heads * (kNope + kRope));
    kv = memory.random(DType::kBF16, rows, c.heads * (kNope + kValue));
    k_rope = memory.random(DType::kBF16, rows, kRope);
    o = memory.blank(DType::kBF16, rows, c.heads * kValue);
    lse = memory.blank(DType::kF32, c.heads, rows);
  }
  void add_gradients(DeviceMemory& memory) {
    d_o = memory.random(DType::kBF16, o.rows, o.cols);
    d_q = memory.blank(DType::kBF16, q.rows, q.cols);
    d_kv = memory.blank(DType::kBF16, kv.rows, kv.cols);
    d_k_rope = memory.blank(DType::kBF16, k_rope.rows, k_rope.cols);
    if (const int64_t n = attention_backward_scratch_sm90a(shape, sequences); n > 0) scratch = memory.blank(DType::kF32, 1, n);
  }

  Tensor values_of(const Tensor& both) const { return both.col_range(kNope, both.cols - kNope); }
  AttentionForwardArgs forward() const {
    return {.shape = shape,
            .sequences = sequences,
            .segment_start = {},
            .q = q,
            .k = kv,
            .k_head_stride = kNope + kValue,
            .k_rope = k_rope,
            .v = values_of(kv),
            .v_head_stride = kNope + kValue,
            .o = o,
            .lse = lse};
  }
  AttentionBackwardArgs backward() const {
    return {.shape = shape,
            .sequences = sequences,
            .segment_start = {},
            .q = q,
            .k = kv,
            .k_rope = k_rope,
            .v = values_of(kv),
            .o = o,
            .lse = lse,
            .k_head_stride = kNope + kValue,
            .v_head_stride = kNope + kValue,
            .d_o = d_o,
            .d_q = d_q,
            .d_k = d_kv,
            .d_v = values_of(d_kv),
            .d_k_head_stride = kNope + kValue,
            .d_v_head_stride = kNope + kValue,
            .d_k_rope = d_k_rope,
            .scratch = scratch};
  }
};

double pairs(const Case& c) {
  return static_cast<double>(c.sequences * c.heads) * static_cast<double>(c.length * c.length) / 2;
}

void forward_figure(Figure& figure, const Case& c) {
  figure.set_work({.flops = pairs(c) * 2 * (kNope + kRope + kValue)}, 2 * c.sequences * c.length * c.heads * 576);
  auto sets = std::make_shared<std::vector<Operands>>();
  for (int set = 0; set < figure.set_count(); ++set) sets->emplace_back(figure.memory, c);
  figure.add("ours", refuse_attention_forward_sm90a(sets->front().forward()), [=](int set, const Stream& stream) {
    attention_forward_sm90a((*sets)[static_cast<size_t>(set)].forward(), stream);
  });
}

// On what forward left.
void backward_figure(Figure& figure, const Case& c) {
  figure.set_work({.flops = pairs(c) * 2 * (3 * (kNope + kRope) + 2 * kValue)}, 4 * c.sequences * c.length * c.heads * 576);
  auto sets = std::make_shared<std::vector<Operands>>();
  for (int set = 0; set < figure.set_count(); ++set) {
    sets->emplace_back(figure.memory, c).add_gradients(figure.memory);
    attention_forward_sm90a(sets->back().forward(), Stream::on_device());
  }
  figure.add("ours", refuse_attention_backward_sm90a(sets->front().backward()), [=](int set, const Stream& stream) {
    attention_backward_sm90a((*sets)[static_cast<size_t>(set)].backward(), stream);
  });
}

const bool kRegistered = [] {
  for (const Case& c : {Case{1, 4096, 128}, Case{4, 4096, 32}, Case{8, 1024, 64}}) {
    const std::string shape = fmt::format("{}x{}/{}_heads", c.sequences, c.length, c.heads);
    const Case small{sized(c.sequences, 1), sized(c.length, 128), sized(c.heads, 1)};
    add_figure("attention_forward/" + shape, [=](Figure& figure) { forward_figure(figure, small); });
    add_figure("attention_backward/" + shape, [=](Figure& figure) { backward_figure(figure, small); });
  }
  return true;
}();

}  // namespace
}  // namespace rorqual
