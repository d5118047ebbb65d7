// The one list of a model's tensors: name (Hugging Face's, spec 1.7), shape, role, sharding and place in the flat master array.
// Initialising, loading, saving, the optimizer, checkpoints, the memory table and export all walk this list.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "model/config.h"

namespace rorqual {

enum class Role { kEmbedding, kHead, kNorm, kLinear, kExpert, kRouter, kRouterBias };

// How a tensor is cut over tensor-parallel ranks (spec 1.7, last column) or over expert ranks.
enum class Sharding { kReplicated, kRows, kCols, kByExpert };

struct TensorSpec {
  std::string name;
  int64_t rows = 0, cols = 0;  // weight [out, in]; a vector has rows = 1
  bool vector = false;         // saved with shape [cols]
  Role role = Role::kLinear;
  Sharding sharding = Sharding::kReplicated;
  int64_t layer = -1;   // -1: outside the blocks; MTP modules follow the last layer
  int64_t expert = -1;  // of Role::kExpert
  int64_t offset = 0;   // elements, within its region of the master array: experts have a region of their own
  int64_t count() const { return rows * cols; }
  bool trainable() const { return role != Role::kRouterBias; }
  bool decayed() const { return trainable() && role != Role::kNorm; }
  bool in_expert_region() const { return role == Role::kExpert; }
};

struct ParameterCount {
  int64_t total = 0;   // without the MTP modules, with routing biases
  int64_t active = 0;  // touched for one token
  int64_t mtp = 0;     // in the MTP modules, what they share not counted
};

class TensorList {
 public:
  explicit TensorList(const ModelConfig& config);

  const std::vector<TensorSpec>& specs() const { return specs_; }
  size_t size() const { return specs_.size(); }
  const TensorSpec& operator[](size_t i) const { return specs_[i]; }
  std::optional<size_t> find(const std::string& name) const;
  size_t at(const std::string& name) const;  // CHECKs that it exists

  // Elements of the two regions; offsets of tensors that are multiplied as one (gate and up, the latents' down-projections)
  // adjoin.
  int64_t dense_elements() const { return dense_elements_; }
  int64_t expert_elements() const { return expert_elements_; }
  ParameterCount parameters() const { return parameters_; }

 private:
  void add(TensorSpec spec, bool adjoins = false);
  void add_block(const ModelConfig& c, int64_t layer, bool moe);
  void add_attention(const ModelConfig& c, int64_t layer);
  void count_parameters(const ModelConfig& c);

  std::vector<TensorSpec> specs_;
  std::unordered_map<std::string, size_t> index_;
  int64_t dense_elements_ = 0, expert_elements_ = 0;
  ParameterCount parameters_;
};

// "model.layers.3." of a layer; MTP module k is layer num_hidden_layers + k.
std::string layer_prefix(int64_t layer);

}  // namespace rorqual
