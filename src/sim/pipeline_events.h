// A pipeline schedule run event by event: every action takes its own time, and messages take the time of the links that they
// share. With equal costs and messages that take no time this is run_pipeline (plan/pipeline_timing.h).
#pragma once

#include <functional>
#include <vector>

#include "plan/pipeline.h"

namespace rorqual {

struct MessageSeconds {
  double link = 0;     // in which the sender's way out and the receiver's way in carry nothing else
  double latency = 0;  // behind that
};

struct PipelineEventSpan {
  int32_t action = 0;  // index into the rank's list
  double begin = 0, end = 0;
};

struct PipelineEvents {
  double makespan = 0;
  std::vector<std::vector<PipelineEventSpan>> spans;  // [ranks] of what is computed, in order
  std::vector<double> busy;                           // [ranks]
};

// seconds(rank, action) of what is computed; message(from, to). A message travels from when both sides have posted it, in the
// order in which that happens; a commit waits for all. A schedule that stands still is a programmer's mistake.
PipelineEvents run_pipeline_events(const PipelineSchedule& schedule,
                                   const std::function<double(int, const PipelineAction&)>& seconds,
                                   const std::function<MessageSeconds(int, int)>& message);

}  // namespace rorqual
