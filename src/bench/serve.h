// `rorqual bench serve`: how fast a model answers, in FP8 and in BF16, turn by turn.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "model/config.h"

namespace rorqual {

struct ServeBenchRequest {
  std::optional<std::filesystem::path> model;  // a model or run directory; else `config` with random weights
  ModelConfig config;                          // complete and valid
  std::vector<std::string> precisions = {"fp8", "bf16"};
  std::vector<int64_t> batches = {1, 4, 16, 64};
  int64_t prompt_tokens = 512;  // of prefill, if the context has room
  int64_t decode_tokens = 64;   // per sequence
  int rounds = 3;               // of which the median counts
  std::string text;             // for speculation, if the model has MTP modules; empty: none
};

// Threads: OMP_NUM_THREADS, else all CPUs. Prompts are random tokens; the prefix cache is off.
//   {"threads", "context_tokens", "rounds", "precisions": [{"precision", "cold_start_s", "prefill": {"tokens", "tokens_per_s",
//    "time_to_first_token_ms"}, "decode": [{"batch", "prompt_tokens", "tokens", "tokens_per_s"}], "speculation":
//    {"text_tokens", "mtp_acceptance", "bigram_acceptance", "generated_tokens", "drafted_tokens", "accepted_tokens",
//    "tokens_per_s", "tokens_per_s_without", "speed_up"}}]}
// cold_start_s: from opening the model's files (which the system may hold in memory) to the first token of a short prompt; of a
// model only.
// Speculation: acceptance is how often a draft equals the model's likeliest token behind every prefix of the text's second
// half; the bigram draft is the likeliest successor in its first half. The speed is of greedy continuations of the text,
// batch 1.
nlohmann::ordered_json bench_serve(const ServeBenchRequest& request);

// For people.
std::string serve_table(const nlohmann::ordered_json& result);

}  // namespace rorqual
