// The models that a server runs: each with its engine, by name; loaded and unloaded while others serve.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "serve/chat_template.h"
#include "serve/engine.h"
#include "serve/loaded_model.h"
#include "serve/model_store.h"
#include "serve/response_format.h"
#include "serve/tool_calls.h"

namespace rorqual {

struct HostSettings {
  std::string precision;  // empty: each model's own
  bool ema = false;
  EngineSettings engine;
};

struct ServedModel {
  ServedModel(const std::string& model_name, const std::filesystem::path& path, const HostSettings& settings);

  std::string name;
  std::filesystem::path path;  // for the log and for facts; never in an answer
  int64_t created = 0;         // seconds since 1970
  LoadedModel loaded;
  std::optional<ChatTemplate> chat_template;
  std::string template_folder;                 // cut out of the template's messages
  bool takes_tools = false;                    // the template shows the model what it may call
  ToolFormat tool_format = ToolFormat::kNone;  // as the template writes calls
  ConstraintCompiler constraints;
  Engine engine;

  const Tokenizer& tokenizer() const { return loaded.tokenizer(); }
  // Messages as a prompt. Error: the template refuses them; the text names no path.
  std::string render(const nlohmann::ordered_json& request) const;
};

// Thread-safe.
class ModelHost {
 public:
  explicit ModelHost(const HostSettings& settings) : settings_(settings) {}

  // Takes as long as reading the weights does. Error: it cannot be loaded, it needs more memory than there is, the name is in
  // use.
  void load(const std::string& name, const std::filesystem::path& path, const ModelFacts& facts);
  // Requests that run end as cancelled. False: no such model is loaded.
  bool unload(const std::string& name);
  // Null where it is not loaded. Hold it briefly: the last to let go waits for the engine.
  std::shared_ptr<ServedModel> find(const std::string& name) const;
  std::vector<std::shared_ptr<ServedModel>> all() const;
  bool loading(const std::string& name) const;
  const HostSettings& settings() const { return settings_; }

 private:
  HostSettings settings_;
  mutable std::mutex mutex_;
  std::set<std::string> loading_;
  std::map<std::string, std::shared_ptr<ServedModel>> models_;
};

// Refused for want of memory: the text names no path.
struct TooLarge : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace rorqual
