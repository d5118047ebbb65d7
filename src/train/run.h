// A run directory before its first step: recipe, tokenizer, tokenised data. RUN holds recipe.toml, tokenizer/, data/,
// checkpoints/, metrics.jsonl, samples.jsonl, heldout.txt and report.html.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/threads.h"
#include "checkpoint/model_source.h"
#include "data/corpus_tokens.h"
#include "train/recipe.h"

namespace rorqual {

struct RunRequest {
  Recipe recipe;               // as read, with --set applied
  std::vector<DataSpec> data;  // may be empty with resume
  std::filesystem::path directory;
  bool resume = false;
  std::optional<std::filesystem::path> init;  // MODEL whose weights the run starts from
};

struct PreparedRun {
  Recipe recipe;  // complete and valid
  std::filesystem::path directory;
  std::optional<Tokenizer> tokenizer;  // always set
  TokenizedCorpus corpus;
  std::optional<ModelSource> init;
};

// Checks everything that can be checked before anything is written, then fills the directory. An existing run without `resume`,
// and a changed recipe with it, are refused (Error, usage). If preparing fails, what it wrote is removed.
PreparedRun prepare_run(const RunRequest& request, const Stream& stream);

// The recipe that a run directory holds.
Recipe run_recipe(const std::filesystem::path& directory);

}  // namespace rorqual
