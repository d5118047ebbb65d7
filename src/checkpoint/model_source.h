// MODEL of the command line: a Hugging Face-style directory, a run directory (its newest checkpoint, verified), or one
// checkpoint's directory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/threads.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/source_tensor.h"
#include "model/config.h"
#include "model/precision.h"
#include "model/weights.h"

namespace rorqual {

struct ModelSource {
  ModelConfig config;  // MTP depth as far as the files hold its layers
  std::filesystem::path tokenizer_directory;
  std::string description;                          // for people: what was opened
  int64_t step = -1, tokens_seen = -1;              // −1: unknown
  std::optional<double> heldout_loss;               // nats per token, as last measured; of the weights, not of their average
  std::optional<std::string> recipe;                // TOML of a run
  PrecisionRecipe formats = {.precision = "bf16"};  // a run's own
  bool has_ema = false;

  // Every tensor there is, or of the averaged weights. Error: ema without averaged weights.
  const SourceTensors& tensors(bool ema = false) const;
  ParameterCount parameters() const { return TensorList(config).parameters(); }

  // Fills the weights by name, rounding to the masters' dtype, FP8 values multiplied by their scales; as Weights::fill. MTP
  // layers that `weights` leaves out are skipped. Error (runtime) names the tensors that are missing or that the model has no
  // place for, and wrong shapes or dtypes; nothing is written before everything fits.
  void load_weights(Weights& weights, const Stream& stream, bool ema = false) const;

  // Kept alive: what `tensors` points into.
  std::vector<std::shared_ptr<const SafetensorsFile>> files;
  std::optional<Checkpoint> checkpoint;
  SourceTensors model_tensors, ema_tensors;
};

// The number formats of the run that wrote a checkpoint. Error (runtime): its recipe is not TOML or has a key of the wrong
// type.
PrecisionRecipe formats_of(const Checkpoint& checkpoint);

// Error (runtime): neither kind of directory; a damaged checkpoint; a config that cannot be read; shards and index that do not
// match; tensors that are missing, surplus or of another shape than the config asks for.
ModelSource open_model(const std::filesystem::path& path);

}  // namespace rorqual
