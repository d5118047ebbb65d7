// Text from a model, one sequence at a time, and the loss of a text.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"
#include "model/model.h"
#include "serve/sampler.h"

namespace rorqual {

struct GenerateRequest {
  std::string prompt;
  int64_t max_tokens = 128;
  SamplingSettings sampling;
  int64_t draft_tokens = 0;  // by the model's MTP modules
  // Called on another thread with each piece of text as it becomes whole UTF-8; may
  // be empty.
  std::function<void(std::string_view)> on_text;
};

enum class GenerateStop { kLength, kEnd, kContext };  // max_tokens, the end-of-sentence token, or no place left

struct GenerateResult {
  std::string text;                // without the prompt; bytes that are no UTF-8 as U+FFFD
  std::vector<int32_t> token_ids;  // generated, the end token left out
  GenerateStop stop = GenerateStop::kLength;
  int64_t drafted_tokens = 0, accepted_tokens = 0;
  double seconds = 0;  // of generation, the prompt's pass included
};

// A BOS, the prompt, then tokens until max_tokens, the end token, or the end of the context, by an engine (serve/engine.h) of
// its own. Error (usage): a prompt that fills the context.
GenerateResult generate(const Model& model, const Tokenizer& tokenizer, const GenerateRequest& request, Workspace& work,
                        const Stream& stream);

// Negative log-likelihood of a text: a BOS, then windows of the model's context that do not overlap (each predicts its tokens
// from those of the same window alone); every byte is counted.
struct ScoreResult {
  // Mean loss of the tokens at positions [begin, end) of their window.
  struct Bucket {
    int64_t begin = 0, end = 0, tokens = 0;
    double loss = 0;
  };
  double loss = 0;  // nats per token
  int64_t tokens = 0, bytes = 0;
  std::vector<Bucket> by_position;  // doubling from 64 tokens; what a longer context is worth
  double perplexity() const;
  double bits_per_byte() const;
};
ScoreResult score(const Model& model, const Tokenizer& tokenizer, std::string_view text, int64_t window, Workspace& work,
                  const Stream& stream);

}  // namespace rorqual
