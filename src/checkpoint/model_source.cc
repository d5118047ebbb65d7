#include "checkpoint/model_source.h"

#include <toml++/toml.h>

#include <algorithm>

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/hugging_face.h"
#include "checkpoint/state.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;

// Tensors that other programs write and that hold nothing of their own.
bool is_duplicate(const std::string& name, const ModelConfig& config) {
  for (int64_t k = 0; k < config.num_nextn_predict_layers; ++k) {
    const std::string prefix = layer_prefix(config.num_hidden_layers + k);
    if (name == prefix + "embed_tokens.weight" || name == prefix + "shared_head.head.weight") return true;
  }
  if (config.tie_word_embeddings && name == "lm_head.weight") return true;
  return name.ends_with(".rotary_emb.inv_freq");
}

// How many MTP modules the files hold: a module without a single tensor is absent, and so are those behind it.
int64_t mtp_depth(const ModelConfig& config, const SourceTensors& tensors) {
  for (int64_t k = 0; k < config.num_nextn_predict_layers; ++k) {
    const std::string prefix = layer_prefix(config.num_hidden_layers + k);
    const auto it = tensors.lower_bound(prefix);
    if (it == tensors.end() || !it->first.starts_with(prefix)) return k;
  }
  return config.num_nextn_predict_layers;
}

// Every tensor of the config must be there, and nothing else.
void check_names_and_shapes(const ModelSource& source, const SourceTensors& tensors) {
  const TensorList list(source.config);
  std::vector<std::string> missing, surplus;
  for (const TensorSpec& s : list.specs()) {
    const auto it = tensors.find(s.name);
    if (it == tensors.end()) {
      missing.push_back(s.name);
    } else if (it->second.entry->shape != shape_of(s)) {
      fail("{}: tensor '{}' has shape [{}], the config asks for [{}]", it->second.file->path().string(), s.name,
           fmt::join(it->second.entry->shape, ", "), fmt::join(shape_of(s), ", "));
    }
  }
  if (!missing.empty())
    fail("{}: the model lacks {}; its files and its config belong to different models, or a file is missing",
         source.description, some_of(missing));
  for (const auto& [name, tensor] : tensors)
    if (!list.find(name) && !is_duplicate(name, source.config)) surplus.push_back(name);
  if (!surplus.empty()) fail("{}: its config has no place for {}", source.description, some_of(surplus));
}

void check(ModelSource& source) {
  const int64_t depth = mtp_depth(source.config, source.model_tensors);
  if (depth < source.config.num_nextn_predict_layers) {
    warn("{}: its files hold {} of {} MTP modules; it is used as a model with num_nextn_predict_layers = {}",
         source.description, depth, source.config.num_nextn_predict_layers, depth);
    source.config.num_nextn_predict_layers = depth;
  }
  check_names_and_shapes(source, source.model_tensors);
  if (source.has_ema) check_names_and_shapes(source, source.ema_tensors);
}

SourceTensors tensors_of(const SafetensorsFile& file) {
  SourceTensors tensors;
  for (const SafetensorsEntry& e : file.entries()) tensors[e.name] = {.file = &file, .entry = &e};
  return tensors;
}

ModelSource from_checkpoint(Checkpoint checkpoint, const std::string& what) {
  ModelSource source;
  source.config = checkpoint.config;
  source.tokenizer_directory = checkpoint.tokenizer;
  source.description = fmt::format("{} (step {})", what, checkpoint.step);
  source.step = checkpoint.step;
  source.tokens_seen = checkpoint.tokens;
  source.recipe = checkpoint.recipe;
  source.formats = formats_of(checkpoint);
  if (const auto loss = checkpoint.trainer.find("heldout_loss"); loss != checkpoint.trainer.end() && loss->is_number())
    source.heldout_loss = loss->get<double>();
  source.model_tensors = tensors_of(checkpoint.model());
  source.has_ema = checkpoint.has_ema();
  if (source.has_ema) source.ema_tensors = tensors_of(checkpoint.ema());
  source.checkpoint = std::move(checkpoint);
  return source;
}

// What load_weights will read for each tensor of the target.
std::vector<SourceTensor> match(const ModelSource& source, const TensorList& list, bool ema) {
  const SourceTensors& tensors = source.tensors(ema);
  std::vector<SourceTensor> found;
  std::vector<std::string> missing, surplus;
  for (const TensorSpec& s : list.specs()) {
    // MTP modules are numbered behind the layers: one must not pass for a layer of a deeper model.
    if (s.layer >= source.config.num_hidden_layers && !list.find(layer_prefix(s.layer) + "eh_proj.weight"))
      fail("{}: it has {} layers, more are needed ({})", source.description, source.config.num_hidden_layers, s.name);
    const auto it = tensors.find(s.name);
    if (it == tensors.end()) {
      missing.push_back(s.name);
      continue;
    }
    const SafetensorsEntry& e = *it->second.entry;
    const std::string where = it->second.file->path().string();
    if (e.shape != shape_of(s))
      fail("{}: tensor '{}' has shape [{}], [{}] is needed", where, s.name, fmt::join(e.shape, ", "),
           fmt::join(shape_of(s), ", "));
    check_readable(it->second);
    found.push_back(it->second);
  }
  if (!missing.empty()) fail("{}: it lacks {}", source.description, some_of(missing));
  const TensorList own(source.config);
  for (const TensorSpec& s : own.specs())
    if (s.layer < source.config.num_hidden_layers && !list.find(s.name)) surplus.push_back(s.name);
  if (!surplus.empty()) fail("{}: there is no place for its {}", source.description, some_of(surplus));
  return found;
}

}  // namespace

PrecisionRecipe formats_of(const Checkpoint& checkpoint) {
  toml::table recipe;
  try {
    recipe = toml::parse(checkpoint.recipe);
  } catch (const toml::parse_error& e) {
    fail("{}: its recipe is not valid TOML: {}", checkpoint.path.string(), e.description());
  }
  PrecisionRecipe formats;
  const auto read = [&]<class T>(const char* key, T& value, const char*) {
    const auto node = recipe.at_path(key);
    if (!node) return;
    const std::optional<T> found = node.value_exact<T>();
    if (!found) fail("{}: its recipe's key '{}' has the wrong type", checkpoint.path.string(), key);
    value = *found;
  };
  visit_precision_keys(formats, read);
  visit_fp8_keys(formats, read);
  return formats;
}

const SourceTensors& ModelSource::tensors(bool ema) const {
  if (!ema) return model_tensors;
  if (!has_ema) fail("{}: it holds no averaged weights (train.ema_decay was 0, or it is no run); leave out --ema", description);
  return ema_tensors;
}

void ModelSource::load_weights(Weights& weights, const Stream& stream, bool ema) const {
  const std::vector<SourceTensor> found = match(*this, weights.list(), ema);
  weights.fill(
      [&](size_t tensor, const Tensor& target) {
        read_rows(found[tensor], 0, target);
        forget(found[tensor]);
      },
      stream);
}

ModelSource open_model(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) fail("{}: there is no such model or run directory", path.string());
  ModelSource source;
  if (fs::exists(path / kConfigFile, error)) {
    open_hugging_face(path, source);
  } else if (fs::exists(path / kStateFile, error)) {
    source = from_checkpoint(open_checkpoint(path), fmt::format("checkpoint {}", path.string()));
  } else if (fs::is_directory(path / "checkpoints", error)) {
    source = from_checkpoint(newest(path), fmt::format("run {}", path.string()));
  } else {
    fail("{}: neither a Hugging Face directory (with {}) nor a run directory (with checkpoints/)", path.string(), kConfigFile);
  }
  check(source);
  return source;
}

}  // namespace rorqual
