// The models folder: names of models, each a link to a model or run directory (or the directory itself). Nothing is copied.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace rorqual {

// What is known of a model without loading it.
struct ModelFacts {
  struct LayerBalance {
    int64_t layer = 0;
    double max_over_mean = 0;
  };
  std::string name;
  std::filesystem::path path;  // for the log; never in an answer
  std::string error;           // why it cannot be used, without a path; empty: it can
  int64_t size_bytes = 0;      // of weights and tokenizer on disk
  int64_t total_parameters = 0, active_parameters = 0;
  std::string precision;  // of the computation
  int64_t context = 0;
  std::string run;  // the training run's name; empty: none
  int64_t tokens_seen = -1;
  std::optional<double> heldout_loss;        // nats per token
  std::vector<LayerBalance> expert_balance;  // expert load, largest over mean, at the run's last step
  int64_t memory_bytes = 0;                  // of weights, a step's workspace and a cache for one context
  bool chat_template = false;
};

// Reads a model or run directory's description; weights are not read. Never throws an Error: `error` says what is wrong.
ModelFacts model_facts(const std::string& name, const std::filesystem::path& path, const std::string& precision = {});

// What `rorqual models` and the page show; null where nothing is known. Holds no path.
nlohmann::ordered_json json_of(const ModelFacts& facts);

class ModelStore {
 public:
  // $RORQUAL_MODELS, or ~/.cache/rorqual/models.
  static std::filesystem::path default_folder();
  explicit ModelStore(std::filesystem::path folder) : folder_(std::move(folder)) {}

  const std::filesystem::path& folder() const { return folder_; }
  // Ascending. A folder that is not there is empty.
  std::vector<std::string> names() const;
  // Error (usage): no model of that name.
  std::filesystem::path path_of(const std::string& name) const;
  bool has(const std::string& name) const;
  // Links `path` under `name` (empty: the directory's own name) and returns the name. Error: no model there, a name that is
  // taken or cannot be one.
  std::string add(const std::filesystem::path& path, std::string name) const;
  // Removes the link alone. Error: no such model; a directory, which is for its owner to remove.
  void remove(const std::string& name) const;

  // Facts of one model, read again only after its files have changed. Thread-safe.
  ModelFacts facts(const std::string& name, const std::filesystem::path& path, const std::string& precision = {});

 private:
  struct Known {
    std::string state;  // of the files
    ModelFacts facts;
  };
  std::filesystem::path folder_;
  std::mutex mutex_;
  std::map<std::string, Known> known_;
};

// A MODEL of the command line that may also be a name of the models folder: its name and where it is. Error (usage): neither.
struct NamedModel {
  std::string name;
  std::filesystem::path path;
};
NamedModel find_model(const std::string& word, const ModelStore& store);

// 1 to 100 letters, digits, '.', '_' or '-', the first a letter or digit: nothing that a path, a shell or a label minds.
bool is_model_name(const std::string& name);
// The name that a MODEL of the command line goes by: its directory's, with every other letter as '-'.
std::string model_name_of(const std::filesystem::path& path);

}  // namespace rorqual
