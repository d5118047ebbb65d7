// The JSON of answers to /v1/chat/completions and /v1/completions.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "serve/engine.h"
#include "serve/tool_calls.h"

namespace rorqual {

using ApiJson = nlohmann::ordered_json;

// The bytes of a token; empty for ids that a padded vocabulary has beyond the tokenizer's.
std::string_view token_bytes(const Tokenizer& tokenizer, int32_t token);

// {"token", "logprob", "bytes", "top_logprobs"} of each token, as chat completions have it.
ApiJson chat_logprobs(const Tokenizer& tokenizer, const std::vector<GeneratedToken>& tokens);

// The four lists of a completion's logprobs. `offset`: characters of text before; goes on. `first` (may be null): a prompt's
// first token, which has no probability.
ApiJson completion_logprobs(const Tokenizer& tokenizer, const int32_t* first, const std::vector<GeneratedToken>& tokens,
                            int64_t alternatives, int64_t& offset);
// Adds the four lists of `more` to those of `all` (or makes them).
void append_logprobs(ApiJson& all, const ApiJson& more);

ApiJson tool_calls_json(const std::vector<ToolCall>& calls, size_t first_index, bool with_index);

ApiJson usage_json(const TokenUsage& usage);
void add_usage(TokenUsage& all, const TokenUsage& more);

// OpenAI's word: stop or length. A sequence that the server ended is as cut off as one that reached its length.
const char* finish_word(FinishReason reason);

// "chatcmpl-" and the like before 24 letters that nobody can guess.
std::string new_id(std::string_view prefix);
uint64_t random_seed();
// Seeds of the choices of one request: the first has the client's own.
uint64_t choice_seed(uint64_t seed, int64_t choice);

// One server-sent event.
std::string sse(const ApiJson& json);

}  // namespace rorqual
