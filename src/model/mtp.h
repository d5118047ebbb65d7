// Multi-token prediction (spec 1.6; report §2.2): module k takes the hidden states of depth k − 1 and the embedding of the k-th
// next token, and predicts the one after that. Embedding and head are the main model's.
#pragma once

#include "model/block.h"
#include "model/head.h"

namespace rorqual {

struct MtpState {
  RowLayout layout;             // sequences of T − k rows
  std::vector<int32_t> token;   // [rows] t_{i+k}: input
  std::vector<int32_t> target;  // [rows] t_{i+k+1}
  Tensor embedded;              // [rows, d] full (recomputed)
  Tensor joined;                // [rows, 2d] enorm(embedded) | hnorm(hidden) (recomputed)
  BlockState block;
  Tensor normed;    // [rows, d] after shared_head.norm: the head's input (saved)
  Tensor nll;       // [1, rows]
  Tensor d_normed;  // [rows, d] from the head
};

class MtpModule {
 public:
  // depth k from 1.
  MtpModule(const ModelConfig& config, Weights& weights, int64_t depth, const Placement& placement);

  int64_t depth() const { return depth_; }
  const Block& block() const { return block_; }
  // hidden: [sequences · (T − k + 1), d], the main model's output after its final norm, or block k − 1's output. Fills normed.
  void forward(const Pass& p, MtpState& s, const Tensor& hidden) const;
  // Inference: rows of any sequences, s.layout and s.token given; row i of `hidden` belongs to row i.
  void infer(const Pass& p, MtpState& s, const Tensor& hidden) const;
  // s.block.d is set from d_normed by start_backward; deeper modules add to it before this call. Adds to d_hidden.
  void start_backward(const Pass& p, MtpState& s) const;
  void backward(const Pass& p, MtpState& s, const Tensor& hidden, const Tensor& d_hidden) const;

 private:
  void embed(const Pass& p, MtpState& s, Arena& arena) const;
  void join(const Pass& p, MtpState& s, const Tensor& hidden, Arena& arena) const;
  void predict(const Pass& p, MtpState& s) const;
  // Calls body(rows of this module's layout, the same rows of `hidden`) for each sequence.
  template <class Body>
  void for_each_sequence(const MtpState& s, const Body& body) const;

  int64_t depth_;
  size_t embedding_tensor_, enorm_tensor_, hnorm_tensor_, head_norm_tensor_;
  Tensor embedding_, enorm_, hnorm_, head_norm_;
  const Linear* eh_proj_;
  Block block_;
};

}  // namespace rorqual
