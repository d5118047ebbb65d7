// A simulated step for people: a chart of the ranks of one pipeline, and a trace that Chrome and Perfetto open.
#pragma once

#include <string>
#include <string_view>

#include "sim/step.h"

namespace rorqual {

// SVG. The estimate has spans. One row for each pipeline rank; beneath, one chunk of rank 0 from inside: what computes, what
// moves rows.
std::string step_chart(const StepEstimate& estimate, std::string_view title);

// JSON: for each pipeline rank a track of actions, one of what computes and one of rows on links.
std::string step_trace(const StepEstimate& estimate);

}  // namespace rorqual
