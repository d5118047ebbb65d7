#include "model/head.h"

#include "kernels/cross_entropy/cross_entropy.h"
#include "model/ops.h"

namespace rorqual {
namespace {
// Rows whose logits are held at a time. Fixed: the weight gradient is accumulated chunk by chunk.
constexpr int64_t kChunk = 512;
}  // namespace

LmHead::LmHead(const ModelConfig& c, Weights& weights)
    : linear_(&weights.add_linear(weights.list().at(c.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight"), 1,
                                  weights.precision().compute)),
      first_use_(c.tie_word_embeddings ? static_cast<int>(c.num_nextn_predict_layers) + 1 : 0) {}

void LmHead::logits(const Pass& p, const Tensor& hidden, const Tensor& out) const {
  project(p, hidden, linear_->forward, out);
}

void LmHead::loss(const Pass& p, Arena& scratch, const HeadLoss& l) const {
  const bool gradient = static_cast<bool>(l.coefficient);
  const Arena::Mark mark = scratch.mark();
  const int64_t chunk = std::min(kChunk, l.hidden.rows);
  const Tensor logits = scratch.tensor(MemoryClass::kLogits, p.precision.full, chunk, vocabulary());
  const Tensor d_logits = gradient ? scratch.tensor(MemoryClass::kLogits, p.precision.compute, chunk, vocabulary()) : Tensor{};
  for (int64_t begin = 0; begin < l.hidden.rows; begin += chunk) {
    const int64_t rows = std::min(chunk, l.hidden.rows - begin);
    const Tensor hidden = l.hidden.row_range(begin, rows), z = logits.row_range(0, rows);
    const Tensor d_z = gradient ? d_logits.row_range(0, rows) : Tensor{};
    project(p, hidden, linear_->forward, z);
    cross_entropy(
        {z, l.target + begin, gradient ? l.coefficient.col_range(begin, rows) : Tensor{}, l.nll.col_range(begin, rows), d_z},
        *p.stream);
    if (!gradient) continue;
    project(p, d_z, linear_->backward, l.d_hidden.row_range(begin, rows));
    const WeightGradientProblem problem{d_z, hidden, p.gradients->of(*linear_, first_use_ + l.use)};
    weight_gradient({{&problem, 1}}, *p.stream);
  }
  scratch.release(mark);
}

}  // namespace rorqual
