#include "serve/loaded_model.h"

#include "base/error.h"

namespace rorqual {

LoadedModel::LoadedModel(const std::filesystem::path& path, const std::string& precision, bool ema, bool drafts)
    : source_(open_model(path)),
      tokenizer_(Tokenizer::load(source_.tokenizer_directory)),
      pool_(default_thread_count()),
      stream_(pool_) {
  if (tokenizer_.vocab_size() > source_.config.vocab_size)
    fail("{}: the tokenizer has {} entries, the model's vocabulary {}: they do not belong together", path.string(),
         tokenizer_.vocab_size(), source_.config.vocab_size);
  if (!drafts) source_.config.num_nextn_predict_layers = 0;
  const Precision formats = make_precision(inference_formats(source_.formats, precision));
  weights_ = std::make_unique<Weights>(source_.config, formats, false, arena_, false);
  model_ = std::make_unique<Model>(source_.config, *weights_, 1, arena_);
  source_.load_weights(*weights_, stream_, ema);
}

}  // namespace rorqual
