#include "model/model.h"

#include "base/trace.h"
#include "kernels/embedding/embedding.h"
#include "model/ops.h"
#include "model/rope_table.h"

namespace rorqual {
namespace {

// Element i of a contiguous tensor of full precision as double.
double element(const Tensor& t, int64_t i) {
  return t.dtype == DType::kF64 ? t.ptr<double>()[i] : static_cast<double>(t.ptr<float>()[i]);
}

// t[i] = value(i) for a [1, n] tensor of full precision.
template <class Value>
void fill(const Pass& p, const Tensor& t, const Value& value) {
  p.stream->parallel(1, [&](int64_t) {
    for (int64_t i = 0; i < t.cols; ++i) {
      if (t.dtype == DType::kF64) {
        t.ptr<double>()[i] = value(i);
      } else {
        t.ptr<float>()[i] = static_cast<float>(value(i));
      }
    }
  });
}

// Σ weight(i) · nll[i], ascending.
template <class Weight>
double weighted_sum(const Pass& p, const Tensor& nll, const Weight& weight) {
  double sum = 0;
  p.stream->parallel(1, [&](int64_t) {
    for (int64_t i = 0; i < nll.cols; ++i) sum += weight(i) * element(nll, i);
  });
  return sum;
}

double weight_of(const MicroBatch& batch, int64_t sequence, int64_t i) {
  return batch.weight.empty() ? 1.0 : batch.weight[static_cast<size_t>(sequence * batch.length + i)];
}

std::vector<double> to_double(const Tensor& t) {
  std::vector<double> out(static_cast<size_t>(t.count()));
  for (int64_t i = 0; i < t.count(); ++i) out[static_cast<size_t>(i)] = element(t, i);
  return out;
}

// tokens[sequence][offset … offset + length) of every sequence, one after another.
std::vector<int32_t> slice_tokens(const MicroBatch& batch, int64_t offset, int64_t length) {
  std::vector<int32_t> out;
  out.reserve(static_cast<size_t>(batch.sequences * length));
  for (int64_t s = 0; s < batch.sequences; ++s) {
    const auto first = batch.tokens.begin() + s * (batch.length + 1) + offset;
    out.insert(out.end(), first, first + length);
  }
  return out;
}

}  // namespace

RowLayout uniform_layout(int64_t sequences, int64_t length) {
  RowLayout layout;
  layout.rows = sequences * length;
  layout.sequence_length = length;
  for (int64_t s = 0; s < sequences; ++s) {
    layout.sequences.push_back({s * length, (s + 1) * length, s * length, (s + 1) * length});
    for (int64_t i = 0; i < length; ++i) layout.position.push_back(static_cast<int32_t>(i));
  }
  return layout;
}

struct Model::Run {
  explicit Run(Workspace& w) : work(w), saved_mark(w.saved.mark()), scratch_mark(w.scratch.mark()) {}
  ~Run() {
    work.saved.release(saved_mark);
    work.scratch.release(scratch_mark);
  }
  Workspace& work;
  Arena::Mark saved_mark, scratch_mark;
  RowLayout layout;
  std::vector<int32_t> token, target;
  std::vector<BlockState> blocks;
  Tensor final;    // [rows, d] after the final norm
  Tensor nll;      // [1, rows]
  Tensor d_final;  // [rows, d]
  std::vector<MtpState> mtp;
};

Model::Model(const ModelConfig& config, Weights& weights, int64_t logical_nodes, Arena& arena)
    : config_(config),
      weights_(weights),
      arena_(arena),
      embedding_tensor_(weights.list().at("model.embed_tokens.weight")),
      norm_tensor_(weights.list().at("model.norm.weight")) {
  weights.hold(embedding_tensor_);
  weights.hold(norm_tensor_);
  if (config_.n_routed_experts > 0) {
    if (logical_nodes < 1 || config_.n_routed_experts % logical_nodes != 0)
      fail_usage("logical_nodes = {} must divide n_routed_experts = {}", logical_nodes, config_.n_routed_experts);
    placement_ = identity_placement(config_.n_routed_experts, logical_nodes);
  }
  for (int64_t layer = 0; layer < config_.num_hidden_layers; ++layer)
    blocks_.push_back(std::make_unique<Block>(config_, weights, layer, config_.is_moe_layer(layer), placement_));
  heads_.emplace_back(config_, weights);
  for (int64_t k = 1; k <= config_.num_nextn_predict_layers; ++k)
    mtp_.push_back(std::make_unique<MtpModule>(config_, weights, k, placement_));
}

std::vector<std::string> Model::moe_block_names() const {
  std::vector<std::string> names;
  for (const auto& b : blocks_)
    if (b->moe()) names.push_back(layer_prefix(b->layer()));
  for (const auto& m : mtp_)
    if (m->block().moe()) names.push_back(layer_prefix(m->block().layer()));
  return names;
}

Pass Model::make_pass(const Stream& stream, bool training, int64_t positions) const {
  CHECK(positions <= config_.max_position_embeddings, "{} positions, the model has {}", positions,
        config_.max_position_embeddings);
  if (rope_table_.rows < positions) {
    const int64_t rows = std::min(std::max(positions, 2 * rope_table_.rows), config_.max_position_embeddings);
    rope_table_ = make_rope_table(config_, rows, weights_.precision().full, arena_, stream);
  }
  Pass p;
  p.config = &config_;
  p.precision = weights_.precision();
  p.stream = &stream;
  p.training = training;
  if (training) p.ledger = &weights_.ledger();
  p.recompute = true;
  p.rope_table = rope_table_;
  return p;
}

void Model::embed(const Pass& p, Run& run, std::span<const int32_t> tokens) const {
  run.blocks.resize(blocks_.size());
  run.blocks[0].x = residual_tensor(p, run.work.saved, run.layout.rows, config_.hidden_size);
  embedding_forward({weights_.master(embedding_tensor_), tokens.data(), run.blocks[0].x}, *p.stream);
}

void Model::forward_blocks(const Pass& p, Run& run) const {
  for (size_t i = 0; i < blocks_.size(); ++i) {
    BlockState& s = run.blocks[i];
    s.layout = &run.layout;
    s.saved = &run.work.saved;
    s.scratch = &run.work.scratch;
    if (i > 0) s.x = run.blocks[i - 1].y;
    walk_forward(*blocks_[i], p, s);
  }
  run.final = compute_tensor(p, run.work.saved, run.layout.rows, config_.hidden_size);
  norm_forward(p, run.blocks.back().y, weights_.master(norm_tensor_), run.final);
}

void Model::main_loss(const Pass& p, Run& run, const MicroBatch& batch, const LossSettings& loss,
                      MicroBatchResult& result) const {
  const int64_t rows = run.layout.rows;
  run.nll = full_tensor(p, run.work.saved, 1, rows);
  const Tensor coefficient = full_tensor(p, run.work.saved, 1, rows);
  auto weight = [&](int64_t r) { return weight_of(batch, r / batch.length, r % batch.length) / loss.normaliser; };
  fill(p, coefficient, weight);
  run.d_final = full_tensor(p, run.work.saved, rows, config_.hidden_size, MemoryClass::kScratch);
  heads_.front().loss(p, run.work.scratch, {run.final, run.target.data(), coefficient, run.nll, run.d_final, 0});
  result.loss += weighted_sum(p, run.nll, weight);
}

void Model::forward_mtp(const Pass& p, Run& run, const MicroBatch& batch) const {
  run.mtp.resize(mtp_.size());
  for (size_t i = 0; i < mtp_.size(); ++i) {
    const auto k = static_cast<int64_t>(i) + 1;
    MtpState& s = run.mtp[i];
    s.layout = uniform_layout(batch.sequences, batch.length - k);
    s.token = slice_tokens(batch, k, batch.length - k);
    s.target = slice_tokens(batch, k + 1, batch.length - k);
    s.block.saved = &run.work.saved;
    s.block.scratch = &run.work.scratch;
    mtp_[i]->forward(p, s, i == 0 ? run.final : run.mtp[i - 1].block.y);
  }
}

void Model::mtp_loss(const Pass& p, Run& run, const MicroBatch& batch, const LossSettings& loss,
                     MicroBatchResult& result) const {
  const auto depths = static_cast<double>(mtp_.size());
  for (size_t i = 0; i < mtp_.size(); ++i) {
    MtpState& s = run.mtp[i];
    const int64_t k = static_cast<int64_t>(i) + 1, rows = s.layout.rows, length = s.layout.sequence_length;
    s.nll = full_tensor(p, run.work.saved, 1, rows);
    const Tensor coefficient = full_tensor(p, run.work.saved, 1, rows);
    auto weight = [&](int64_t r) { return weight_of(batch, r / length, r % length + k) / loss.normaliser; };
    fill(p, coefficient, [&](int64_t r) { return loss.mtp_lambda / depths * weight(r); });
    s.d_normed = full_tensor(p, run.work.saved, rows, config_.hidden_size, MemoryClass::kScratch);
    heads_.front().loss(p, run.work.scratch, {s.normed, s.target.data(), coefficient, s.nll, s.d_normed, static_cast<int>(k)});
    result.mtp_loss += weighted_sum(p, s.nll, weight) / depths;
  }
}

void Model::backward(const Pass& p, Run& run) const {
  for (size_t i = 0; i < mtp_.size(); ++i) mtp_[i]->start_backward(p, run.mtp[i]);
  for (size_t i = mtp_.size(); i-- > 0;) {
    const TraceSpan span("mtp", "backward", TraceKind::kPhase);
    const bool first = i == 0;
    mtp_[i]->backward(p, run.mtp[i], first ? run.final : run.mtp[i - 1].block.y, first ? run.d_final : run.mtp[i - 1].block.d);
  }
  const Tensor d = full_tensor(p, run.work.saved, run.layout.rows, config_.hidden_size, MemoryClass::kScratch);
  const Tensor last = run.blocks.back().y;
  norm_input_gradient(p, last, weights_.master(norm_tensor_), run.d_final, d, false);
  norm_weight_gradient(p, last, run.d_final, norm_tensor_);
  for (size_t i = blocks_.size(); i-- > 0;) {
    run.blocks[i].d = d;
    walk_backward(*blocks_[i], p, run.blocks[i]);
  }
  embedding_backward({run.token.data(), d, p.gradients->of(embedding_tensor_)}, *p.stream);
}

MicroBatchResult Model::train(const MicroBatch& batch, const LossSettings& loss, const GradientBuffer& gradients,
                              bool recompute, Workspace& work, const Stream& stream) const {
  CHECK(static_cast<int64_t>(batch.tokens.size()) == batch.sequences * (batch.length + 1));
  CHECK(batch.length > config_.num_nextn_predict_layers, "a sequence must be longer than the MTP depth");
  Pass p = make_pass(stream, true, batch.length);
  p.recompute = recompute;
  p.gradients = &gradients;
  p.balance_coefficient = loss.balance_alpha / loss.sequences;
  Run run(work);
  run.layout = uniform_layout(batch.sequences, batch.length);
  run.token = slice_tokens(batch, 0, batch.length);
  run.target = slice_tokens(batch, 1, batch.length);
  embed(p, run, run.token);
  forward_blocks(p, run);
  MicroBatchResult result;
  {
    const TraceSpan span("head", "", TraceKind::kPhase);
    main_loss(p, run, batch, loss, result);
  }
  {
    const TraceSpan span("mtp", "forward", TraceKind::kPhase);
    forward_mtp(p, run, batch);
  }
  {
    const TraceSpan span("mtp", "head", TraceKind::kPhase);
    mtp_loss(p, run, batch, loss, result);
  }
  backward(p, run);
  auto collect = [&](const BlockState& s) {
    if (s.expert_load.empty()) return;
    result.expert_load.push_back(s.expert_load);
    result.balance_loss += s.balance_loss;
  };
  for (const BlockState& s : run.blocks) collect(s);
  for (const MtpState& s : run.mtp) collect(s.block);
  return result;
}

std::vector<double> Model::score(const MicroBatch& batch, Workspace& work, const Stream& stream) const {
  const Pass p = make_pass(stream, false, batch.length);
  Run run(work);
  run.layout = uniform_layout(batch.sequences, batch.length);
  run.token = slice_tokens(batch, 0, batch.length);
  run.target = slice_tokens(batch, 1, batch.length);
  embed(p, run, run.token);
  forward_blocks(p, run);
  run.nll = full_tensor(p, work.saved, 1, run.layout.rows);
  heads_.front().loss(p, work.scratch, {run.final, run.target.data(), {}, run.nll, {}, 0});
  return to_double(run.nll);
}

std::vector<double> Model::logits(const MicroBatch& batch, Workspace& work, const Stream& stream) const {
  const Pass p = make_pass(stream, false, batch.length);
  Run run(work);
  run.layout = uniform_layout(batch.sequences, batch.length);
  run.token = slice_tokens(batch, 0, batch.length);
  embed(p, run, run.token);
  forward_blocks(p, run);
  const Tensor out = full_tensor(p, work.saved, run.layout.rows, heads_.front().vocabulary());
  heads_.front().logits(p, run.final, out);
  return to_double(out);
}

std::vector<double> Model::mtp_logits(const MicroBatch& batch, int64_t depth, Workspace& work, const Stream& stream) const {
  CHECK(depth >= 1 && depth <= static_cast<int64_t>(mtp_.size()));
  const Pass p = make_pass(stream, false, batch.length);
  Run run(work);
  run.layout = uniform_layout(batch.sequences, batch.length);
  run.token = slice_tokens(batch, 0, batch.length);
  embed(p, run, run.token);
  forward_blocks(p, run);
  forward_mtp(p, run, batch);
  const Tensor& normed = run.mtp[static_cast<size_t>(depth - 1)].normed;
  const Tensor out = full_tensor(p, work.saved, normed.rows, heads_.front().vocabulary());
  heads_.front().logits(p, normed, out);
  return to_double(out);
}

}  // namespace rorqual
