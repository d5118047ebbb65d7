// The model on a paged cache: rows of many sequences in one pass, each row the newest token of its sequence or a token of a
// prompt. One form of attention for every position (MLA absorbed), so that a row's bits depend on its sequence's tokens alone:
// not on how a prompt is cut, on what else is in the pass, or on where the pages lie.
#pragma once

#include <span>
#include <vector>

#include "model/model.h"

namespace rorqual {

// Rows of a pass: `sequences` cover them in order.
struct InferenceBatch {
  std::span<const int32_t> tokens;  // [rows]
  std::span<const PagedSequence> sequences;
};

// Of every layer, then of every MTP module in use: [pages·64, width]. All layers of a sequence lie in the same pages.
struct PagedCache {
  std::vector<Tensor> layers;
};

class InferenceModel {
 public:
  // Packs what decoding needs beside the model's weights, from the master values as they are now. drafts: MTP modules in use.
  // The model outlives it. use, kind: as an Arena's.
  InferenceModel(const Model& model, int64_t drafts, const Stream& stream, MemoryUse* use = nullptr,
                 Arena::Kind kind = Arena::Kind::kReal);

  const ModelConfig& config() const { return model_.config_; }
  int64_t drafts() const { return drafts_; }
  DType hidden_dtype() const { return model_.weights_.precision().compute; }
  DType logits_dtype() const { return model_.weights_.precision().full; }
  int64_t cache_bytes_per_token() const;
  // Views of `memory`, which holds pages · 64 · cache_bytes_per_token() bytes, 64-byte aligned, finite everywhere.
  PagedCache make_cache(void* memory, int64_t pages) const;

  // Appends the rows to the cache. hidden [rows, hidden_size] of hidden_dtype(): after the final norm.
  void forward(const InferenceBatch& batch, const PagedCache& cache, const Tensor& hidden, Workspace& work,
               const Stream& stream) const;

  // MTP module k (from 1) at the batch's positions i: tokens t_{i+k}, hidden of depth k − 1 at i (the model's `hidden`, or the
  // module's before). predicted [rows, hidden_size] of hidden_dtype() is the head's input for t_{i+k+1}; next [rows,
  // hidden_size] of hidden_dtype() is hidden of depth k, or absent.
  void draft(int64_t k, const InferenceBatch& batch, const PagedCache& cache, const Tensor& hidden, const Tensor& predicted,
             const Tensor& next, Workspace& work, const Stream& stream) const;

  // out [rows, vocabulary] of logits_dtype().
  void logits(const Tensor& hidden, const Tensor& out, const Stream& stream) const;

 private:
  const AttentionLayer& attention(size_t layer) const;
  RowLayout layout_of(const InferenceBatch& batch) const;
  Pass make_pass(const InferenceBatch& batch, const Stream& stream) const;

  const Model& model_;
  int64_t drafts_;
  Arena arena_;
  std::vector<AbsorbedWeights> absorbed_;  // like PagedCache::layers
};

}  // namespace rorqual
