// Proves that a schedule does its work, whoever made it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "plan/pipeline.h"

namespace rorqual {

// The first action that cannot be right. Where something is missing, the action that lacks it, or (action = the length of the
// rank's list) the list itself.
struct PipelineFault {
  int rank = 0;
  int64_t action = 0;  // index into the rank's list
  std::string why;
};

// What a rank holds at most, whatever the clock says: the order of its own list alone decides.
struct PipelinePeaks {
  int activations = 0;       // micro-batches from the beginning of their forward to the end of their input gradient
  int weight_gradients = 0;  // input gradients whose weight gradient has not run
  int held = 0;              // of both together
  int messages = 0;          // inputs and outputs in message buffers: from the receive's post to its use, from an output's
                             // computation to the commit behind its send
};

struct PipelineCheck {
  std::optional<PipelineFault> fault;  // none: the schedule is right
  std::vector<PipelinePeaks> peaks;    // [ranks]; empty where there is a fault
};

// A schedule is right where
//  1. every rank's list is legal by itself: each micro-batch passes each of its modules exactly once with forward, input
//     gradient and weight gradient, in this order; a module's input (gradient) is received, and the receive committed, or, at
//     the turn of DualPipeV, computed before; every output that another rank needs is sent once, to that rank, after it was
//     computed, and no message stays unposted or unwaited; a module's weight gradients are added in the order of the
//     micro-batches (the order of sums is part of the result);
//  2. between any two ranks the n-th send and the n-th receive are of the same message: the transport has no tags;
//  3. no rank waits for ever, where a send completes as run_pipeline (plan/pipeline_timing.h) says for `buffers`; 0 is the
//     strictest transport. More buffers never hurt.
// The lists are taken as they are, `phase` apart; sizes that do not exist (validate) are an Error.
PipelineCheck check_pipeline(const PipelineSchedule& schedule, int buffers = 0);

}  // namespace rorqual
