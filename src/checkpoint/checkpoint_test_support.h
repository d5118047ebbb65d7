// What the tests of checkpoints share: a temporary folder, a small whole model with random numbers everywhere, its checkpoint.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"
#include "base/threads.h"
#include "checkpoint/checkpoint.h"
#include "data/tokenizer.h"
#include "model/weights.h"

namespace rorqual {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "rorqual-checkpoint-XXXXXX").string();
    CHECK(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

// Query LoRA, a dense layer, experts in groups, a shared expert, routing biases, an MTP module.
inline ModelConfig small_config() {
  ModelConfig c;
  c.vocab_size = 280;
  c.hidden_size = 16;
  c.intermediate_size = 24;
  c.moe_intermediate_size = 8;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 2;
  c.q_lora_rank = 8;
  c.kv_lora_rank = 6;
  c.qk_nope_head_dim = 4;
  c.qk_rope_head_dim = 2;
  c.v_head_dim = 5;
  c.n_routed_experts = 4;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 2;
  c.n_group = 2;
  c.topk_group = 1;
  c.first_k_dense_replace = 1;
  c.num_nextn_predict_layers = 1;
  c.max_position_embeddings = 64;
  c.routed_scaling_factor = 2.5;
  return c;
}

inline void fill(const Tensor& t, uint64_t seed) {
  visit_float(t.dtype, [&](auto zero) {
    using T = decltype(zero);
    for (int64_t i = 0; i < t.count(); ++i)
      t.ptr<T>()[i] = static_cast<T>(
          random_normal({seed, RandomPurpose::kTest, static_cast<uint64_t>(t.count()), 0}, static_cast<uint64_t>(i)));
  });
}

// Weights, averaged weights and moments.
struct SmallModel {
  explicit SmallModel(uint64_t seed, const std::string& precision = "bf16", const ModelConfig& c = small_config())
      : config(c), weights(config, precision_from_name(precision), false, arena) {
    const TensorList& list = weights.list();
    const DType full = weights.precision().full, moments = weights.precision().moments;
    ema_dense = arena.tensor(MemoryClass::kEma, full, 1, list.dense_elements());
    ema_expert = arena.tensor(MemoryClass::kEma, full, 1, std::max<int64_t>(list.expert_elements(), 1));
    m_dense = arena.tensor(MemoryClass::kMoments, moments, 1, list.dense_elements());
    m_expert = arena.tensor(MemoryClass::kMoments, moments, 1, std::max<int64_t>(list.expert_elements(), 1));
    refill(seed);
  }
  void refill(uint64_t seed) {
    fill(weights.dense(), seed);
    fill(weights.expert(), seed + 1);
    fill(ema_dense, seed + 2);
    fill(ema_expert, seed + 3);
    fill(m_dense, seed + 4);
    fill(m_expert, seed + 5);
  }
  std::vector<NamedTensor> ema() const { return named_tensors(weights.list(), ema_dense, ema_expert); }
  std::vector<NamedTensor> moments() const { return named_tensors(weights.list(), m_dense, m_expert, "m.", true); }

  CheckpointContents contents(int64_t step) const {
    CheckpointContents c;
    c.step = step;
    c.tokens = step * 1000;
    c.sequences = step * 10;
    c.config = config;
    c.precision = weights.precision().name;
    c.recipe = "precision = \"bf16\"\n";
    c.trainer = {{"loss", 0.1}, {"lanes", {1, 2}}};
    c.model = named_tensors(weights);
    c.ema = ema();
    c.moments = moments();
    return c;
  }

  ModelConfig config;
  Arena arena;
  Weights weights;
  Tensor ema_dense, ema_expert, m_dense, m_expert;
};

// Same names, shapes, dtypes and bits.
inline void expect_equal(const std::vector<NamedTensor>& a, const std::vector<NamedTensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].name, b[i].name);
    EXPECT_EQ(a[i].shape, b[i].shape) << a[i].name;
    ASSERT_EQ(a[i].values.dtype, b[i].values.dtype) << a[i].name;
    ASSERT_EQ(a[i].values.bytes(), b[i].values.bytes()) << a[i].name;
    EXPECT_EQ(std::memcmp(a[i].values.data, b[i].values.data, static_cast<size_t>(a[i].values.bytes())), 0) << a[i].name;
  }
}

// The message of the Error that `body` throws; a failure if it throws none.
inline std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return "";
}

// Trains a tokenizer of fewer entries than small_config() has rows.
inline void save_small_tokenizer(const std::filesystem::path& folder) {
  ThreadPool pool(1);
  const std::vector<std::string_view> documents = {"hello hello hello world world", "other words, other worlds"};
  TokenizerTrainer trainer;
  trainer.vocab_size = 270;
  train_tokenizer(trainer, documents, Stream(pool)).save(folder);
}

// A run directory with one checkpoint and a tokenizer.
inline std::filesystem::path make_run(const std::filesystem::path& folder, const SmallModel& model, int64_t step = 100) {
  CheckpointWriter writer(folder, 2);
  writer.save(model.contents(step));
  writer.wait();
  save_small_tokenizer(folder / "tokenizer");
  return folder;
}

inline std::vector<std::string> names_in(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

// Writes bytes as they are, in place.
inline void overwrite(const std::filesystem::path& path, std::string_view bytes) {
  std::filesystem::remove(path);
  write_file_atomically(path, bytes);
}

}  // namespace rorqual
