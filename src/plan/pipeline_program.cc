#include "plan/pipeline_program.h"

#include "base/error.h"

namespace rorqual {

PipelineChunk PipelineProgram::chunk(int direction, int& counter) {
  CHECK(counter < shape_.micro_batches_each(), "rank {}: direction {} has no micro-batch {}", rank_, direction, counter);
  return {.direction = static_cast<int8_t>(direction),
          .stage = static_cast<int16_t>(shape_.stage(rank_, direction)),
          .micro_batch = counter++};
}

void PipelineProgram::append(PipelineActionKind kind, PipelineChunk of, int with) {
  actions_.push_back({.kind = kind, .phase = phase_, .chunk = of, .backward = {}, .peer = with});
}

int PipelineProgram::peer(int direction, bool next) const {
  const int other = next ? shape_.next_rank(rank_, direction) : shape_.previous_rank(rank_, direction);
  return other == rank_ ? -1 : other;
}

void PipelineProgram::receive_forward(int direction) {
  const int from = peer(direction, false);
  int& counter = next_[static_cast<size_t>(direction)].receive_forward;
  if (from >= 0) append(PipelineActionKind::kReceiveActivation, chunk(direction, counter), from);
}

void PipelineProgram::receive_backward(int direction) {
  const int from = peer(direction, true);
  int& counter = next_[static_cast<size_t>(direction)].receive_backward;
  if (from >= 0) append(PipelineActionKind::kReceiveGradient, chunk(direction, counter), from);
}

void PipelineProgram::send_forward(int direction) {
  const int to = peer(direction, true);
  int& counter = next_[static_cast<size_t>(direction)].send_forward;
  if (to >= 0) append(PipelineActionKind::kSendActivation, chunk(direction, counter), to);
}

void PipelineProgram::send_backward(int direction) {
  const int to = peer(direction, false);
  int& counter = next_[static_cast<size_t>(direction)].send_backward;
  if (to >= 0) append(PipelineActionKind::kSendGradient, chunk(direction, counter), to);
}

void PipelineProgram::forward(int direction, Messages messages) {
  if (messages.receive) receive_forward(direction);
  append(PipelineActionKind::kCommit);
  append(PipelineActionKind::kForward, chunk(direction, next_[static_cast<size_t>(direction)].forward));
  if (messages.send) send_forward(direction);
}

void PipelineProgram::backward(int direction, Messages messages) {
  if (messages.receive) receive_backward(direction);
  append(PipelineActionKind::kCommit);
  append(PipelineActionKind::kBackward, chunk(direction, next_[static_cast<size_t>(direction)].backward));
  if (messages.send) send_backward(direction);
}

void PipelineProgram::input_gradient(int direction, bool receive) {
  if (receive) receive_backward(direction);
  append(PipelineActionKind::kCommit);
  const PipelineChunk of = chunk(direction, next_[static_cast<size_t>(direction)].backward);
  append(PipelineActionKind::kInputGradient, of);
  deferred_.push_back(of);
  send_backward(direction);
}

void PipelineProgram::append_weight_gradient() {
  CHECK(!deferred_.empty(), "rank {} defers no weight gradient", rank_);
  append(PipelineActionKind::kWeightGradient, deferred_.front());
  deferred_.pop_front();
}

void PipelineProgram::weight_gradient() {
  append(PipelineActionKind::kCommit);
  append_weight_gradient();
}

void PipelineProgram::weight_gradient_posted() {
  append(PipelineActionKind::kPost);
  append_weight_gradient();
}

void PipelineProgram::forward_backward(int forward_direction, int backward_direction, bool receive) {
  if (receive) receive_forward(forward_direction);
  receive_backward(backward_direction);
  append(PipelineActionKind::kCommit);
  append(PipelineActionKind::kForwardBackward, chunk(forward_direction, next_[static_cast<size_t>(forward_direction)].forward));
  actions_.back().backward = chunk(backward_direction, next_[static_cast<size_t>(backward_direction)].backward);
  send_forward(forward_direction);
  send_backward(backward_direction);
}

std::vector<PipelineAction> PipelineProgram::finish() {
  append(PipelineActionKind::kCommit);
  CHECK(deferred_.empty(), "rank {} leaves {} weight gradients", rank_, deferred_.size());
  return std::move(actions_);
}

}  // namespace rorqual
