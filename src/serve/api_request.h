// What clients of /v1/chat/completions and /v1/completions ask for, parsed without a model. docs/serving.md lists every
// parameter; an unknown one is refused.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "serve/api_json.h"
#include "serve/sampler.h"

namespace rorqual {

inline constexpr int64_t kMostChoices = 128;     // n times prompts
inline constexpr int64_t kMostTopLogprobs = 20;  // alternatives for each token
inline constexpr size_t kMostStops = 16;         // stop strings

// What both routes share.
struct GenerationOptions {
  std::string model;  // empty: the only one there is
  bool stream = false, include_usage = false;
  int64_t n = 1;
  std::optional<int64_t> max_tokens;
  std::vector<std::string> stop;
  std::optional<uint64_t> seed;                            // absent: the server draws one
  SamplingSettings sampling;                               // seed not filled in
  std::vector<std::pair<std::string, double>> logit_bias;  // token ids as the client wrote them
  int64_t logprobs = -1;                                   // alternatives for each token; −1: none
  nlohmann::ordered_json response_format;                  // null: text
};

struct ChatRequest {
  GenerationOptions options;
  nlohmann::ordered_json messages;  // for the template: content is a text or null, "developer" is "system"
  nlohmann::ordered_json tools;     // null: none, or tool_choice "none"
  bool tool_required = false;       // tool_choice "required" or a named function
  std::string tool_name;            // of the function that it leaves; empty: of several
  // That function is strict: options.response_format holds the call's arguments to the schema of its parameters.
  bool tool_strict = false;
};

struct CompletionRequest {
  GenerationOptions options;
  std::vector<std::variant<std::string, std::vector<int32_t>>> prompts;  // at least one
  std::optional<std::string> suffix;
  bool echo = false;
};

// Throw ApiError (400).
ChatRequest parse_chat_completion(const nlohmann::ordered_json& body);
CompletionRequest parse_completion(const nlohmann::ordered_json& body);

}  // namespace rorqual
