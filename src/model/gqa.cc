#include "model/gqa.h"

#include "kernels/rope/rope.h"
#include "model/ops.h"

namespace rorqual {

Gqa::Gqa(const ModelConfig& c, Weights& weights, int64_t layer)
    : config_(c), dim_(c.qk_head_dim()), q_cols_(c.num_attention_heads * dim_), kv_cols_(c.kv_heads() * dim_) {
  const TensorList& list = weights.list();
  const std::string p = layer_prefix(layer);
  norm_tensor_ = list.at(p + "input_layernorm.weight");
  norm_ = weights.hold(norm_tensor_);
  qkv_ = &weights.add_linear(list.at(p + "self_attn.q_proj.weight"), 3, weights.precision().operand);
  out_ = &weights.add_linear(list.at(p + "self_attn.o_proj.weight"), 1, weights.precision().operand);
}

AttentionShape Gqa::shape() const {
  return {config_.num_attention_heads, config_.kv_heads(), dim_, 0, dim_, config_.attention_scale()};
}

void Gqa::rotate(const Pass& p, const BlockState& s, const Tensor& qkv, bool inverse) const {
  // Query and key heads lie side by side.
  rope({qkv.col_range(0, q_cols_ + kv_cols_), config_.num_attention_heads + config_.kv_heads(), dim_, 0, dim_, p.rope_table,
        s.layout->position.data(), false, inverse},
       *p.stream);
}

void Gqa::norm_input(const Pass& p, BlockState& s, Arena& arena) const {
  s.attention.in = operand_tensor(p, arena, s.x.rows, s.x.cols);
  norm_forward(p, s.x, norm_, s.attention.in, quantiser_of(p, s, QuantisedTensor::kAttentionInput));
}

void Gqa::forward(const Pass& p, BlockState& s) const {
  AttentionState& a = s.attention;
  const int64_t rows = s.x.rows;
  norm_input(p, s, s.kept(p.recompute));
  a.down = compute_tensor(p, *s.saved, rows, qkv_->n);
  project(p, a.in, qkv_->forward, a.down);
  rotate(p, s, a.down, false);
  const Tensor kv = a.down.col_range(q_cols_, 2 * kv_cols_);
  const Tensor o = attention_output(p, s, q_cols_);
  if (s.paged) {
    write_pages(kv, s.paged->sequences, s.paged->cache, *p.stream);
    paged_attention({.shape = {.heads = config_.num_attention_heads,
                               .kv_heads = config_.kv_heads(),
                               .qk_dim = dim_,
                               .v_dim = dim_,
                               .k_head_stride = dim_,
                               .v_column = kv_cols_,
                               .v_head_stride = dim_,
                               .scale = config_.attention_scale()},
                     .sequences = s.paged->sequences,
                     .q = a.down.col_range(0, q_cols_),
                     .cache = s.paged->cache,
                     .o = o},
                    *p.stream);
    return project_output(p, s, o, *out_);
  }
  if (p.training) a.lse = full_tensor(p, *s.saved, config_.num_attention_heads, rows);
  attention_forward({.shape = shape(),
                     .sequences = s.layout->sequences,
                     .segment_start = s.layout->segment_start,
                     .q = a.down.col_range(0, q_cols_),
                     .k = kv.col_range(0, kv_cols_),
                     .k_head_stride = dim_,
                     .k_rope = {},
                     .v = kv.col_range(kv_cols_, kv_cols_),
                     .v_head_stride = dim_,
                     .o = o,
                     .lse = a.lse},
                    *p.stream);
  project_output(p, s, o, *out_);
}

void Gqa::input_gradient(const Pass& p, BlockState& s) const {
  AttentionState& a = s.attention;
  Arena& scratch = *s.scratch;
  const int64_t rows = s.x.rows;
  const Tensor d_o = output_gradient(p, s, *out_);
  const Tensor d_down = compute_tensor(p, scratch, rows, qkv_->n);
  attention_backward(
      {.shape = shape(),
       .sequences = s.layout->sequences,
       .segment_start = s.layout->segment_start,
       .q = a.down.col_range(0, q_cols_),
       .k = a.down.col_range(q_cols_, kv_cols_),
       .k_rope = {},
       .v = a.down.col_range(q_cols_ + kv_cols_, kv_cols_),
       .o = plain(p, scratch, a.o),
       .lse = a.lse,
       .k_head_stride = dim_,
       .v_head_stride = dim_,
       .d_o = d_o,
       .d_q = d_down.col_range(0, q_cols_),
       .d_k = d_down.col_range(q_cols_, kv_cols_),
       .d_v = d_down.col_range(q_cols_ + kv_cols_, kv_cols_),
       .d_k_head_stride = dim_,
       .d_v_head_stride = dim_,
       .d_k_rope = {},
       .scratch = full_tensor(p, scratch, 1, attention_backward_scratch(shape(), s.layout->sequences), MemoryClass::kScratch)},
      *p.stream);
  rotate(p, s, d_down, true);
  a.d_down = as_operand(p, s, d_down, p.precision.gradient, QuantisedTensor::kLatentGradient);
  a.d_in = full_tensor(p, scratch, rows, s.x.cols);
  project(p, a.d_down, qkv_->backward, a.d_in);
  norm_input_gradient(p, s.x, norm_, a.d_in, s.d, true);
}

void Gqa::weight_gradient(const Pass& p, BlockState& s) const {
  AttentionState& a = s.attention;
  if (p.recompute) norm_input(p, s, *s.scratch);
  add_weight_gradients(
      p, s, {gradient_product(a.d_out, a.o, p.gradients->of(*out_)), gradient_product(a.d_down, a.in, p.gradients->of(*qkv_))});
  norm_weight_gradient(p, s.x, a.d_in, norm_tensor_);
}

}  // namespace rorqual
