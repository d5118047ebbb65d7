#include "serve/sequence.h"

#include <algorithm>

#include "kernels/attention/paged_attention.h"

namespace rorqual {

Sequence::Sequence(uint64_t number, EngineRequest&& r, int64_t context)
    : id(number),
      request(std::move(r)),
      tokens(request.prompt),
      limit(0),
      limit_reason(FinishReason::kLength),
      sampler(request.sampling, request.prompt),
      text(request.stop) {
  const int64_t room = context - size();
  limit = size() + std::min(room, request.max_tokens);
  if (request.max_tokens > room) limit_reason = FinishReason::kContext;
  usage.prompt_tokens = size();
}

int64_t Sequence::pages_for(int64_t positions) {
  return (positions + kPageTokens - 1) / kPageTokens;
}

int32_t Sequence::choose(std::span<const float> logits) const {
  return sampler.choose(logits, size(), request.constraint.get());
}

GeneratedToken scored_token(int32_t token, std::span<const float> logits, int64_t alternatives) {
  GeneratedToken scored{token, 0, {}};
  if (alternatives < 0) return scored;
  const double sum = log_sum_exp(logits);
  const auto logprob = [&](int32_t t) { return static_cast<float>(static_cast<double>(logits[static_cast<size_t>(t)]) - sum); };
  scored.logprob = logprob(token);
  if (alternatives > 0)
    for (const int32_t t : top_tokens(logits, alternatives)) scored.top.push_back({t, logprob(t)});
  return scored;
}

void Sequence::take(int32_t token, std::span<const float> logits, const Tokenizer& tokenizer) {
  const auto& stops = request.stop_ids;
  if ((token == tokenizer.eos_id() && !request.ignore_end) || std::find(stops.begin(), stops.end(), token) != stops.end())
    return end(FinishReason::kStop);
  event_.tokens.push_back(scored_token(token, logits, request.logprobs));
  tokens.push_back(token);
  sampler.add(token);
  ++usage.generated_tokens;
  // A vocabulary padded beyond the tokenizer's entries has ids without text.
  const bool stopped = text.add(token < tokenizer.vocab_size() ? tokenizer.decode({&token, 1}, true) : "");
  if (request.constraint) request.constraint->accept(token);
  if (stopped || (request.constraint && request.constraint->finished())) return end(FinishReason::kStop);
  if (size() >= limit) end(limit_reason);
}

void Sequence::end(FinishReason reason, std::string why) {
  if (finish) return;
  finish = reason;
  event_.error = std::move(why);
}

void Sequence::report() {
  event_.text = text.take(finish.has_value());
  event_.finish = finish;
  event_.usage = usage;
  const bool prompt_scored = static_cast<int64_t>(prompt_scores.size()) + 1 == usage.prompt_tokens;
  if (request.prompt_logprobs && prompt_scored) {
    event_.prompt_tokens = std::move(prompt_scores);
    request.prompt_logprobs = false;
    prompt_scores.clear();
  }
  const bool news = finish || !event_.tokens.empty() || !event_.text.empty() || !event_.prompt_tokens.empty();
  if (!news) return;
  EngineEvent event = std::exchange(event_, {});
  if (request.on_event) request.on_event(std::move(event));
}

}  // namespace rorqual
