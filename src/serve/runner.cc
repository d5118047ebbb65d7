#include "serve/runner.h"

#include <algorithm>

#include "kernels/elementwise/elementwise.h"

namespace rorqual {
namespace {

std::span<const float> row_of(const Tensor& logits, int64_t row) {
  return {logits.row<float>(row), static_cast<size_t>(logits.cols)};
}

}  // namespace

Tensor StepRunner::gather(const Tensor& from, const std::vector<int32_t>& rows) {
  const Tensor out = work_.saved.tensor(MemoryClass::kScratch, from.dtype, static_cast<int64_t>(rows.size()), from.cols);
  gather_rows({from, rows.data(), out}, stream_);
  return out;
}

// Calls body(wanted[i], its logits as FP32) for each, on any thread, in pieces that fit into memory.
template <class Body>
void StepRunner::for_logits(const Tensor& hidden, const std::vector<LogitRows>& wanted, const Body& body) {
  const int64_t vocabulary = model_.config().vocab_size, most = std::max<int64_t>(1, kLogitElements / vocabulary);
  for (size_t begin = 0, end = 0; begin < wanted.size(); begin = end) {
    std::vector<int32_t> rows;
    std::vector<int64_t> first;
    for (; end < wanted.size(); ++end) {
      const int64_t n = wanted[end].end - wanted[end].begin;
      if (end > begin && static_cast<int64_t>(rows.size()) + n > most) break;
      first.push_back(static_cast<int64_t>(rows.size()));
      for (int64_t r = wanted[end].begin; r < wanted[end].end; ++r) rows.push_back(static_cast<int32_t>(r));
    }
    const Arena::Mark mark = work_.saved.mark();
    const auto count = static_cast<int64_t>(rows.size());
    Tensor logits = work_.saved.tensor(MemoryClass::kLogits, model_.logits_dtype(), count, vocabulary);
    model_.logits(gather(hidden, rows), logits, stream_);
    if (logits.dtype != DType::kF32) {
      const Tensor narrow = work_.saved.tensor(MemoryClass::kLogits, DType::kF32, count, vocabulary);
      convert({logits, narrow}, stream_);
      logits = narrow;
    }
    stream_.parallel(static_cast<int64_t>(end - begin), [&](int64_t i) {
      const LogitRows& w = wanted[begin + static_cast<size_t>(i)];
      body(w, logits.row_range(first[static_cast<size_t>(i)], w.end - w.begin));
    });
    work_.saved.release(mark);
  }
}

void StepRunner::run(const std::vector<StepPart>& plan) {
  std::vector<int32_t> tokens;
  std::vector<PagedSequence> sequences;
  std::vector<Rows> parts;
  for (const StepPart& p : plan) {
    const Sequence& s = *p.sequence;
    const auto begin = static_cast<int64_t>(tokens.size());
    for (int64_t at = s.computed; at < s.computed + p.rows; ++at)
      tokens.push_back(at < s.size() ? s.tokens[static_cast<size_t>(at)] : s.draft[static_cast<size_t>(at - s.size())]);
    parts.push_back({p.sequence, begin, begin + p.rows, s.computed});
    sequences.push_back({begin, begin + p.rows, s.computed, s.pages.data()});
  }
  const Arena::Mark mark = work_.saved.mark();
  const Tensor hidden = work_.saved.tensor(MemoryClass::kScratch, model_.hidden_dtype(), static_cast<int64_t>(tokens.size()),
                                           model_.config().hidden_size);
  model_.forward({tokens, sequences}, cache_, hidden, work_, stream_);
  for (const Rows& part : parts)
    part.sequence->computed = std::min(part.position + part.end - part.begin, part.sequence->size());
  score_prompts(hidden, parts);
  sample(hidden, parts);
  if (model_.drafts() > 0) draft(hidden, parts);
  work_.saved.release(mark);
}

void StepRunner::score_prompts(const Tensor& hidden, const std::vector<Rows>& parts) {
  std::vector<LogitRows> wanted;
  for (const Rows& part : parts) {
    Sequence& s = *part.sequence;
    if (!s.request.prompt_logprobs) continue;
    // A preempted sequence has some of them.
    for (int64_t row = part.begin; row < part.end; ++row) {
      const int64_t position = part.position + row - part.begin;
      if (position < static_cast<int64_t>(s.prompt_scores.size()) || position + 1 >= s.usage.prompt_tokens) continue;
      s.prompt_scores.push_back({s.tokens[static_cast<size_t>(position) + 1], 0, {}});
      wanted.push_back({&s, row, row + 1});
    }
  }
  std::vector<size_t> next(wanted.size());  // of its sequence's scores
  for (size_t i = wanted.size(); i-- > 0;)
    next[i] = i + 1 < wanted.size() && wanted[i + 1].sequence == wanted[i].sequence
                  ? next[i + 1] - 1
                  : wanted[i].sequence->prompt_scores.size() - 1;
  for_logits(hidden, wanted, [&](const LogitRows& w, const Tensor& logits) {
    GeneratedToken& score = w.sequence->prompt_scores[next[static_cast<size_t>(&w - wanted.data())]];
    score = scored_token(score.token, row_of(logits, 0), std::max<int64_t>(0, w.sequence->request.logprobs));
  });
}

void StepRunner::sample(const Tensor& hidden, const std::vector<Rows>& parts) {
  std::vector<LogitRows> wanted;
  for (const Rows& part : parts) {
    Sequence& s = *part.sequence;
    if (s.computed < s.size()) continue;  // more of the prompt to come
    if (s.size() >= s.limit)
      s.end(s.limit_reason);
    else
      wanted.push_back({&s, part.begin + s.size() - 1 - part.position, part.end});
  }
  for_logits(hidden, wanted, [&](const LogitRows& w, const Tensor& logits) { advance(*w.sequence, logits); });
}

// The next token, and as long as it is what the draft said, the one after it: the rows behind were computed for these tokens.
void StepRunner::advance(Sequence& s, const Tensor& logits) const {
  const std::vector<int32_t> draft = std::exchange(s.draft, {});
  CHECK(logits.rows == static_cast<int64_t>(draft.size()) + 1, "{} rows for a draft of {}", logits.rows, draft.size());
  s.usage.drafted_tokens += static_cast<int64_t>(draft.size());
  for (size_t i = 0; i <= draft.size(); ++i) {
    const std::span<const float> row = row_of(logits, static_cast<int64_t>(i));
    const int32_t token = s.choose(row);
    if (token < 0) return s.end(FinishReason::kFailed, "no token may follow: the constraint or the logit bias allows none");
    s.take(token, row, tokenizer_);
    const bool right = i < draft.size() && token == draft[i];
    if (right) ++s.usage.accepted_tokens;
    if (s.finish || !right) return;
    ++s.computed;
  }
}

// The token that the sequence's own rules choose from a module's logits: the same noise as when the model's logits come.
void StepRunner::propose(Sequence& s, std::span<const float> logits) const {
  std::unique_ptr<Constraint> ahead;
  if (s.request.constraint) {
    ahead = s.request.constraint->clone();
    for (const int32_t t : s.draft) ahead->accept(t);
    if (ahead->finished()) return;
  }
  for (const int32_t t : s.draft) s.sampler.add(t);
  const int32_t token = s.sampler.choose(logits, s.size() + static_cast<int64_t>(s.draft.size()), ahead.get());
  for (const int32_t t : s.draft) s.sampler.undo(t);
  if (token >= 0 && (token != tokenizer_.eos_id() || s.request.ignore_end)) s.draft.push_back(token);
}

// MTP module k at position i takes hidden state k − 1 of i and token i + k, known or drafted, and says which token i + k + 1
// is. Positions whose token turns out to be another keep what the module cached for them; that can only spoil a draft.
void StepRunner::draft(const Tensor& hidden, const std::vector<Rows>& parts) {
  std::vector<Rows> rows;  // of `from`
  for (const Rows& part : parts)
    if (!part.sequence->finish)
      rows.push_back({part.sequence, part.begin, part.begin + part.sequence->computed - part.position, part.position});
  Tensor from = hidden;
  for (int64_t k = 1; k <= model_.drafts() && !rows.empty(); ++k) {
    std::vector<int32_t> tokens, source;
    std::vector<PagedSequence> sequences;
    std::vector<Rows> next;
    std::vector<LogitRows> wanted;
    for (const Rows& r : rows) {
      Sequence& s = *r.sequence;
      const int64_t known = s.size() + static_cast<int64_t>(s.draft.size());
      const int64_t count = std::min(r.end - r.begin, known - k - r.position);
      if (count <= 0) continue;
      const auto begin = static_cast<int64_t>(tokens.size());
      for (int64_t i = 0; i < count; ++i) {
        const int64_t at = r.position + i + k;
        tokens.push_back(at < s.size() ? s.tokens[static_cast<size_t>(at)] : s.draft[static_cast<size_t>(at - s.size())]);
        source.push_back(static_cast<int32_t>(r.begin + i));
      }
      next.push_back({&s, begin, begin + count, r.position});
      sequences.push_back({begin, begin + count, r.position, s.pages.data()});
      const bool last = r.position + count + k == known && s.decoding();  // not a prompt of which one token is left
      if (last && static_cast<int64_t>(s.draft.size()) == k - 1 && known + 1 < s.limit)
        wanted.push_back({&s, begin + count - 1, begin + count});
    }
    if (tokens.empty()) return;
    const Tensor input = gather(from, source);
    const Tensor predicted = work_.saved.tensor(MemoryClass::kScratch, input.dtype, input.rows, input.cols);
    Tensor deeper;
    if (k < model_.drafts()) deeper = work_.saved.tensor(MemoryClass::kScratch, input.dtype, input.rows, input.cols);
    model_.draft(k, {tokens, sequences}, cache_, input, predicted, deeper, work_, stream_);
    for_logits(predicted, wanted, [&](const LogitRows& w, const Tensor& logits) { propose(*w.sequence, row_of(logits, 0)); });
    from = deeper;
    rows = std::move(next);
  }
}

}  // namespace rorqual
