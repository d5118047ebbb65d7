#include "checkpoint/export.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/hugging_face.h"
#include "data/tokenizer.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// A tensor of the directory to be: where its values come from, and how it is written.
struct Piece {
  std::string name;
  std::string source;
  DType dtype{};
  std::vector<int64_t> shape;
  int64_t bytes = 0;
};

// In the order of the tensor list; a MTP module ends with its copies of embedding and head (spec 1.7).
std::vector<Piece> plan_pieces(const ModelConfig& config, DType dtype) {
  const TensorList list(config);
  const std::string embedding = "model.embed_tokens.weight";
  const std::string head = config.tie_word_embeddings ? embedding : "lm_head.weight";
  std::vector<Piece> pieces;
  const auto add = [&](const std::string& name, const TensorSpec& values) {
    const DType d = values.role == Role::kRouterBias ? DType::kF32 : dtype;
    pieces.push_back({name, values.name, d, shape_of(values), values.count() * size_of(d)});
  };
  for (const TensorSpec& s : list.specs()) {
    add(s.name, s);
    if (!s.name.ends_with(".shared_head.norm.weight")) continue;
    add(layer_prefix(s.layer) + "shared_head.head.weight", list[list.at(head)]);
    add(layer_prefix(s.layer) + "embed_tokens.weight", list[list.at(embedding)]);
  }
  return pieces;
}

// Consecutive pieces, at most shard_bytes in a file.
std::vector<std::vector<Piece>> cut(std::vector<Piece> pieces, int64_t shard_bytes) {
  std::vector<std::vector<Piece>> shards;
  int64_t bytes = 0;
  for (Piece& piece : pieces) {
    if (shards.empty() || bytes + piece.bytes > shard_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    bytes += piece.bytes;
    shards.back().push_back(std::move(piece));
  }
  return shards;
}

std::string shard_name(size_t i, size_t n) {
  return n == 1 ? std::string(kSingleFile) : fmt::format("model-{:05d}-of-{:05d}.safetensors", i + 1, n);
}

void write_json(const fs::path& path, const nlohmann::ordered_json& json) {
  write_file_atomically(path, json.dump(2) + "\n");
}

void write_weights(const ModelSource& source, const fs::path& folder, const ExportOptions& options) {
  const SourceTensors& tensors = source.tensors(options.ema);
  const std::vector<std::vector<Piece>> shards = cut(plan_pieces(source.config, options.dtype), options.shard_bytes);
  nlohmann::json weight_map;  // sorted by name
  int64_t total_bytes = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = shard_name(i, shards.size());
    std::vector<SafetensorsWriter::Declaration> declarations;
    for (const Piece& p : shards[i]) {
      declarations.push_back({p.name, p.dtype, p.shape});
      weight_map[p.name] = name;
      total_bytes += p.bytes;
    }
    SafetensorsWriter writer(folder / name, declarations, {{"format", "pt"}});
    for (const Piece& p : shards[i]) {
      const SourceTensor& t = tensors.at(p.source);
      writer.write(t.file->tensor(*t.entry));
    }
    writer.commit();
  }
  Json index;
  index["metadata"] = {{"total_size", total_bytes}};
  index["weight_map"] = weight_map;
  write_json(folder / kIndexFile, index);
}

void write_tokenizer(const fs::path& from, const Tokenizer& tokenizer, const fs::path& folder) {
  write_file_atomically(folder / "tokenizer.json", read_file(from / "tokenizer.json"));
  std::error_code error;
  const fs::path config = from / "tokenizer_config.json";
  write_file_atomically(folder / "tokenizer_config.json",
                        fs::exists(config, error) ? read_file(config) : tokenizer.config_json());
}

void write_configs(const ModelConfig& config, const Tokenizer& tokenizer, DType dtype, const fs::path& folder) {
  const int64_t bos = tokenizer.bos_id().value_or(-1), eos = tokenizer.eos_id().value_or(-1);
  write_json(folder / kConfigFile, config_to_hugging_face(config, dtype == DType::kBF16 ? "bfloat16" : "float32", bos, eos));
  Json generation = {{"_from_model_config", true}};
  if (bos >= 0) generation["bos_token_id"] = bos;
  if (eos >= 0) generation["eos_token_id"] = eos;
  write_json(folder / "generation_config.json", generation);
}

void check_source(const ModelSource& source, const Tokenizer& tokenizer, const ExportOptions& options) {
  CHECK(options.dtype == DType::kBF16 || options.dtype == DType::kF32);
  CHECK(options.shard_bytes > 0);
  if (source.quantised)
    fail("{}: its weights are FP8 with block scales, which this version cannot convert", source.description);
  for (const auto& [name, t] : source.tensors(options.ema))
    if (t.entry->dtype != "F64" && t.entry->dtype != "F32" && t.entry->dtype != "BF16")
      fail("{}: tensor '{}' has dtype {}; F64, F32 or BF16 is needed", t.file->path().string(), name, t.entry->dtype);
  if (tokenizer.vocab_size() > source.config.vocab_size)
    fail("{}: its tokenizer has {} entries, its embedding {}: they belong to different models", source.description,
         tokenizer.vocab_size(), source.config.vocab_size);
}

void check_target(const fs::path& directory) {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(directory, error);
  if (!fs::exists(status)) return;
  if (!fs::is_directory(status)) fail_usage("--to {}: it exists and is no directory; name a new one", directory.string());
  const bool empty = fs::is_empty(directory, error);
  if (error) fail("cannot read {}: {}", directory.string(), error.message());
  if (!empty) fail_usage("--to {}: it exists and is not empty; name a new directory", directory.string());
}

// A folder beside the target that vanishes unless it is published.
class PartialDirectory {
 public:
  explicit PartialDirectory(const fs::path& target) : target_(target) {
    std::error_code error;
    fs::create_directories(target.parent_path(), error);
    std::string name = (target.parent_path() / fmt::format(".{}.partial-XXXXXX", target.filename().string())).string();
    if (!::mkdtemp(name.data())) fail("cannot write {}: {}", target.string(), std::strerror(errno));
    path_ = name;
    ::chmod(path_.c_str(), 0755);
  }
  ~PartialDirectory() {
    std::error_code error;
    if (!published_) fs::remove_all(path_, error);
  }
  PartialDirectory(const PartialDirectory&) = delete;
  PartialDirectory& operator=(const PartialDirectory&) = delete;

  const fs::path& path() const { return path_; }
  void publish() {
    sync_directory(path_);
    if (::rename(path_.c_str(), target_.c_str()) != 0) fail("cannot write {}: {}", target_.string(), std::strerror(errno));
    published_ = true;
    sync_directory(target_.parent_path());
  }

 private:
  fs::path target_, path_;
  bool published_ = false;
};

}  // namespace

void export_model(const ModelSource& source, const fs::path& directory, const ExportOptions& options) {
  fs::path target = fs::absolute(directory).lexically_normal();
  if (!target.has_filename()) target = target.parent_path();  // "dir/"
  check_target(target);
  const Tokenizer tokenizer = Tokenizer::load(source.tokenizer_directory);
  check_source(source, tokenizer, options);
  PartialDirectory partial(target);
  write_weights(source, partial.path(), options);
  write_configs(source.config, tokenizer, options.dtype, partial.path());
  write_tokenizer(source.tokenizer_directory, tokenizer, partial.path());
  partial.publish();
}

}  // namespace rorqual
