// A request on its way through the engine.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "serve/engine.h"
#include "serve/output_text.h"
#include "serve/sampler.h"

namespace rorqual {

struct Sequence {
  Sequence(uint64_t number, EngineRequest&& r, int64_t context);

  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
  // All but the newest token lie in the cache: the next row's logits give the next token.
  bool decoding() const { return computed + 1 == size() && size() > usage.prompt_tokens; }
  // Pages that `positions` need.
  static int64_t pages_for(int64_t positions);

  // The token that `logits` at the newest position give, by all rules of the request; −1: none is allowed.
  int32_t choose(std::span<const float> logits) const;
  // Goes on with a chosen token: its text, and whether the sequence ends with it.
  void take(int32_t token, std::span<const float> logits, const Tokenizer& tokenizer);
  void end(FinishReason reason, std::string why = {});
  // Hands out what happened since the last event, if anything did.
  void report();

  uint64_t id;
  EngineRequest request;
  std::vector<int32_t> tokens;  // prompt and output
  int64_t limit;                // of tokens
  FinishReason limit_reason;
  int64_t computed = 0;  // positions in the cache
  std::vector<int32_t> pages;
  int64_t published = 0;       // pages that the prefix cache knows
  std::vector<int32_t> draft;  // proposed to follow `tokens`
  bool admitted = false;       // ran before: no longer counted as waiting

  Sampler sampler;
  OutputText text;
  TokenUsage usage;
  std::optional<FinishReason> finish;

 private:
  EngineEvent event_;  // since the last report

 public:
  std::vector<GeneratedToken> prompt_scores;  // of prompt tokens from the second on
};

// The record of a token: its logprob and the likeliest alternatives, of the model's own distribution.
GeneratedToken scored_token(int32_t token, std::span<const float> logits, int64_t alternatives);

}  // namespace rorqual
