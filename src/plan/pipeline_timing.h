// When each action of a schedule runs if computing costs time and sending does not: the same transport that the checker
// assumes, with a clock.
#pragma once

#include <vector>

#include "plan/pipeline.h"

namespace rorqual {

// In any unit of time. A weight gradient is part of a backward: the input gradient costs backward - weight.
struct PipelineCosts {
  double forward = 1, backward = 2, weight = 1, forward_backward = 3;

  double of(PipelineActionKind kind) const;  // 0 for messages, posts and commits
};

// Error (usage) where a cost is not finite, is negative, or weight is above backward.
void validate(const PipelineCosts& costs);

struct PipelineSpan {
  int32_t action = 0;  // index into the rank's list
  double begin = 0, end = 0;
};

struct PipelineRun {
  double makespan = 0;
  std::vector<std::vector<PipelineSpan>> spans;  // [ranks] of what is computed, in order
  std::vector<double> idle;                      // [ranks] the makespan without what the rank computes
  std::vector<int64_t> messages;                 // [ranks] sent and received
  std::vector<int64_t> batches;                  // [ranks] posts and commits that had messages to post
  std::vector<int64_t> stopped_at;               // [ranks] the commit that waits for ever; -1: none, the list is through

  // The rank whose waiting commit stands first in its list; -1: all lists are through.
  int deadlocked_rank() const;
};

// Runs every rank's list. A receive completes when its send has been posted; a send when at most `buffers` messages between
// its two ranks wait to be received, its own included. 0: when its receive has been posted, so that a rank may wait for another
// to come to the point of receiving; 1, the default: sending does not wait as long as a message at a time is on its way. The
// order in which ranks are visited does not matter. Messages name ranks of the schedule (programmer's mistake otherwise).
PipelineRun run_pipeline(const PipelineSchedule& schedule, const PipelineCosts& costs, int buffers = 1);

// The published idle time of a rank (spec 3.2) for these sizes. Where the conditions hold, run_pipeline's is at most that:
//   1F1B       (ranks - 1)·(F + B)            equal, always
//   ZB1P       (ranks - 1)·(F + B - 2W)       equal where micro_batches >= ranks and W <= min(F, B - W)
//   DualPipe   (ranks/2 - 1)·(F&B + B - 3W)   at most where W <= min(F, B - F) and max(F, B) <= F&B <= F + B
//   DualPipeV  (ranks - 1)·(F&B + B - 3W)     the same
double published_bubble(const PipelineShape& shape, const PipelineCosts& costs);

}  // namespace rorqual
