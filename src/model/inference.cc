#include "model/inference.h"

#include "kernels/embedding/embedding.h"
#include "model/ops.h"

namespace rorqual {

InferenceModel::InferenceModel(const Model& model, int64_t drafts, const Stream& stream, MemoryUse* use, Arena::Kind kind)
    : model_(model), drafts_(drafts), arena_(use, kind) {
  CHECK(drafts >= 0 && drafts <= static_cast<int64_t>(model.mtp_.size()), "{} drafts of {} MTP modules", drafts,
        model.mtp_.size());
  std::vector<PackWeightArgs> packing;
  const size_t layers = model_.blocks_.size() + static_cast<size_t>(drafts);
  for (size_t i = 0; i < layers; ++i) absorbed_.push_back(attention(i).absorb(hidden_dtype(), arena_, packing));
  if (!stream.is_dry()) pack_weights(packing, stream);
}

const AttentionLayer& InferenceModel::attention(size_t layer) const {
  const size_t blocks = model_.blocks_.size();
  return layer < blocks ? model_.blocks_[layer]->attention() : model_.mtp_[layer - blocks]->block().attention();
}

int64_t InferenceModel::cache_bytes_per_token() const {
  int64_t bytes = 0;
  for (size_t i = 0; i < absorbed_.size(); ++i) bytes += attention(i).cache_width() * size_of(hidden_dtype());
  return bytes;
}

PagedCache InferenceModel::make_cache(void* memory, int64_t pages) const {
  PagedCache cache;
  auto* at = static_cast<std::byte*>(memory);
  for (size_t i = 0; i < absorbed_.size(); ++i) {
    cache.layers.emplace_back(at, hidden_dtype(), pages * kPageTokens, attention(i).cache_width());
    at += cache.layers.back().bytes();
  }
  return cache;
}

RowLayout InferenceModel::layout_of(const InferenceBatch& batch) const {
  RowLayout layout;
  for (const PagedSequence& s : batch.sequences) {
    CHECK(s.q_begin == layout.rows, "sequences must cover the rows in order");
    for (int64_t i = 0; i < s.q_end - s.q_begin; ++i) layout.position.push_back(static_cast<int32_t>(s.position + i));
    layout.rows = s.q_end;
  }
  CHECK(layout.rows == static_cast<int64_t>(batch.tokens.size()), "{} rows, {} tokens", layout.rows, batch.tokens.size());
  layout.sequence_length = layout.rows;
  return layout;
}

Pass InferenceModel::make_pass(const InferenceBatch& batch, const Stream& stream) const {
  int64_t positions = 0;
  for (const PagedSequence& s : batch.sequences) positions = std::max(positions, s.position + s.q_end - s.q_begin);
  return model_.make_pass(stream, false, positions);
}

void InferenceModel::forward(const InferenceBatch& batch, const PagedCache& cache, const Tensor& hidden, Workspace& work,
                             const Stream& stream) const {
  const Pass p = make_pass(batch, stream);
  const RowLayout layout = layout_of(batch);
  const Arena::Mark start = work.saved.mark();
  const Tensor x = residual_tensor(p, work.saved, layout.rows, config().hidden_size);
  embedding_forward({model_.weights_.master(model_.embedding_tensor_), batch.tokens.data(), x}, stream);
  for (size_t i = 0; i < model_.blocks_.size(); ++i) {
    const Arena::Mark mark = work.saved.mark();
    const PagedLayer paged{cache.layers[i], batch.sequences, &absorbed_[i]};
    BlockState s;
    s.layout = &layout;
    s.paged = &paged;
    s.saved = &work.saved;
    s.scratch = &work.scratch;
    s.x = x;
    walk_forward(*model_.blocks_[i], p, s);
    copy(p, s.y, x);  // nothing of a block is needed again
    work.saved.release(mark);
  }
  norm_forward(p, x, model_.weights_.master(model_.norm_tensor_), hidden);
  work.saved.release(start);
}

void InferenceModel::draft(int64_t k, const InferenceBatch& batch, const PagedCache& cache, const Tensor& hidden,
                           const Tensor& predicted, const Tensor& next, Workspace& work, const Stream& stream) const {
  CHECK(k >= 1 && k <= drafts_, "MTP module {} of {}", k, drafts_);
  const size_t layer = model_.blocks_.size() + static_cast<size_t>(k) - 1;
  const Pass p = make_pass(batch, stream);
  const Arena::Mark mark = work.saved.mark();
  const PagedLayer paged{cache.layers[layer], batch.sequences, &absorbed_[layer]};
  MtpState s;
  s.layout = layout_of(batch);
  s.token.assign(batch.tokens.begin(), batch.tokens.end());
  s.block.saved = &work.saved;
  s.block.scratch = &work.scratch;
  s.block.paged = &paged;
  model_.mtp_[static_cast<size_t>(k) - 1]->infer(p, s, hidden);
  copy(p, s.normed, predicted);
  if (next) copy(p, s.block.y, next);
  work.saved.release(mark);
}

void InferenceModel::logits(const Tensor& hidden, const Tensor& out, const Stream& stream) const {
  model_.heads_.front().logits(model_.make_pass(stream, false, 1), hidden, out);
}

}  // namespace rorqual
