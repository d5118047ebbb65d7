// A MODEL of the command line, ready to run: weights, tokenizer, threads and memory in one object.
#pragma once

#include <memory>

#include "checkpoint/model_source.h"
#include "data/tokenizer.h"
#include "model/model.h"

namespace rorqual {

class LoadedModel {
 public:
  // precision: of the computation; empty: the run's own, bf16 for other models; what else the run's recipe says of number
  // formats holds either way. ema: the averaged weights.
  // drafts: with its MTP modules.
  LoadedModel(const std::filesystem::path& path, const std::string& precision, bool ema, bool drafts = false);

  const ModelSource& source() const { return source_; }
  const Model& model() const { return *model_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  const Stream& stream() const { return stream_; }
  Workspace& work() { return work_; }

 private:
  ModelSource source_;
  Tokenizer tokenizer_;
  ThreadPool pool_;
  Stream stream_;
  Arena arena_;
  Workspace work_{nullptr};
  std::unique_ptr<Weights> weights_;
  std::unique_ptr<Model> model_;
};

}  // namespace rorqual
