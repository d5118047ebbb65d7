#include "serve/api_answer.h"

#include <sys/random.h>

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "serve/api_json.h"

namespace rorqual {
namespace {

// JSON has no infinity: what cannot be is as improbable as OpenAI's API says it.
double finite(float logprob) {
  return std::max(static_cast<double>(logprob), -9999.0);
}

ApiJson token_json(const Tokenizer& tokenizer, int32_t token, float logprob) {
  const std::string_view bytes = token_bytes(tokenizer, token);
  ApiJson list = ApiJson::array();
  for (const char c : bytes) list.push_back(static_cast<unsigned char>(c));
  return {{"token", std::string(bytes)}, {"logprob", finite(logprob)}, {"bytes", std::move(list)}};
}

int64_t characters(std::string_view bytes) {
  return std::count_if(bytes.begin(), bytes.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

// A token's name in a completion's lists: its text, or its bytes where they are no text ("bytes:\xe2\x96"), as OpenAI has it.
std::string token_name(const Tokenizer& tokenizer, int32_t token) {
  const std::string bytes(token_bytes(tokenizer, token));
  try {
    ApiJson(bytes).dump();  // throws where it is no UTF-8
    return bytes;
  } catch (const ApiJson::exception&) {
  }
  std::string name = "bytes:";
  for (const char c : bytes) name += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return name;
}

void random_bytes(void* out, size_t bytes) {
  CHECK(::getrandom(out, bytes, 0) == static_cast<ssize_t>(bytes));
}

}  // namespace

std::string_view token_bytes(const Tokenizer& tokenizer, int32_t token) {
  return token >= 0 && token < tokenizer.vocab_size() ? tokenizer.token(token) : std::string_view();
}

ApiJson chat_logprobs(const Tokenizer& tokenizer, const std::vector<GeneratedToken>& tokens) {
  ApiJson content = ApiJson::array();
  for (const GeneratedToken& t : tokens) {
    ApiJson entry = token_json(tokenizer, t.token, t.logprob);
    entry["top_logprobs"] = ApiJson::array();
    for (const TokenLogprob& a : t.top) entry["top_logprobs"].push_back(token_json(tokenizer, a.token, a.logprob));
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

ApiJson completion_logprobs(const Tokenizer& tokenizer, const int32_t* first, const std::vector<GeneratedToken>& tokens,
                            int64_t alternatives, int64_t& offset) {
  ApiJson names = ApiJson::array(), logprobs = ApiJson::array(), top = ApiJson::array(), offsets = ApiJson::array();
  const auto add = [&](int32_t token) {
    names.push_back(token_name(tokenizer, token));
    offsets.push_back(offset);
    offset += characters(token_bytes(tokenizer, token));
  };
  if (first) {
    add(*first);
    logprobs.push_back(nullptr);
    top.push_back(nullptr);
  }
  for (const GeneratedToken& t : tokens) {
    add(t.token);
    logprobs.push_back(finite(t.logprob));
    ApiJson likely = ApiJson::object();
    for (const TokenLogprob& a : t.top) likely[token_name(tokenizer, a.token)] = finite(a.logprob);
    top.push_back(std::move(likely));
  }
  return {{"tokens", std::move(names)},
          {"token_logprobs", std::move(logprobs)},
          {"top_logprobs", alternatives > 0 ? std::move(top) : ApiJson(nullptr)},
          {"text_offset", std::move(offsets)}};
}

void append_logprobs(ApiJson& all, const ApiJson& more) {
  if (all.is_null()) {
    all = more;
    return;
  }
  for (const auto& [key, list] : more.items())
    if (list.is_array()) all[key].insert(all[key].end(), list.begin(), list.end());
}

ApiJson tool_calls_json(const std::vector<ToolCall>& calls, size_t first_index, bool with_index) {
  ApiJson list = ApiJson::array();
  for (size_t i = 0; i < calls.size(); ++i) {
    ApiJson call = ApiJson::object();
    if (with_index) call["index"] = first_index + i;
    call["id"] = new_id("call_");
    call["type"] = "function";
    call["function"] = {{"name", calls[i].name}, {"arguments", calls[i].arguments}};
    list.push_back(std::move(call));
  }
  return list;
}

ApiJson usage_json(const TokenUsage& u) {
  return {{"prompt_tokens", u.prompt_tokens},
          {"completion_tokens", u.generated_tokens},
          {"total_tokens", u.prompt_tokens + u.generated_tokens},
          {"prompt_tokens_details", {{"cached_tokens", u.cached_prompt_tokens}}},
          {"completion_tokens_details",
           {{"accepted_prediction_tokens", u.accepted_tokens},
            {"rejected_prediction_tokens", u.drafted_tokens - u.accepted_tokens}}}};
}

void add_usage(TokenUsage& all, const TokenUsage& more) {
  all.prompt_tokens += more.prompt_tokens;
  all.cached_prompt_tokens += more.cached_prompt_tokens;
  all.generated_tokens += more.generated_tokens;
  all.drafted_tokens += more.drafted_tokens;
  all.accepted_tokens += more.accepted_tokens;
}

const char* finish_word(FinishReason reason) {
  return reason == FinishReason::kStop ? "stop" : "length";
}

std::string new_id(std::string_view prefix) {
  uint8_t bytes[12];
  random_bytes(bytes, sizeof bytes);
  std::string id(prefix);
  for (const uint8_t b : bytes) id += fmt::format("{:02x}", b);
  return id;
}

uint64_t random_seed() {
  uint64_t seed = 0;
  random_bytes(&seed, sizeof seed);
  return seed;
}

uint64_t choice_seed(uint64_t seed, int64_t choice) {
  return choice == 0 ? seed : hash_bytes(&choice, sizeof choice, seed);
}

std::string sse(const ApiJson& json) {
  return "data: " + dump_json(json) + "\n\n";
}

}  // namespace rorqual
