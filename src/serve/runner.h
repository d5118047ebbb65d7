// A step's arithmetic: the model over the planned rows, the choice of tokens, and drafts of those to come.
#pragma once

#include <vector>

#include "model/inference.h"
#include "serve/scheduler.h"

namespace rorqual {

inline constexpr int64_t kLogitElements = int64_t{1} << 24;  // logits held at a time, or one row

class StepRunner {
 public:
  // What it is given outlives it.
  StepRunner(const InferenceModel& model, const Tokenizer& tokenizer, const PagedCache& cache, Workspace& work,
             const Stream& stream)
      : model_(model), tokenizer_(tokenizer), cache_(cache), work_(work), stream_(stream) {}

  // Brings every part's sequence up to date: what is in the cache, new tokens, draft, finish.
  void run(const std::vector<StepPart>& plan);

 private:
  // A part with its rows of the step.
  struct Rows {
    Sequence* sequence = nullptr;
    int64_t begin = 0, end = 0;
    int64_t position = 0;
  };
  // Consecutive rows of a matrix of hidden states whose logits are wanted.
  struct LogitRows {
    Sequence* sequence = nullptr;
    int64_t begin = 0, end = 0;
  };
  template <class Body>
  void for_logits(const Tensor& hidden, const std::vector<LogitRows>& wanted, const Body& body);
  Tensor gather(const Tensor& from, const std::vector<int32_t>& rows);
  void score_prompts(const Tensor& hidden, const std::vector<Rows>& parts);
  void sample(const Tensor& hidden, const std::vector<Rows>& parts);
  void advance(Sequence& s, const Tensor& logits) const;
  void draft(const Tensor& hidden, const std::vector<Rows>& parts);
  void propose(Sequence& s, std::span<const float> logits) const;

  const InferenceModel& model_;
  const Tokenizer& tokenizer_;
  const PagedCache& cache_;
  Workspace& work_;
  const Stream& stream_;
};

}  // namespace rorqual
