// RUN/report.html: one self-contained page about a run, readable on a phone and in dark mode.
#pragma once

#include <filesystem>

namespace rorqual {

// Reads recipe.toml, metrics.jsonl and samples.jsonl of the run and writes the page atomically. Error (runtime): no run there,
// damaged metrics.
void write_report(const std::filesystem::path& run, const std::filesystem::path& out);

}  // namespace rorqual
