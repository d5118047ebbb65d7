#include "serve/generate.h"

#include <cmath>
#include <future>
#include <numbers>

#include "base/clock.h"
#include "base/error.h"
#include "serve/engine.h"

namespace rorqual {
namespace {

// Windows that are scored together.
constexpr int64_t kScoreRows = 4096;

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
  const auto prompt_tokens = static_cast<int64_t>(tokens.size());
  const int64_t context = model.config().max_position_embeddings;
  GenerateResult result;
  std::promise<void> done;
  std::string error;
  EngineSettings settings;
  settings.cache_tokens = std::min(context, prompt_tokens + std::min(context, request.max_tokens));
  settings.draft_tokens = request.draft_tokens;
  settings.prefix_cache = false;
  Engine engine(EngineModel{model, tokenizer, work, stream}, settings);
  EngineRequest r;
  r.prompt = std::move(tokens);
  r.sampling = request.sampling;
  r.max_tokens = request.max_tokens;
  r.on_event = [&](EngineEvent&& e) {
    for (const GeneratedToken& t : e.tokens) result.token_ids.push_back(t.token);
    result.text += e.text;
    if (request.on_text && !e.text.empty()) request.on_text(e.text);
    if (!e.finish) return;
    if (e.finish == FinishReason::kFailed) error = e.error;
    result.stop = e.finish == FinishReason::kContext ? GenerateStop::kContext
                  : e.finish == FinishReason::kStop  ? GenerateStop::kEnd
                                                     : GenerateStop::kLength;
    result.drafted_tokens = e.usage.drafted_tokens;
    result.accepted_tokens = e.usage.accepted_tokens;
    done.set_value();
  };
  engine.submit(std::move(r));
  done.get_future().wait();
  if (!error.empty()) fail("{}", error);
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
