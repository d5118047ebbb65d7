// A schedule that has been run (plan/pipeline_timing.h) as pictures: text for terminals, SVG, and a trace for Perfetto.
#pragma once

#include <filesystem>
#include <string>

#include "plan/pipeline.h"
#include "plan/pipeline_timing.h"

namespace rorqual {

// One line a rank, a letter for what it does in each column's middle: F forward, B backward, X both overlapped, I input
// gradient, W weight gradient, . idle. A column is 1 unit of time, or more where the run is longer than `columns` (1 or more).
std::string pipeline_text_chart(const PipelineSchedule& schedule, const PipelineRun& run, int columns);

// A row a rank, a box for each action with its micro-batch's number where there is room.
std::string pipeline_svg_chart(const PipelineSchedule& schedule, const PipelineRun& run, const std::string& title,
                               const std::string& subtitle);

// A track a rank; a unit of time is a millisecond.
void write_pipeline_trace(const std::filesystem::path& path, const PipelineSchedule& schedule, const PipelineRun& run);

}  // namespace rorqual
