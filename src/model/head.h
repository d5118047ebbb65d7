// The language-model head: logits, per-token negative log-likelihood and, in the same pass, its gradient. The head is one entry
// of a model's list of heads; value and reward heads join it there.
#pragma once

#include "model/phase.h"

namespace rorqual {

// Loss of some rows of hidden states. nll_t = -log softmax(hidden_t · Wᵀ)[target_t].
struct HeadLoss {
  Tensor hidden;                    // [rows, d] compute type, after the final norm
  const int32_t* target = nullptr;  // [rows]
  Tensor coefficient;               // [1, rows] full: d loss / d nll; absent: no gradients
  Tensor nll;                       // [1, rows] full, out
  Tensor d_hidden;                  // [rows, d] full, out; with coefficient only
  int use = 0;                      // accumulator of the weight gradient: 0 main model, k MTP module k
};

class LmHead {
 public:
  LmHead(const ModelConfig& config, Weights& weights);
  int64_t vocabulary() const { return linear_->n; }
  void logits(const Pass& p, const Tensor& hidden, const Tensor& out) const;
  // In chunks of rows, so that logits of a long micro-batch are never held at once.
  void loss(const Pass& p, Arena& scratch, const HeadLoss& l) const;

 private:
  const Linear* linear_;
  int first_use_;  // a tied head's uses follow the embedding's
};

}  // namespace rorqual
