// The whole model: embedding, blocks, final norm, heads, MTP modules; one micro-batch forward and backward, and
// scoring. Inference over a cache is model/inference.h.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "model/block.h"
#include "model/head.h"
#include "model/mtp.h"
#include "model/weights.h"

namespace rorqual {

// Whole sequences of one length, each with the token that follows it.
struct MicroBatch {
  int64_t sequences = 0, length = 0;
  std::vector<int32_t> tokens;  // [sequences, length + 1]
  std::vector<double> weight;   // [sequences, length] of each predicted token; empty: 1
};

// What the loss of a step is made of, known before its first micro-batch.
struct LossSettings {
  double normaliser = 1;  // sum of the token weights of the whole step
  double sequences = 1;   // of the whole step: the balance loss is a mean over sequences
  double mtp_lambda = 0;  // report §4.2: 0.3, later 0.1
  double balance_alpha = 0;
};

// This micro-batch's share of the step's losses: shares add up to the step's.
struct MicroBatchResult {
  double loss = 0;                                // main head's cross-entropy
  double mtp_loss = 0;                            // mean over depths, without lambda
  double balance_loss = 0;                        // with alpha
  std::vector<std::vector<int64_t>> expert_load;  // per MoE block: the layers', then the MTP modules'
};

// Memory of one micro-batch in flight.
struct Workspace {
  explicit Workspace(MemoryUse* use, Arena::Kind kind = Arena::Kind::kReal) : saved(use, kind), scratch(use, kind, true) {}
  Arena saved, scratch;
};

class Model {
 public:
  // Registers its layers with `weights` (which outlives it); call weights.pack() before the first pass.
  Model(const ModelConfig& config, Weights& weights, int64_t logical_nodes, Arena& arena);

  const ModelConfig& config() const { return config_; }
  // One name per MoE block, in the order of MicroBatchResult::expert_load: the tensor prefix.
  std::vector<std::string> moe_block_names() const;

  // Adds the micro-batch's gradients to `gradients`.
  MicroBatchResult train(const MicroBatch& batch, const LossSettings& loss, const GradientBuffer& gradients, bool recompute,
                         Workspace& work, const Stream& stream) const;

  // Negative log-likelihood of every token after the first: [sequences, length], in nats.
  std::vector<double> score(const MicroBatch& batch, Workspace& work, const Stream& stream) const;

  // All logits [sequences·length, vocabulary] as double: for tests and comparisons.
  std::vector<double> logits(const MicroBatch& batch, Workspace& work, const Stream& stream) const;
  // Logits of MTP module k (from 1): [sequences·(length − k), vocabulary].
  std::vector<double> mtp_logits(const MicroBatch& batch, int64_t depth, Workspace& work, const Stream& stream) const;

 private:
  friend class InferenceModel;
  struct Run;  // the states of one micro-batch
  Pass make_pass(const Stream& stream, bool training, int64_t positions) const;
  void embed(const Pass& p, Run& run, std::span<const int32_t> tokens) const;
  void forward_blocks(const Pass& p, Run& run) const;
  void forward_mtp(const Pass& p, Run& run, const MicroBatch& batch) const;
  void backward(const Pass& p, Run& run) const;
  void main_loss(const Pass& p, Run& run, const MicroBatch& batch, const LossSettings& loss, MicroBatchResult& result) const;
  void mtp_loss(const Pass& p, Run& run, const MicroBatch& batch, const LossSettings& loss, MicroBatchResult& result) const;

  ModelConfig config_;
  const Weights& weights_;
  Arena& arena_;
  Placement placement_;
  size_t embedding_tensor_, norm_tensor_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::vector<LmHead> heads_;
  std::vector<std::unique_ptr<MtpModule>> mtp_;
  mutable Tensor rope_table_;  // grows to the longest context seen
};

}  // namespace rorqual
