// How the generators of schedules write the list of one rank: calls append what is computed, with the messages that it needs
// (spec 3.1). Micro-batches are counted here: each call takes the direction's next one.
#pragma once

#include <array>
#include <deque>
#include <vector>

#include "plan/pipeline.h"

namespace rorqual {

class PipelineProgram {
 public:
  PipelineProgram(const PipelineShape& shape, int rank) : shape_(shape), rank_(rank) {}

  const PipelineShape& shape() const { return shape_; }
  int rank() const { return rank_; }
  void set_phase(int phase) { phase_ = static_cast<int8_t>(phase); }

  // At the ends of the pipeline, and inside a rank, these do nothing.
  void receive_forward(int direction);
  void receive_backward(int direction);
  void send_forward(int direction);
  void send_backward(int direction);

  struct Messages {
    bool receive = true, send = true;
  };
  void forward(int direction, Messages messages = {.receive = true, .send = true});
  void backward(int direction, Messages messages = {.receive = true, .send = true});
  void input_gradient(int direction, bool receive = true);
  // The oldest input gradient's, whichever its direction, behind a commit.
  void weight_gradient();
  // The same behind a post.
  void weight_gradient_posted();
  // The forward's receive may stand on the list already.
  void forward_backward(int forward_direction, int backward_direction, bool receive_forward = true);

  std::vector<PipelineAction> finish();

 private:
  // The direction's next micro-batch at each point on its way through the module.
  struct Next {
    int receive_forward = 0, forward = 0, send_forward = 0, receive_backward = 0, backward = 0, send_backward = 0;
  };
  PipelineChunk chunk(int direction, int& counter);
  void append(PipelineActionKind kind, PipelineChunk chunk = {}, int peer = -1);
  void append_weight_gradient();
  // The rank that the message goes to or comes from; -1: none but this one.
  int peer(int direction, bool next) const;

  PipelineShape shape_;
  int rank_;
  int8_t phase_ = 0;
  std::array<Next, 2> next_;
  std::deque<PipelineChunk> deferred_;  // weight gradients
  std::vector<PipelineAction> actions_;
};

void write_1f1b(PipelineProgram& program);
void write_zb1p(PipelineProgram& program);
// DualPipe and DualPipeV.
void write_dual_pipe(PipelineProgram& program);

}  // namespace rorqual
