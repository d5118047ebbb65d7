#include "sim/simulated_model.h"

#include <algorithm>

#include "base/error.h"
#include "model/config.h"
#include "model/flops.h"
#include "train/recipe.h"

namespace rorqual {
namespace {

// What passes between memory and processors, counted as rorqual's kernels do it: a norm or SwiGLU writes the operand of the
// next product in its own format (one pass); what leaves a product or the attention is quantised by a pass of its own, and
// weight gradients in FP8 need operands that are quantised anew along the tokens (spec 2.1).
struct Formats {
  bool fp8 = false, recompute = true;
  double operand() const { return fp8 ? 1 : 2; }
  double quantise(double values) const { return fp8 ? 3 * values : 0; }   // BF16 in, E4M3 out
  double transpose(double values) const { return fp8 ? 2 * values : 0; }  // E4M3 in, E4M3 out
};

int64_t parameters(const std::vector<SimulatedProduct>& products) {
  int64_t sum = 0;
  for (const SimulatedProduct& p : products) sum += p.routed ? 0 : p.n * p.k;
  return sum;
}

SimulatedPhase mla_phase(const ModelConfig& c, const Formats& f) {
  const int64_t d = c.hidden_size, heads = c.num_attention_heads, q = heads * c.qk_head_dim(), v = heads * c.v_head_dim;
  const int64_t kv = heads * (c.qk_nope_head_dim + c.v_head_dim), latent_kv = c.kv_lora_rank + c.qk_rope_head_dim;
  SimulatedPhase phase;
  if (c.q_lora_rank > 0) {
    phase.products = {{c.q_lora_rank + latent_kv, d, f.fp8, false},
                      {q, c.q_lora_rank, f.fp8, false},
                      {kv, c.kv_lora_rank, f.fp8, false},
                      {d, v, f.fp8, false}};
    if (f.recompute) phase.recomputed = {phase.products[1], phase.products[2]};
  } else {
    phase.products = {{q + latent_kv, d, f.fp8, false}, {kv, c.kv_lora_rank, f.fp8, false}, {d, v, f.fp8, false}};
    if (f.recompute) phase.recomputed = {phase.products[1]};
  }
  const auto hidden = static_cast<double>(d), lat = static_cast<double>(c.q_lora_rank + c.kv_lora_rank);
  const auto queries = static_cast<double>(q), values = static_cast<double>(v), keys_values = static_cast<double>(kv);
  // Keys are put together from their own part and the one that heads share; queries are rotated in place.
  const double assembly =
      2 * (queries + static_cast<double>(heads * c.qk_nope_head_dim)) + 4 * static_cast<double>(heads * c.qk_rope_head_dim);
  const double norms = (2 + f.operand()) * (hidden + lat), residual = 6 * hidden;
  const double cache = f.fp8 ? 1.5 * values : 0;  // E5M6
  phase.forward = {norms + assembly + f.quantise(values) + cache + residual, 0, 6};
  const double delta = 4 * values, norm_gradients = 8 * hidden + 6 * lat;
  phase.input_gradient = {(f.recompute ? norms + assembly : 0) + assembly + delta + norm_gradients +
                              f.quantise(hidden + queries + keys_values + lat),
                          0, f.recompute ? 11 : 8};
  // The output's operand comes from E5M6; the others are transposed, as are all gradients.
  phase.weight_gradient = {
      f.transpose(hidden + lat) + (f.fp8 ? 2.5 * values : 0) + f.transpose(hidden + queries + keys_values + lat), 0,
      f.fp8 ? 7 : 0};
  return phase;
}

SimulatedPhase grouped_query_phase(const ModelConfig& c, const Formats& f) {
  const int64_t d = c.hidden_size, q = c.num_attention_heads * c.llama_head_dim(), kv = 2 * c.kv_heads() * c.llama_head_dim();
  SimulatedPhase phase;
  phase.products = {{q + kv, d, f.fp8, false}, {d, q, f.fp8, false}};
  const auto hidden = static_cast<double>(d), queries = static_cast<double>(q), all = static_cast<double>(q + kv);
  const double norm = (2 + f.operand()) * hidden, rotation = 4 * all;
  phase.forward = {norm + rotation + f.quantise(queries) + 6 * hidden, 0, 4};
  phase.input_gradient = {(f.recompute ? norm : 0) + rotation + 4 * queries + 8 * hidden + f.quantise(hidden + all), 0, 6};
  phase.weight_gradient = {f.transpose(2 * hidden + queries + all), 0, f.fp8 ? 4 : 0};
  return phase;
}

SimulatedPhase attention_phase(const ModelConfig& c, const Formats& f) {
  SimulatedPhase phase = c.is_mla() ? mla_phase(c, f) : grouped_query_phase(c, f);
  const auto heads = static_cast<double>(c.num_attention_heads);
  const auto qk = static_cast<double>(c.qk_head_dim()), v = static_cast<double>(c.value_head_dim());
  phase.attention_forward_per_key = 2 * heads * (qk + v);
  // Scores again, their gradient, and those of values, keys and queries.
  phase.attention_backward_per_key = 2 * heads * (3 * qk + 2 * v);
  return phase;
}

// An MLP of `width` for every token, with the norm before and the residual sum behind it.
SimulatedPhase mlp_phase(const ModelConfig& c, const Formats& f, int64_t width) {
  const auto hidden = static_cast<double>(c.hidden_size), w = static_cast<double>(width);
  SimulatedPhase phase;
  phase.products = {{2 * width, c.hidden_size, f.fp8, false}, {c.hidden_size, width, f.fp8, false}};
  const double norm = (2 + f.operand()) * hidden, swiglu = (4 + f.operand()) * w, cache = f.fp8 ? 2 * w : 0;
  phase.forward = {norm + swiglu + cache + 6 * hidden, 0, 3};
  // SwiGLU's input and its output's gradient in; its input's gradient out (in FP8 both ways, so as many bytes), and its output
  // again.
  const double swiglu_gradient = 2 * f.operand() * w + 2 * w + 4 * w + f.operand() * w;
  phase.input_gradient = {(f.recompute ? norm : 0) + swiglu_gradient + f.quantise(hidden) + 8 * hidden, 0, 4};
  phase.weight_gradient = {f.transpose(2 * hidden), 0, f.fp8 ? 2 : 0};
  return phase;
}

// The same for the rows of experts, beside the shared experts' MLP and the router.
SimulatedPhase experts_phase(const ModelConfig& c, const Formats& f) {
  SimulatedPhase phase = mlp_phase(c, f, c.n_shared_experts * c.moe_intermediate_size);
  if (c.n_shared_experts == 0) phase.products.clear();
  phase.products.push_back({c.n_routed_experts, c.hidden_size, false, false});
  phase.products.push_back({2 * c.moe_intermediate_size, c.hidden_size, f.fp8, true});
  phase.products.push_back({c.hidden_size, c.moe_intermediate_size, f.fp8, true});
  const auto hidden = static_cast<double>(c.hidden_size), w = static_cast<double>(c.moe_intermediate_size);
  const double e = f.operand();
  phase.forward.per_token += 2 * hidden + 12 * static_cast<double>(c.n_routed_experts);
  // Rows are put in the experts' order, and summed over a rank's experts behind them.
  phase.forward.per_row = 2 * e * hidden + (4 + e) * w + (f.fp8 ? 2 * w : 0) + 4 * hidden;
  phase.forward.kernels += 6;
  phase.input_gradient.per_row = 2 * e * hidden + 2 * e * w + 2 * w + 4 * w + e * w + 4 * hidden;
  phase.input_gradient.kernels += 5;
  phase.weight_gradient.per_row = f.transpose(2 * hidden);
  phase.weight_gradient.kernels += f.fp8 ? 2 : 0;
  return phase;
}

SimulatedBlock block_of(const ModelConfig& c, const Formats& f, bool moe) {
  SimulatedBlock block;
  block.name = moe ? "experts" : "dense";
  block.routed = moe;
  block.attention = attention_phase(c, f);
  block.mlp = moe ? experts_phase(c, f) : mlp_phase(c, f, c.intermediate_size);
  block.dense_parameters = parameters(block.attention.products) + parameters(block.mlp.products);
  if (moe) block.expert_parameters = c.n_routed_experts * 3 * c.hidden_size * c.moe_intermediate_size;
  return block;
}

// Final norm, logits and loss.
SimulatedBlock head_block(const ModelConfig& c) {
  SimulatedBlock block;
  block.name = "head";
  block.mlp.products = {{c.vocab_size, c.hidden_size, false, false}};
  const auto hidden = static_cast<double>(c.hidden_size), vocabulary = static_cast<double>(c.vocab_size);
  block.mlp.forward = {4 * hidden + 4 * vocabulary, 0, 2};  // the loss replaces logits by their gradient
  block.mlp.input_gradient = {8 * hidden, 0, 1};
  block.dense_parameters = c.vocab_size * c.hidden_size;
  return block;
}

SimulatedBlock mtp_projection(const ModelConfig& c) {
  SimulatedBlock block;
  block.name = "mtp";
  block.mlp.products = {{c.hidden_size, 2 * c.hidden_size, false, false}};
  const auto hidden = static_cast<double>(c.hidden_size);
  block.mlp.forward = {8 * hidden, 0, 3};
  block.mlp.input_gradient = {20 * hidden, 0, 3};
  block.dense_parameters = 2 * c.hidden_size * c.hidden_size;
  return block;
}

void count_flops(SimulatedModel& model, ModelConfig c) {
  c.num_nextn_predict_layers = 0;
  const auto length = static_cast<double>(model.sequence_length);
  const auto routers =
      static_cast<double>(std::count_if(model.layer.begin(), model.layer.end(), [](const auto& b) { return b.routed; }));
  model.flops_causal = training_flops_per_token(c, model.sequence_length) -
                       3 * 2 * routers * static_cast<double>(c.n_routed_experts * c.hidden_size);
  const double per_key =
      3 * 2 * static_cast<double>(c.num_hidden_layers * c.num_attention_heads * (c.qk_head_dim() + c.value_head_dim()));
  model.flops_non_causal = model.flops_causal + per_key * (length - (length + 1) / 2);
}

}  // namespace

SimulatedModel simulated_model(const ModelConfig& c, int64_t sequence_length, bool fp8, bool recompute) {
  if (c.vocab_size < 1) fail_usage("the model has no vocab_size: the simulator needs it to price the head");
  CHECK(sequence_length > 0);
  const Formats formats{fp8, recompute};
  SimulatedModel model;
  model.hidden = c.hidden_size;
  model.sequence_length = sequence_length;
  model.layers = c.num_hidden_layers;
  model.experts = c.n_routed_experts;
  model.top_k = c.num_experts_per_tok;
  model.groups = std::max<int64_t>(c.n_group, 1);
  model.topk_groups = std::max<int64_t>(c.topk_group, 1);
  model.embedding.name = "embedding";
  model.embedding.mlp.forward = {4 * static_cast<double>(c.hidden_size), 0, 1};
  model.embedding.mlp.weight_gradient = {8 * static_cast<double>(c.hidden_size), 0, 1};
  model.embedding.dense_parameters = c.vocab_size * c.hidden_size;
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) model.layer.push_back(block_of(c, formats, c.is_moe_layer(i)));
  model.tail.push_back(head_block(c));
  for (int64_t i = 0; i < c.num_nextn_predict_layers; ++i) {
    model.tail.push_back(mtp_projection(c));
    model.tail.push_back(block_of(c, formats, c.n_routed_experts > 0));
    model.tail.push_back(head_block(c));
    model.tail.back().dense_parameters = 0;  // shared with the main head's
  }
  model.dispatch_row = fp8 ? fp8_dispatch_row(c.hidden_size, c.num_experts_per_tok) : bf16_combine_row(c.hidden_size);
  model.combine_row = bf16_combine_row(c.hidden_size);
  count_flops(model, c);
  return model;
}

SimulatedModel simulated_model(const Recipe& recipe) {
  return simulated_model(recipe.model, recipe.train.sequence_length, make_precision(recipe.formats).is_fp8(), recipe.recompute);
}

std::vector<const SimulatedBlock*> stage_blocks(const SimulatedModel& model, const std::vector<int64_t>& stage_begin,
                                                int64_t stage) {
  const auto s = static_cast<size_t>(stage);
  CHECK(stage >= 0 && s + 1 < stage_begin.size());
  std::vector<const SimulatedBlock*> blocks;
  if (stage == 0) blocks.push_back(&model.embedding);
  for (int64_t i = stage_begin[s]; i < stage_begin[s + 1]; ++i) blocks.push_back(&model.layer[static_cast<size_t>(i)]);
  if (s + 2 == stage_begin.size())
    for (const SimulatedBlock& block : model.tail) blocks.push_back(&block);
  return blocks;
}

}  // namespace rorqual
