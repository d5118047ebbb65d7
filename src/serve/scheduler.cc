#include "serve/scheduler.h"

#include <algorithm>

#include "base/error.h"
#include "kernels/attention/paged_attention.h"

namespace rorqual {

Scheduler::Scheduler(const SchedulerSettings& settings) : settings_(settings), pool_(settings.pages, settings.prefix_cache) {}

void Scheduler::add(std::unique_ptr<Sequence> sequence) {
  waiting_.push_back(std::move(sequence));
}

Sequence* Scheduler::find(uint64_t id) {
  Sequence* found = nullptr;
  visit([&](Sequence& s) {
    if (s.id == id) found = &s;
  });
  return found;
}

void Scheduler::release(Sequence& s) {
  // The end of a chain is of use only with its beginning: it goes first.
  for (size_t i = s.pages.size(); i-- > 0;) pool_.release(s.pages[i]);
  s.pages.clear();
  s.computed = s.published = 0;
  s.draft.clear();
}

// The youngest waits again, before all others, and will be computed anew.
void Scheduler::preempt(std::vector<StepPart>& plan) {
  std::unique_ptr<Sequence> s = std::move(running_.back());
  running_.pop_back();
  std::erase_if(plan, [&](const StepPart& p) { return p.sequence == s.get(); });
  release(*s);
  ++preemptions_;
  waiting_.push_front(std::move(s));
}

// Pages for so many positions; false: the sequence itself was the youngest and waits again.
bool Scheduler::reserve(Sequence& s, int64_t positions, std::vector<StepPart>& plan) {
  while (static_cast<int64_t>(s.pages.size()) < Sequence::pages_for(positions)) {
    if (const auto page = pool_.allocate()) {
      s.pages.push_back(*page);
      continue;
    }
    const bool own = running_.back().get() == &s;
    CHECK(!own || running_.size() > 1, "a sequence of {} positions does not fit into {} pages", positions, pool_.blocks());
    preempt(plan);
    if (own) return false;
  }
  return true;
}

// The oldest that waits runs if there is room for all its tokens; then it will not be preempted at once.
bool Scheduler::admit() {
  if (waiting_.empty() || running() >= settings_.max_running) return false;
  Sequence& s = *waiting_.front();
  const bool score_all = s.request.prompt_logprobs;
  const int64_t most = score_all ? 0 : (s.size() - 1) / kPageTokens;  // the newest token's logits are wanted
  const BlockPool::Match match = pool_.peek(s.tokens, most);
  if (Sequence::pages_for(s.size()) - match.used > pool_.available()) return false;
  s.pages = pool_.match(s.tokens, most);
  s.published = static_cast<int64_t>(s.pages.size());
  s.computed = s.published * kPageTokens;
  if (!s.admitted) {
    s.usage.cached_prompt_tokens = s.computed;
    prefix_hit_tokens_ += s.computed;
    prefix_asked_tokens_ += s.usage.prompt_tokens;
  }
  s.admitted = true;
  running_.push_back(std::move(waiting_.front()));
  waiting_.pop_front();
  return true;
}

std::vector<StepPart> Scheduler::plan() {
  std::vector<StepPart> plan;
  int64_t left = settings_.batch_tokens;
  const int64_t before = preemptions_;
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence& s = *running_[i];
    if (!s.decoding()) continue;
    const auto drafted = static_cast<int64_t>(s.draft.size());
    // A draft is not worth preempting anybody.
    const int64_t needed = Sequence::pages_for(s.size() + drafted) - static_cast<int64_t>(s.pages.size());
    if (left < 1 + drafted || needed > pool_.available()) s.draft.clear();
    const int64_t rows = 1 + static_cast<int64_t>(s.draft.size());
    if (!reserve(s, s.computed + rows, plan)) break;
    plan.push_back({&s, rows});
    left -= rows;
  }
  for (size_t i = 0; left > 0; ++i) {
    if (i >= running_.size() && (preemptions_ != before || !admit())) break;
    Sequence& s = *running_[i];
    if (s.decoding()) continue;
    const int64_t rows = std::min(left, s.size() - s.computed);
    if (!reserve(s, s.computed + rows, plan)) break;
    plan.push_back({&s, rows});
    left = settings_.batch_tokens;
    for (const StepPart& p : plan) left -= p.rows;
  }
  return plan;
}

std::vector<std::unique_ptr<Sequence>> Scheduler::settle() {
  std::vector<std::unique_ptr<Sequence>> finished;
  for (auto& s : running_) {
    for (; (s->published + 1) * kPageTokens <= s->computed; ++s->published) {
      const auto i = static_cast<size_t>(s->published);
      pool_.publish(s->pages[i], i == 0 ? -1 : s->pages[i - 1],
                    std::span(s->tokens).subspan(i * static_cast<size_t>(kPageTokens), static_cast<size_t>(kPageTokens)));
    }
    if (!s->finish) continue;
    release(*s);
    finished.push_back(std::move(s));
  }
  for (auto& s : waiting_)
    if (s->finish) finished.push_back(std::move(s));
  std::erase(running_, nullptr);
  std::erase(waiting_, nullptr);
  return finished;
}

}  // namespace rorqual
