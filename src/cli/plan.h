// The commands below `rorqual plan`, each in its own file src/cli/plan_<name>.cc: tables of what happens when and where, made
// by the pure functions of plan/ and printed, drawn or written for other programs.
#pragma once

#include <CLI/CLI.hpp>

namespace rorqual {

void add_plan_pipeline(CLI::App& plan);
void add_plan_memory(CLI::App& plan);
void add_plan_search(CLI::App& plan);
void add_plan_serving(CLI::App& plan);
void add_plan_experts(CLI::App& plan);

}  // namespace rorqual
