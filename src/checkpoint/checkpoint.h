// Run checkpoints: RUN/checkpoints/step-00000100/ (docs/formats/checkpoint.md). Each is whole or absent, and every byte of it
// is covered by a checksum.
#pragma once

#include <cstdint>
#include <exception>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/threads.h"
#include "checkpoint/named_tensor.h"
#include "model/config.h"
#include "tensor/arena.h"

namespace rorqual {

struct CheckpointContents {
  int64_t step = 0;                           // optimizer steps done
  int64_t tokens = 0;                         // trained on
  int64_t sequences = 0;                      // consumed
  ModelConfig config;                         // complete: with the vocabulary and the context length filled in
  std::string precision;                      // name of the precision recipe
  std::string recipe;                         // TOML, in full
  std::string tokenizer = "../../tokenizer";  // folder, seen from the checkpoint's
  nlohmann::json trainer;                     // the trainer's own; UTF-8, no NaN or infinity
  std::vector<NamedTensor> model;             // every master weight by its Hugging Face name, routing biases too
  std::vector<NamedTensor> ema;               // the same names; empty: none
  std::vector<NamedTensor> moments;           // "m." and "v." before the names
};

// Writes checkpoints beside training. Not thread-safe: save and wait are called from one thread.
class CheckpointWriter {
 public:
  // Makes RUN/checkpoints and removes what a killed process left half-written there. `use` (may be null) counts the snapshot
  // under kSnapshot and outlives the writer. Error: checkpoints_kept < 1 (usage), the folder cannot be made.
  CheckpointWriter(const std::filesystem::path& run_directory, int64_t checkpoints_kept, MemoryUse* use = nullptr);
  ~CheckpointWriter();  // waits; an error that nobody waited for becomes a warning
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  // Waits for the write in progress (and rethrows its Error), copies all tensors into memory of its own, and returns: the
  // caller may change them at once. The writing goes on in a thread. Afterwards this is the newest checkpoint: later steps,
  // left by a run that was taken up before them, go, and so do earlier ones beyond checkpoints_kept.
  void save(const CheckpointContents& contents, const Stream* stream = nullptr);
  // Returns when the checkpoint is on the disk under its final name. Rethrows the Error of a failed write, once: nothing
  // half-written is left then, and the older checkpoints are whole.
  void wait();

 private:
  struct Job;
  void snapshot(const CheckpointContents& contents, const Stream* stream);
  void write(const Job& job) const;
  void prune(int64_t newest_step) const;

  std::filesystem::path folder_;
  int64_t kept_;
  Arena arena_;  // the snapshot
  std::unique_ptr<Job> job_;
  std::thread thread_;
  std::exception_ptr error_;
};

// One checkpoint, opened. Cheap to copy; the maps of its files are shared and made on first use (not thread-safe).
struct Checkpoint {
  struct File {
    std::string name;
    int64_t bytes = 0;
    uint64_t checksum = 0;  // XXH3
  };

  std::filesystem::path path;
  int64_t step = 0, tokens = 0, sequences = 0;
  ModelConfig config;
  std::string precision;
  std::string recipe;
  std::filesystem::path tokenizer;  // resolved against path
  nlohmann::json trainer;
  std::vector<File> files;

  const SafetensorsFile& model() const { return open("model.safetensors"); }
  const SafetensorsFile& ema() const { return open("ema.safetensors"); }  // Error where there is none
  const SafetensorsFile& moments() const { return open("moments.safetensors"); }
  bool has_ema() const { return has("ema.safetensors"); }
  bool has_moments() const { return has("moments.safetensors"); }

  bool has(const std::string& file) const;
  const SafetensorsFile& open(const std::string& file) const;

 private:
  using Maps = std::map<std::string, std::unique_ptr<SafetensorsFile>>;
  std::shared_ptr<Maps> maps_ = std::make_shared<Maps>();
};

struct CheckpointPlace {
  std::filesystem::path path;
  int64_t step = 0;
};

// Ascending by step; empty where there are none. Reads names alone.
std::vector<CheckpointPlace> list_checkpoints(const std::filesystem::path& run_directory);

// Error (runtime) names the bad file and says what to do. Sizes and state.json are always checked, with verify_all every byte.
Checkpoint open_checkpoint(const std::filesystem::path& path, bool verify_all = true);

// For --resume alone: the newest checkpoint that verifies; damaged ones are named in warnings and skipped. Error: none is left,
// or there is none.
Checkpoint newest_for_resume(const std::filesystem::path& run_directory);

// For every other reader: the newest checkpoint, verified whole; a damaged one is an Error that names the file.
Checkpoint newest(const std::filesystem::path& run_directory);

}  // namespace rorqual
