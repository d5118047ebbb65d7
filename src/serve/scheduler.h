// Which rows a step computes: sequences that decode first, prompts in chunks for the rest; pages for them; preemption of the
// youngest when pages run out. Knows no model. Not thread-safe.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "serve/block_pool.h"
#include "serve/sequence.h"

namespace rorqual {

// Rows [computed, computed + rows) of a sequence: tokens, then its draft.
struct StepPart {
  Sequence* sequence = nullptr;
  int64_t rows = 0;
};

struct SchedulerSettings {
  int64_t pages = 0;
  int64_t batch_tokens = 512, max_running = 256;
  bool prefix_cache = true;
};

class Scheduler {
 public:
  explicit Scheduler(const SchedulerSettings& settings);

  void add(std::unique_ptr<Sequence> sequence);
  // The next step, in order of age; empty only if nothing runs or waits.
  std::vector<StepPart> plan();
  // After the step, with `computed` of its parts up to date: publishes full pages, frees those of finished sequences and hands
  // these over.
  std::vector<std::unique_ptr<Sequence>> settle();
  // A sequence that runs or waits, or null.
  Sequence* find(uint64_t id);
  template <class Visit>
  void visit(const Visit& visit) {
    for (const auto& s : running_) visit(*s);
    for (const auto& s : waiting_) visit(*s);
  }

  bool idle() const { return running_.empty() && waiting_.empty(); }
  int64_t running() const { return static_cast<int64_t>(running_.size()); }
  const std::deque<std::unique_ptr<Sequence>>& waiting() const { return waiting_; }
  const BlockPool& pool() const { return pool_; }
  int64_t preemptions() const { return preemptions_; }
  int64_t prefix_hit_tokens() const { return prefix_hit_tokens_; }
  int64_t prefix_asked_tokens() const { return prefix_asked_tokens_; }

 private:
  bool reserve(Sequence& s, int64_t positions, std::vector<StepPart>& plan);
  void preempt(std::vector<StepPart>& plan);
  void release(Sequence& s);
  bool admit();

  SchedulerSettings settings_;
  BlockPool pool_;
  std::vector<std::unique_ptr<Sequence>> running_;  // by age
  std::deque<std::unique_ptr<Sequence>> waiting_;   // by age
  int64_t preemptions_ = 0, prefix_hit_tokens_ = 0, prefix_asked_tokens_ = 0;
};

}  // namespace rorqual
