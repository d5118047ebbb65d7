// DualPipe and DualPipeV (spec 3.1, after the report's 3.2.1). One program in eight phases; `near` is the direction whose
// micro-batches reach the rank first.
#include "plan/pipeline_program.h"

namespace rorqual {
namespace {

struct Counts {
  int depth;     // how far the rank lies from the end of the pipeline: 0 at the end
  bool turning;  // in the middle of DualPipe, at the turn of DualPipeV
  int warm_up, fill, zero_bubble, steady;
};

Counts counts_of(const PipelineProgram& program) {
  const PipelineShape& s = program.shape();
  const bool v = s.kind == PipelineKind::kDualPipeV;
  const int half = v ? s.ranks : s.ranks / 2;
  const int depth = v ? program.rank() : std::min(program.rank(), s.ranks - 1 - program.rank());
  const int steady = s.micro_batches_each() - (v ? 2 * s.ranks : s.ranks) + depth + 1;
  return {.depth = depth,
          .turning = depth == half - 1,
          .warm_up = 2 * (half - depth - 1),
          .fill = depth + 1,
          .zero_bubble = half - depth - 1,
          .steady = steady};
}

void write_fill(PipelineProgram& p, const Counts& n, int near, int far) {
  const bool v = p.shape().kind == PipelineKind::kDualPipeV;
  p.receive_forward(near);
  for (int i = 0; i < n.fill; ++i) {
    p.forward(near, {.receive = false, .send = n.turning && !v});
    p.receive_forward(near);
    p.forward(far, {.receive = true, .send = !n.turning || i < n.fill - 1});
    if (!n.turning || v) p.send_forward(near);
  }
}

void write_steady(PipelineProgram& p, const Counts& n, int near, int far) {
  for (int i = 0; i < n.steady; ++i) {
    if (i == 0 && n.turning) {  // deliberately not overlapped
      p.forward(near, {.receive = false, .send = false});
      p.send_forward(far);
      p.backward(far, {.receive = true, .send = false});
      p.send_forward(near);
      p.send_backward(far);
    } else {
      p.forward_backward(near, far, /*receive_forward=*/i > 0);
    }
    p.forward_backward(far, near);
  }
}

void write_drain(PipelineProgram& p, const Counts& n, int near, int far) {
  bool defers = false;
  const auto backward = [&](int direction) { defers ? p.input_gradient(direction) : p.backward(direction); };
  for (int i = 0; i < n.fill; ++i) {
    if (i == n.fill / 2 && n.depth % 2 == 1) defers = true;
    backward(far);
    if (i == n.fill / 2 && n.depth % 2 == 0) defers = true;
    backward(near);
  }
}

}  // namespace

void write_dual_pipe(PipelineProgram& p) {
  const Counts n = counts_of(p);
  const bool flipped = p.shape().kind == PipelineKind::kDualPipe && p.rank() >= p.shape().ranks / 2;
  const int near = flipped ? 1 : 0, far = 1 - near;
  p.set_phase(1);
  for (int i = 0; i < n.warm_up; ++i) p.forward(near);
  p.set_phase(2);
  write_fill(p, n, near, far);
  p.set_phase(3);
  for (int i = 0; i < n.zero_bubble; ++i) {
    p.input_gradient(far);
    p.receive_forward(far);
    p.weight_gradient();
    p.forward(far, {.receive = false, .send = true});
  }
  p.set_phase(4);
  write_steady(p, n, near, far);
  p.set_phase(5);
  for (int i = 0; i < n.zero_bubble; ++i) {
    p.backward(far);
    p.forward_backward(far, near);
  }
  p.set_phase(6);
  write_drain(p, n, near, far);
  p.set_phase(7);
  for (int i = 0; i < n.zero_bubble; ++i) {
    p.weight_gradient();
    p.input_gradient(near);
  }
  p.set_phase(8);
  for (int i = 0; i < n.fill; ++i) p.weight_gradient();
}

}  // namespace rorqual
