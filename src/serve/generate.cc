#include "serve/generate.h"

#include <cmath>
#include <numbers>
#include <numeric>

#include "base/clock.h"
#include "base/error.h"
#include "kernels/elementwise/elementwise.h"
#include "model/inference.h"

namespace rorqual {
namespace {

// Windows that are scored together.
constexpr int64_t kScoreRows = 4096;

// Bytes of `text` that end on a whole UTF-8 sequence; an invalid byte counts as whole.
size_t whole_utf8(std::string_view text) {
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    const auto c = static_cast<unsigned char>(text[text.size() - back]);
    if ((c & 0xc0) == 0x80) continue;
    const size_t length = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
    return length > back ? text.size() - back : text.size();
  }
  return text.size();
}

// [0, 64), [64, 128), [128, 256), … up to the window.
std::vector<ScoreResult::Bucket> position_buckets(int64_t window) {
  std::vector<ScoreResult::Bucket> buckets;
  for (int64_t begin = 0, end = 64; begin < window; begin = end, end *= 2)
    buckets.push_back({begin, std::min(end, window), 0, 0});
  return buckets;
}

void add_to_bucket(std::vector<ScoreResult::Bucket>& buckets, int64_t position, double nll) {
  for (ScoreResult::Bucket& b : buckets) {
    if (position >= b.end) continue;
    b.loss += nll;
    ++b.tokens;
    return;
  }
}

}  // namespace

GenerateResult generate(const Model& model, const Tokenizer& tokenizer, const GenerateRequest& request, Workspace& work,
                        const Stream& stream) {
  validate(request.sampling);
  const double begin_s = seconds_now();
  std::vector<int32_t> tokens;
  if (const auto bos = tokenizer.bos_id()) tokens.push_back(*bos);
  tokenizer.encode(request.prompt, tokens);
  if (tokens.empty()) fail_usage("the prompt is empty, and the tokenizer has no begin-of-sentence token to start from");
  const int64_t context = model.config().max_position_embeddings, prompt_tokens = static_cast<int64_t>(tokens.size());
  if (prompt_tokens >= context)
    fail_usage("the prompt has {} tokens, the model's context is {}: shorten it", prompt_tokens, context);
  const int64_t limit = prompt_tokens + std::min(context - prompt_tokens, request.max_tokens);

  const InferenceModel inference(model, 0, stream);
  const int64_t pages = (limit + kPageTokens - 1) / kPageTokens;
  Arena arena;
  const PagedCache cache =
      inference.make_cache(arena.bytes(MemoryClass::kCache, pages * kPageTokens * inference.cache_bytes_per_token()), pages);
  std::vector<int32_t> page(static_cast<size_t>(pages));
  std::iota(page.begin(), page.end(), 0);
  const Tensor hidden =
                   arena.tensor(MemoryClass::kScratch, inference.hidden_dtype(), prompt_tokens, model.config().hidden_size),
               out = arena.tensor(MemoryClass::kLogits, inference.logits_dtype(), 1, model.config().vocab_size),
               logits32 = arena.tensor(MemoryClass::kLogits, DType::kF32, 1, model.config().vocab_size);
  const auto extend = [&](std::span<const int32_t> next, int64_t position) {
    const auto rows = static_cast<int64_t>(next.size());
    const PagedSequence sequence{0, rows, position, page.data()};
    inference.forward({next, {&sequence, 1}}, cache, hidden.row_range(0, rows), work, stream);
    inference.logits(hidden.row_range(rows - 1, 1), out, stream);
    convert({out, logits32}, stream);
    return std::span<const float>(logits32.ptr<float>(), static_cast<size_t>(out.cols));
  };
  GenerateResult result;
  if (request.max_tokens > limit - prompt_tokens) result.stop = GenerateStop::kContext;
  size_t shown = 0;
  std::span<const float> logits = extend(tokens, 0);
  for (int64_t position = prompt_tokens; position < limit; ++position) {
    const int32_t token = sample_token(logits, request.sampling, position);
    if (tokenizer.eos_id() == token) {
      result.stop = GenerateStop::kEnd;
      break;
    }
    result.token_ids.push_back(token);
    // A vocabulary padded beyond the tokenizer's entries has ids without text.
    if (token < tokenizer.vocab_size()) result.text += tokenizer.decode({&token, 1}, true);
    if (const size_t whole = whole_utf8(result.text); request.on_text && whole > shown) {
      request.on_text(std::string_view(result.text).substr(shown, whole - shown));
      shown = whole;
    }
    if (position + 1 < limit) logits = extend({&token, 1}, position);
  }
  if (request.on_text && shown < result.text.size()) request.on_text(std::string_view(result.text).substr(shown));
  result.seconds = seconds_now() - begin_s;
  return result;
}

double ScoreResult::perplexity() const {
  return std::exp(loss);
}
double ScoreResult::bits_per_byte() const {
  return loss * static_cast<double>(tokens) / static_cast<double>(bytes) / std::numbers::ln2;
}

ScoreResult score(const Model& model, const Tokenizer& tokenizer, std::string_view text, int64_t window, Workspace& work,
                  const Stream& stream) {
  const auto bos = tokenizer.bos_id();
  if (!bos) fail_usage("the tokenizer has no begin-of-sentence token: a text cannot be scored from its first byte on");
  std::vector<int32_t> ids = {*bos};
  tokenizer.encode_ordinary(text, ids);
  ScoreResult result;
  result.tokens = static_cast<int64_t>(ids.size()) - 1;
  result.bytes = static_cast<int64_t>(text.size());
  if (result.tokens == 0) fail_usage("the text is empty: there is nothing to score");
  double sum = 0;
  result.by_position = position_buckets(std::min(window, result.tokens));
  const int64_t most = std::max<int64_t>(1, kScoreRows / window);
  for (int64_t begin = 0; begin < result.tokens;) {
    const int64_t left = result.tokens - begin;
    MicroBatch batch;
    batch.length = std::min(window, left);
    batch.sequences = left >= window ? std::min(most, left / window) : 1;
    for (int64_t s = 0; s < batch.sequences; ++s) {
      const auto first = ids.begin() + begin + s * batch.length;
      batch.tokens.insert(batch.tokens.end(), first, first + batch.length + 1);
    }
    const std::vector<double> nll = model.score(batch, work, stream);
    for (size_t i = 0; i < nll.size(); ++i) {
      sum += nll[i];
      add_to_bucket(result.by_position, static_cast<int64_t>(i) % batch.length, nll[i]);
    }
    begin += batch.sequences * batch.length;
  }
  result.loss = sum / static_cast<double>(result.tokens);
  for (ScoreResult::Bucket& b : result.by_position) b.loss /= static_cast<double>(b.tokens);
  return result;
}

}  // namespace rorqual
