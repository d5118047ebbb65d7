#include "serve/serve_metrics.h"

#include <fmt/format.h>
#include <unistd.h>

#include <fstream>

namespace rorqual {
namespace {

// Model names hold no quotes, backslashes or newlines (model_store.h).
std::string labelled(const std::string& name, const std::string& model) {
  return fmt::format("{}{{model=\"{}\"}}", name, model);
}

std::string head(const char* name, const char* type, const char* help) {
  return fmt::format("# HELP {0} {2}\n# TYPE {0} {1}\n", name, type, help);
}

struct Figure {
  const char* name;
  const char* type;
  const char* help;
  int64_t EngineStats::*value;
};

constexpr std::array<Figure, 14> kFigures = {{
    {"rorqual_requests_running", "gauge", "Sequences in the batch.", &EngineStats::running},
    {"rorqual_requests_waiting", "gauge", "Sequences that wait for a place.", &EngineStats::waiting},
    {"rorqual_cache_blocks", "gauge", "Blocks of 64 tokens in the cache.", &EngineStats::cache_blocks},
    {"rorqual_cache_blocks_used", "gauge", "Blocks that running sequences hold.", &EngineStats::cache_blocks_used},
    {"rorqual_prefix_asked_tokens_total", "counter", "Prompt tokens looked up in the prefix cache.",
     &EngineStats::prefix_asked_tokens},
    {"rorqual_prefix_hit_tokens_total", "counter", "Prompt tokens found in the prefix cache.", &EngineStats::prefix_hit_tokens},
    {"rorqual_prompt_tokens_total", "counter", "Prompt tokens.", &EngineStats::prompt_tokens},
    {"rorqual_generated_tokens_total", "counter", "Generated tokens.", &EngineStats::generated_tokens},
    {"rorqual_drafted_tokens_total", "counter", "Tokens that the draft proposed.", &EngineStats::drafted_tokens},
    {"rorqual_accepted_tokens_total", "counter", "Proposed tokens that were right.", &EngineStats::accepted_tokens},
    {"rorqual_preemptions_total", "counter", "Sequences that gave up their blocks for a while.", &EngineStats::preemptions},
    {"rorqual_steps_total", "counter", "Steps of the engine.", &EngineStats::steps},
    {"rorqual_requests_finished_total", "counter", "Sequences that came to their end.", &EngineStats::finished},
    {"rorqual_requests_cancelled_total", "counter", "Sequences that were cancelled.", &EngineStats::cancelled},
}};

}  // namespace

void LatencyHistogram::add(double seconds) {
  ++count_;
  sum_ += seconds;
  for (size_t i = 0; i < kBounds.size(); ++i) {
    if (seconds > kBounds[i]) continue;
    ++buckets_[i];
    return;
  }
}

std::string LatencyHistogram::text(const std::string& name, const std::string& model) const {
  std::string out;
  int64_t below = 0;
  for (size_t i = 0; i < kBounds.size(); ++i) {
    below += buckets_[i];
    out += fmt::format("{}_bucket{{model=\"{}\",le=\"{}\"}} {}\n", name, model, kBounds[i], below);
  }
  out += fmt::format("{}_bucket{{model=\"{}\",le=\"+Inf\"}} {}\n", name, model, count_);
  return out + fmt::format("{} {}\n{} {}\n", labelled(name + "_sum", model), sum_, labelled(name + "_count", model), count_);
}

std::string ServeMetrics::text(const std::vector<Served>& models, int64_t connections) const {
  std::string out;
  for (const Figure& f : kFigures) {
    out += head(f.name, f.type, f.help);
    for (const Served& s : models) out += fmt::format("{} {}\n", labelled(f.name, s.model), s.stats.*f.value);
  }
  const auto histogram = [&](const char* name, const char* help, LatencyHistogram ModelLatencies::*which) {
    out += head(name, "histogram", help);
    for (const auto& [model, l] : latencies_) out += (l.*which).text(name, model);
  };
  histogram("rorqual_time_to_first_token_seconds", "From the request to its first token.", &ModelLatencies::first_token);
  histogram("rorqual_inter_token_seconds", "Between tokens of a sequence.", &ModelLatencies::inter_token);
  histogram("rorqual_request_seconds", "From the request to the end of the sequence.", &ModelLatencies::request);
  out += head("rorqual_http_answers_total", "counter", "Answers by status.");
  for (const auto& [status, n] : answers_) out += fmt::format("rorqual_http_answers_total{{status=\"{}\"}} {}\n", status, n);
  out += head("rorqual_http_connections", "gauge", "Open connections.");
  out += fmt::format("rorqual_http_connections {}\n", connections);
  out += head("process_resident_memory_bytes", "gauge", "Memory that the process holds.");
  out += fmt::format("process_resident_memory_bytes {}\n", resident_bytes());
  return out;
}

int64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * ::sysconf(_SC_PAGESIZE);
}

}  // namespace rorqual
