#include "model/mla.h"

#include "kernels/rope/rope.h"
#include "model/ops.h"

namespace rorqual {

Mla::Mla(const ModelConfig& c, Weights& weights, int64_t layer) : config_(c) {
  const TensorList& list = weights.list();
  const std::string p = layer_prefix(layer);
  const DType operand = weights.precision().operand;
  const bool lora = c.q_lora_rank > 0;
  norm_tensor_ = list.at(p + "input_layernorm.weight");
  kv_norm_tensor_ = list.at(p + "self_attn.kv_a_layernorm.weight");
  norm_ = weights.hold(norm_tensor_);
  kv_norm_ = weights.hold(kv_norm_tensor_);
  down_ = &weights.add_linear(list.at(p + (lora ? "self_attn.q_a_proj.weight" : "self_attn.q_proj.weight")), 2, operand);
  if (lora) {
    q_norm_tensor_ = list.at(p + "self_attn.q_a_layernorm.weight");
    q_norm_ = weights.hold(q_norm_tensor_);
    q_up_ = &weights.add_linear(list.at(p + "self_attn.q_b_proj.weight"), 1, operand);
  }
  kv_up_ = &weights.add_linear(list.at(p + "self_attn.kv_b_proj.weight"), 1, operand);
  kv_up_master_ = weights.hold(kv_up_->tensor);
  out_ = &weights.add_linear(list.at(p + "self_attn.o_proj.weight"), 1, operand);
  q_cols_ = lora ? c.q_lora_rank : c.num_attention_heads * c.qk_head_dim();
}

AttentionShape Mla::shape() const {
  const int64_t heads = config_.num_attention_heads;
  return {heads, heads, config_.qk_nope_head_dim, config_.qk_rope_head_dim, config_.v_head_dim, config_.attention_scale()};
}

void Mla::rotate(const Pass& p, const BlockState& s, const Tensor& q, const Tensor& k_rope, bool inverse) const {
  const int32_t* position = s.layout->position.data();
  const int64_t rope_dim = config_.qk_rope_head_dim;
  if (q)
    rope({q, config_.num_attention_heads, config_.qk_head_dim(), config_.qk_nope_head_dim, rope_dim, p.rope_table, position,
          true, inverse},
         *p.stream);
  if (k_rope) rope({k_rope, 1, rope_dim, 0, rope_dim, p.rope_table, position, true, inverse}, *p.stream);
}

void Mla::norm_input(const Pass& p, BlockState& s, Arena& arena) const {
  s.attention.in = operand_tensor(p, arena, s.x.rows, s.x.cols);
  norm_forward(p, s.x, norm_, s.attention.in, quantiser_of(p, s, QuantisedTensor::kAttentionInput));
}

void Mla::make_queries(const Pass& p, BlockState& s, Arena& arena) const {
  AttentionState& a = s.attention;
  const int64_t rows = s.x.rows;
  if (q_up_) {
    a.q_latent = operand_tensor(p, arena, rows, q_cols_);
    norm_forward(p, a.down.col_range(0, q_cols_), q_norm_, a.q_latent, quantiser_of(p, s, QuantisedTensor::kQueryLatent));
    a.q = compute_tensor(p, arena, rows, q_up_->n);
    project(p, a.q_latent, q_up_->forward, a.q);
    rotate(p, s, a.q, {}, false);
  } else {
    a.q = a.down.col_range(0, q_cols_);  // rotated in place by forward
  }
}

// From the saved latents to queries, keys and values: the up-projections, computed again in backward (report §3.2.3).
void Mla::expand(const Pass& p, BlockState& s, Arena& arena) const {
  AttentionState& a = s.attention;
  const int64_t rows = s.x.rows;
  make_queries(p, s, arena);
  a.kv_latent = operand_tensor(p, arena, rows, config_.kv_lora_rank);
  norm_forward(p, a.down.col_range(q_cols_, config_.kv_lora_rank), kv_norm_, a.kv_latent,
               quantiser_of(p, s, QuantisedTensor::kKvLatent));
  a.kv = compute_tensor(p, arena, rows, kv_up_->n);
  project(p, a.kv_latent, kv_up_->forward, a.kv);
}

void Mla::forward(const Pass& p, BlockState& s) const {
  AttentionState& a = s.attention;
  const int64_t rows = s.x.rows;
  norm_input(p, s, s.kept(p.recompute));
  a.down = compute_tensor(p, *s.saved, rows, down_->n);
  project(p, a.in, down_->forward, a.down);
  const Tensor k_rope = a.down.col_range(q_cols_ + config_.kv_lora_rank, config_.qk_rope_head_dim);
  rotate(p, s, q_up_ ? Tensor{} : a.down.col_range(0, q_cols_), k_rope, false);
  if (s.paged) return paged_forward(p, s);
  expand(p, s, s.kept(p.recompute));

  const AttentionShape shape = this->shape();
  const int64_t stride = shape.nope_dim + shape.v_dim;
  const Tensor o = attention_output(p, s, shape.heads * shape.v_dim);
  if (p.training) a.lse = full_tensor(p, *s.saved, shape.heads, rows);
  attention_forward({.shape = shape,
                     .sequences = s.layout->sequences,
                     .segment_start = s.layout->segment_start,
                     .q = a.q,
                     .k = a.kv,
                     .k_head_stride = stride,
                     .k_rope = k_rope,
                     .v = a.kv.col_range(shape.nope_dim, a.kv.cols - shape.nope_dim),
                     .v_head_stride = stride,
                     .o = o,
                     .lse = a.lse},
                    *p.stream);
  project_output(p, s, o, *out_);
}

AbsorbedWeights Mla::absorb(DType dtype, Arena& arena, std::vector<PackWeightArgs>& packing) const {
  const int64_t latent = config_.kv_lora_rank, nope = config_.qk_nope_head_dim, v = config_.v_head_dim;
  const auto packed = [&](int64_t n, int64_t k) {
    return PackedWeight{arena.bytes(MemoryClass::kPackedWeights, PackedWeight::bytes(dtype, n, k)), dtype, n, k};
  };
  AbsorbedWeights w;
  for (int64_t h = 0; h < config_.num_attention_heads; ++h) {
    w.key.push_back(packed(latent, nope));
    w.value.push_back(packed(v, latent));
    packing.push_back({kv_up_master_.row_range(h * (nope + v), nope), {}, w.key.back(), {}});
    packing.push_back({kv_up_master_.row_range(h * (nope + v) + nope, v), w.value.back(), {}, {}});
  }
  return w;
}

// [rows, heads·(latent + rope)]: per head W_ukᵀ·q_nope, then q_rope.
Tensor Mla::absorbed_queries(const Pass& p, const BlockState& s) const {
  const Tensor& q = s.attention.q;
  const int64_t heads = config_.num_attention_heads, nope = config_.qk_nope_head_dim, dim = config_.qk_head_dim();
  const int64_t latent = config_.kv_lora_rank, rope_dim = config_.qk_rope_head_dim, width = latent + rope_dim;
  const Tensor out = compute_tensor(p, *s.scratch, q.rows, heads * width);
  std::vector<LinearProblem> problems;
  for (int64_t h = 0; h < heads; ++h)
    problems.push_back(
        {q.col_range(h * dim, nope), s.paged->absorbed->key[static_cast<size_t>(h)], out.col_range(h * width, latent)});
  linear({problems, false, p.precision.products}, *p.stream);
  if (q.contiguous()) {  // heads are rows of their own
    const Tensor from(q.data, q.dtype, q.rows * heads, dim), to(out.data, out.dtype, q.rows * heads, width);
    copy(p, from.col_range(nope, rope_dim), to.col_range(latent, rope_dim));
    return out;
  }
  for (int64_t h = 0; h < heads; ++h)
    copy(p, q.col_range(h * dim + nope, rope_dim), out.col_range(h * width + latent, rope_dim));
  return out;
}

// a.down holds the query's latent (or the query), the latent, and the rotated rope key.
void Mla::paged_forward(const Pass& p, BlockState& s) const {
  const PagedLayer& paged = *s.paged;
  AttentionState& a = s.attention;
  const int64_t rows = s.x.rows, heads = config_.num_attention_heads;
  const int64_t latent = config_.kv_lora_rank, rope_dim = config_.qk_rope_head_dim, v = config_.v_head_dim;
  const Tensor cached = compute_tensor(p, *s.scratch, rows, cache_width());
  norm_forward(p, a.down.col_range(q_cols_, latent), kv_norm_, cached.col_range(0, latent));
  copy(p, a.down.col_range(q_cols_ + latent, rope_dim), cached.col_range(latent, rope_dim));
  write_pages(cached, paged.sequences, paged.cache, *p.stream);

  make_queries(p, s, *s.scratch);
  const Tensor attended = compute_tensor(p, *s.scratch, rows, heads * latent);
  paged_attention({.shape = {.heads = heads,
                             .kv_heads = 1,
                             .qk_dim = latent + rope_dim,
                             .v_dim = latent,
                             .k_head_stride = 0,
                             .v_column = 0,
                             .v_head_stride = 0,
                             .scale = config_.attention_scale()},
                   .sequences = paged.sequences,
                   .q = absorbed_queries(p, s),
                   .cache = paged.cache,
                   .o = attended},
                  *p.stream);
  const Tensor o = attention_output(p, s, heads * v);
  std::vector<LinearProblem> problems;
  for (int64_t h = 0; h < heads; ++h)
    problems.push_back(
        {attended.col_range(h * latent, latent), paged.absorbed->value[static_cast<size_t>(h)], o.col_range(h * v, v)});
  linear({problems, false, p.precision.products}, *p.stream);
  project_output(p, s, o, *out_);
}

void Mla::input_gradient(const Pass& p, BlockState& s) const {
  AttentionState& a = s.attention;
  Arena& scratch = *s.scratch;
  const int64_t rows = s.x.rows;
  const AttentionShape shape = this->shape();
  const Tensor d_o = output_gradient(p, s, *out_);
  if (p.recompute) expand(p, s, scratch);

  const int64_t latent = config_.kv_lora_rank, stride = shape.nope_dim + shape.v_dim;
  const Tensor d_down = compute_tensor(p, scratch, rows, down_->n), d_kv = compute_tensor(p, scratch, rows, kv_up_->n);
  const Tensor d_q = q_up_ ? compute_tensor(p, scratch, rows, q_up_->n) : d_down.col_range(0, q_cols_);
  const Tensor k_rope = a.down.col_range(q_cols_ + latent, shape.rope_dim),
               d_k_rope = d_down.col_range(q_cols_ + latent, shape.rope_dim);
  const int64_t tail = kv_up_->n - shape.nope_dim;
  attention_backward(
      {.shape = shape,
       .sequences = s.layout->sequences,
       .segment_start = s.layout->segment_start,
       .q = a.q,
       .k = a.kv,
       .k_rope = k_rope,
       .v = a.kv.col_range(shape.nope_dim, tail),
       .o = plain(p, scratch, a.o),
       .lse = a.lse,
       .k_head_stride = stride,
       .v_head_stride = stride,
       .d_o = d_o,
       .d_q = d_q,
       .d_k = d_kv,
       .d_v = d_kv.col_range(shape.nope_dim, tail),
       .d_k_head_stride = stride,
       .d_v_head_stride = stride,
       .d_k_rope = d_k_rope,
       .scratch = full_tensor(p, scratch, 1, attention_backward_scratch(shape, s.layout->sequences), MemoryClass::kScratch)},
      *p.stream);
  rotate(p, s, d_q, d_k_rope, true);

  if (q_up_) {
    a.d_q = as_operand(p, s, d_q, p.precision.gradient, QuantisedTensor::kQueryGradient);
    a.d_q_latent = compute_tensor(p, scratch, rows, q_cols_);
    project(p, a.d_q, q_up_->backward, a.d_q_latent);
    norm_input_gradient(p, a.down.col_range(0, q_cols_), q_norm_, a.d_q_latent, d_down.col_range(0, q_cols_), false);
  }
  a.d_kv = as_operand(p, s, d_kv, p.precision.gradient, QuantisedTensor::kKvGradient);
  a.d_kv_latent = compute_tensor(p, scratch, rows, latent);
  project(p, a.d_kv, kv_up_->backward, a.d_kv_latent);
  norm_input_gradient(p, a.down.col_range(q_cols_, latent), kv_norm_, a.d_kv_latent, d_down.col_range(q_cols_, latent), false);
  a.d_down = as_operand(p, s, d_down, p.precision.gradient, QuantisedTensor::kLatentGradient);
  a.d_in = full_tensor(p, scratch, rows, s.x.cols);
  project(p, a.d_down, down_->backward, a.d_in);
  norm_input_gradient(p, s.x, norm_, a.d_in, s.d, true);
}

void Mla::weight_gradient(const Pass& p, BlockState& s) const {
  AttentionState& a = s.attention;
  if (p.recompute) norm_input(p, s, *s.scratch);
  const GradientBuffer& g = *p.gradients;
  std::vector<GradientProduct> products = {gradient_product(a.d_out, a.o, g.of(*out_)),
                                           gradient_product(a.d_kv, a.kv_latent, g.of(*kv_up_)),
                                           gradient_product(a.d_down, a.in, g.of(*down_))};
  if (q_up_) products.push_back(gradient_product(a.d_q, a.q_latent, g.of(*q_up_)));
  add_weight_gradients(p, s, products);
  norm_weight_gradient(p, s.x, a.d_in, norm_tensor_);
  norm_weight_gradient(p, a.down.col_range(q_cols_, config_.kv_lora_rank), a.d_kv_latent, kv_norm_tensor_);
  if (q_up_) norm_weight_gradient(p, a.down.col_range(0, q_cols_), a.d_q_latent, q_norm_tensor_);
}

}  // namespace rorqual
