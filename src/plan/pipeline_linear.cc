// 1F1B and ZB1P: one direction, stage s on rank s. Phases: 1 forwards until the pipeline is full, 2 one forward and one
// backward in turn, 3 the backwards that are left.
#include <algorithm>

#include "plan/pipeline_program.h"

namespace rorqual {

void write_1f1b(PipelineProgram& p) {
  const int count = p.shape().micro_batches, warm_up = std::min(p.shape().ranks - 1 - p.rank(), count);
  p.set_phase(1);
  for (int i = 0; i < warm_up; ++i) p.forward(0);
  p.set_phase(2);
  for (int i = warm_up; i < count; ++i) {
    p.forward(0);
    p.backward(0);
  }
  p.set_phase(3);
  for (int i = 0; i < warm_up; ++i) p.backward(0);
}

// Zero-bubble H1: as 1F1B, but a rank defers as many weight gradients as it has ranks before it. Those ranks hold as many
// more activations, so that live activations and deferred weight gradients together are the same on every rank. While a
// weight gradient is computed, the gradient that was just made travels, and so does the input of what comes next: the
// messages are posted and nobody waits for them. (Waiting would tie neighbours to each other's weight gradients, and the
// bubble would grow with the number of micro-batches.)
void write_zb1p(PipelineProgram& p) {
  const int count = p.shape().micro_batches, warm_up = std::min(p.shape().ranks - 1 - p.rank(), count);
  p.set_phase(1);
  for (int i = 0; i < warm_up; ++i) p.forward(0);
  int weights = 0;
  bool received = false;  // the next forward's or backward's message stands on the list already
  p.set_phase(2);
  for (int i = 0; i < count - warm_up; ++i) {
    p.forward(0, {.receive = !received, .send = true});
    p.input_gradient(0);
    received = i >= p.rank();
    if (!received) continue;
    const bool last = i + 1 == count - warm_up;
    if (!last) p.receive_forward(0);
    if (last && warm_up > 0) p.receive_backward(0);
    p.weight_gradient_posted();
    ++weights;
  }
  p.set_phase(3);
  for (int i = count - warm_up; i < count; ++i) {
    p.input_gradient(0, /*receive=*/!received);
    received = weights <= i;
    if (!received) continue;
    if (i + 1 < count) p.receive_backward(0);
    p.weight_gradient_posted();
    ++weights;
  }
  for (; weights < count; ++weights) p.weight_gradient_posted();
}

}  // namespace rorqual
