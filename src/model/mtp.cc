#include "model/mtp.h"

#include "kernels/embedding/embedding.h"
#include "model/ops.h"

namespace rorqual {

MtpModule::MtpModule(const ModelConfig& c, Weights& weights, int64_t depth, const Placement& placement)
    : depth_(depth),
      embedding_tensor_(weights.list().at("model.embed_tokens.weight")),
      enorm_tensor_(weights.list().at(layer_prefix(c.num_hidden_layers + depth - 1) + "enorm.weight")),
      hnorm_tensor_(weights.list().at(layer_prefix(c.num_hidden_layers + depth - 1) + "hnorm.weight")),
      head_norm_tensor_(weights.list().at(layer_prefix(c.num_hidden_layers + depth - 1) + "shared_head.norm.weight")),
      embedding_(weights.hold(embedding_tensor_)),
      enorm_(weights.hold(enorm_tensor_)),
      hnorm_(weights.hold(hnorm_tensor_)),
      head_norm_(weights.hold(head_norm_tensor_)),
      eh_proj_(&weights.add_linear(weights.list().at(layer_prefix(c.num_hidden_layers + depth - 1) + "eh_proj.weight"), 1,
                                   weights.precision().compute)),
      block_(c, weights, c.num_hidden_layers + depth - 1, c.n_routed_experts > 0, placement) {}

template <class Body>
void MtpModule::for_each_sequence(const MtpState& s, const Body& body) const {
  const int64_t length = s.layout.sequence_length;
  for (size_t b = 0; b < s.layout.sequences.size(); ++b)
    body(static_cast<int64_t>(b) * length, static_cast<int64_t>(b) * (length + 1), length);
}

// The checkpoint's order: embedding first (spec 1.6).
void MtpModule::embed(const Pass& p, MtpState& s, Arena& arena) const {
  const int64_t d = embedding_.cols, rows = s.layout.rows;
  s.embedded = full_tensor(p, arena, rows, d);
  embedding_forward({embedding_, s.token.data(), s.embedded}, *p.stream);
  s.joined = compute_tensor(p, arena, rows, 2 * d);
  norm_forward(p, s.embedded, enorm_, s.joined.col_range(0, d));
}

void MtpModule::join(const Pass& p, MtpState& s, const Tensor& hidden, Arena& arena) const {
  const int64_t d = embedding_.cols;
  embed(p, s, arena);
  for_each_sequence(s, [&](int64_t mine, int64_t theirs, int64_t n) {
    norm_forward(p, hidden.row_range(theirs, n), hnorm_, s.joined.col_range(d, d).row_range(mine, n));
  });
}

void MtpModule::forward(const Pass& p, MtpState& s, const Tensor& hidden) const {
  BlockState& b = s.block;
  const Arena::Mark mark = b.scratch->mark();
  b.x = residual_tensor(p, *b.saved, s.layout.rows, embedding_.cols);
  join(p, s, hidden, b.kept(p.recompute));
  project(p, s.joined, eh_proj_->forward, b.x);
  b.scratch->release(mark);
  predict(p, s);
}

void MtpModule::infer(const Pass& p, MtpState& s, const Tensor& hidden) const {
  BlockState& b = s.block;
  const Arena::Mark mark = b.scratch->mark();
  b.x = residual_tensor(p, *b.saved, s.layout.rows, embedding_.cols);
  embed(p, s, *b.scratch);
  norm_forward(p, hidden, hnorm_, s.joined.col_range(embedding_.cols, embedding_.cols));
  project(p, s.joined, eh_proj_->forward, b.x);
  b.scratch->release(mark);
  predict(p, s);
}

void MtpModule::predict(const Pass& p, MtpState& s) const {
  BlockState& b = s.block;
  b.layout = &s.layout;
  walk_forward(block_, p, b);
  s.normed = compute_tensor(p, *b.saved, s.layout.rows, embedding_.cols);
  norm_forward(p, b.y, head_norm_, s.normed);
}

void MtpModule::start_backward(const Pass& p, MtpState& s) const {
  s.block.d = full_tensor(p, *s.block.saved, s.layout.rows, embedding_.cols, MemoryClass::kScratch);
  norm_input_gradient(p, s.block.y, head_norm_, s.d_normed, s.block.d, false);
  norm_weight_gradient(p, s.block.y, s.d_normed, head_norm_tensor_);
}

void MtpModule::backward(const Pass& p, MtpState& s, const Tensor& hidden, const Tensor& d_hidden) const {
  BlockState& b = s.block;
  const int64_t d = embedding_.cols, rows = s.layout.rows;
  walk_backward(block_, p, b);
  const Arena::Mark mark = b.scratch->mark();
  if (p.recompute) join(p, s, hidden, *b.scratch);
  const Tensor d_x = compute_tensor(p, *b.scratch, rows, d);
  copy(p, b.d, d_x);
  const WeightGradientProblem problem{d_x, s.joined, p.gradients->of(*eh_proj_)};
  weight_gradient({{&problem, 1}}, *p.stream);
  const Tensor d_joined = full_tensor(p, *b.scratch, rows, 2 * d);
  project(p, d_x, eh_proj_->backward, d_joined);

  const Tensor d_enorm = d_joined.col_range(0, d), d_hnorm = d_joined.col_range(d, d);
  const Tensor d_embedded = full_tensor(p, *b.scratch, rows, d);
  norm_input_gradient(p, s.embedded, enorm_, d_enorm, d_embedded, false);
  norm_weight_gradient(p, s.embedded, d_enorm, enorm_tensor_);
  embedding_backward({s.token.data(), d_embedded, p.gradients->of(embedding_tensor_, static_cast<int>(depth_))}, *p.stream);
  for_each_sequence(s, [&](int64_t mine, int64_t theirs, int64_t n) {
    const Tensor h = hidden.row_range(theirs, n), d_h = d_hnorm.row_range(mine, n);
    norm_input_gradient(p, h, hnorm_, d_h, d_hidden.row_range(theirs, n), true);
    norm_weight_gradient(p, h, d_h, hnorm_tensor_);
  });
  b.scratch->release(mark);
}

}  // namespace rorqual
