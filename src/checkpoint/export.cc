#include "checkpoint/export.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/hugging_face.h"
#include "data/tokenizer.h"
#include "numerics/scale.h"
#include "tensor/scaled_tensor.h"

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
  std::vector<int64_t> scale_shape;  // of FP8
  int64_t bytes = 0;                 // with the scales
};

int64_t product(const std::vector<int64_t>& shape) {
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  return n;
}

// Spec 1.7: FP8 are the linear layers and experts; embedding, head, norms, router and the MTP module's eh_proj stay as they
// are.
DType dtype_of_piece(const TensorSpec& s, DType dtype) {
  if (s.role == Role::kRouterBias) return DType::kF32;
  if (dtype != DType::kE4M3) return dtype;
  const bool fp8 = s.role == Role::kExpert || (s.role == Role::kLinear && !s.name.ends_with(".eh_proj.weight"));
  return fp8 ? DType::kE4M3 : DType::kBF16;
}

// In the order of the tensor list; a MTP module ends with its copies of embedding and head (spec 1.7).
std::vector<Piece> plan_pieces(const ModelConfig& config, DType dtype) {
  const TensorList list(config);
  const std::string embedding = "model.embed_tokens.weight";
  const std::string head = config.tie_word_embeddings ? embedding : "lm_head.weight";
  std::vector<Piece> pieces;
  const auto add = [&](const std::string& name, const TensorSpec& values) {
    Piece p{name, values.name, dtype_of_piece(values, dtype), shape_of(values), {}, 0};
    p.bytes = values.count() * size_of(p.dtype);
    if (p.dtype == DType::kE4M3) {
      p.scale_shape = {scale_groups(values.rows), scale_groups(values.cols)};
      p.bytes += product(p.scale_shape) * size_of(DType::kF32);
    }
    pieces.push_back(std::move(p));
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

bool keeps_codes(const SourceTensor& t) {
  return t.is_fp8() && t.block_rows == kScaleGroup && t.block_cols == kScaleGroup && t.scale->dtype == "F32";
}

void copy_bytes(const SafetensorsFile& file, const SafetensorsEntry& entry, DType dtype, SafetensorsWriter& writer) {
  const std::span<const std::byte> bytes = file.bytes(entry);
  constexpr size_t kBlock = size_t{4} << 20;
  for (size_t begin = 0; begin < bytes.size(); begin += kBlock) {
    const std::span<const std::byte> block = bytes.subspan(begin, std::min(kBlock, bytes.size() - begin));
    writer.write(Tensor(const_cast<std::byte*>(block.data()), dtype, 1, static_cast<int64_t>(block.size()) / size_of(dtype)));
    file.forget(entry);
  }
}

// Codes of up to 128 rows, and their scales (one per 128 columns): value = code · scale, as the packers of weights choose them.
void quantise_rows(const Tensor& rows, E4M3* codes, float* scales) {
  for (int64_t g = 0; g < scale_groups(rows.cols); ++g) {
    const int64_t begin = g * kScaleGroup, end = std::min(begin + kScaleGroup, rows.cols);
    float amax = 0;
    for (int64_t r = 0; r < rows.rows; ++r)
      for (int64_t c = begin; c < end; ++c) {
        const float magnitude = std::abs(rows.row<float>(r)[c]);
        if (magnitude > amax || std::isnan(magnitude)) amax = magnitude;  // a NaN stays
      }
    scales[g] = scale_of(amax, E4M3::kLargest, ScaleRule::kPow2);
    for (int64_t r = 0; r < rows.rows; ++r)
      for (int64_t c = begin; c < end; ++c) codes[r * rows.cols + c] = E4M3(scaled(rows.row<float>(r)[c], scales[g]));
  }
}

void write_fp8(const SourceTensor& t, SafetensorsWriter& writer) {
  if (keeps_codes(t)) {
    copy_bytes(*t.file, *t.entry, DType::kE4M3, writer);
    copy_bytes(*t.scale_file, *t.scale, DType::kF32, writer);
    return;
  }
  const int64_t groups = scale_groups(t.cols());
  std::vector<float> scales(static_cast<size_t>(scale_groups(t.rows()) * groups));
  std::vector<E4M3> codes(static_cast<size_t>(kScaleGroup * t.cols()));
  for_each_band(t, DType::kF32, [&](int64_t first, const Tensor& band) {
    for (int64_t r = 0; r < band.rows; r += kScaleGroup) {
      const Tensor rows = band.row_range(r, std::min(kScaleGroup, band.rows - r));
      quantise_rows(rows, codes.data(), scales.data() + (first + r) / kScaleGroup * groups);
      writer.write(Tensor(codes.data(), DType::kE4M3, rows.rows, rows.cols));
    }
  });
  writer.write(Tensor(scales.data(), DType::kF32, 1, static_cast<int64_t>(scales.size())));
}

void write_piece(const Piece& piece, const SourceTensor& t, SafetensorsWriter& writer) {
  if (piece.dtype == DType::kE4M3) return write_fp8(t, writer);
  for_each_band(t, piece.dtype, [&](int64_t, const Tensor& band) { writer.write(band); });
}

void write_weights(const ModelSource& source, const fs::path& folder, const ExportOptions& options) {
  const SourceTensors& tensors = source.tensors(options.ema);
  const std::vector<std::vector<Piece>> shards = cut(plan_pieces(source.config, options.dtype), options.shard_bytes);
  nlohmann::json weight_map;  // sorted by name
  int64_t total_bytes = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = shard_name(i, shards.size());
    std::vector<SafetensorsWriter::Declaration> declarations;
    const auto declare = [&](const std::string& tensor, DType dtype, const std::vector<int64_t>& shape) {
      declarations.push_back({tensor, dtype, shape});
      weight_map[tensor] = name;
    };
    for (const Piece& p : shards[i]) {
      declare(p.name, p.dtype, p.shape);
      if (p.dtype == DType::kE4M3) declare(p.name + kScaleSuffix, DType::kF32, p.scale_shape);
      total_bytes += p.bytes;
    }
    SafetensorsWriter writer(folder / name, declarations, {{"format", "pt"}});
    for (const Piece& p : shards[i]) write_piece(p, tensors.at(p.source), writer);
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
  const fs::path chat_template = from / "chat_template.jinja";
  if (fs::exists(chat_template, error)) write_file_atomically(folder / chat_template.filename(), read_file(chat_template));
}

// Whether every scale that write_weights writes is a power of two: it chooses those, but keeps what it is given.
bool has_chosen_scales(const ModelSource& source) {
  const SourceTensors& tensors = source.tensors();
  return std::none_of(tensors.begin(), tensors.end(), [](const auto& t) { return keeps_codes(t.second); });
}

void write_configs(const ModelSource& source, const Tokenizer& tokenizer, const ExportOptions& options,
                   const fs::path& folder) {
  const int64_t bos = tokenizer.bos_id().value_or(-1), eos = tokenizer.eos_id().value_or(-1);
  Json config = config_to_hugging_face(source.config, options.dtype == DType::kF32 ? "float32" : "bfloat16", bos, eos);
  if (options.dtype == DType::kE4M3) {
    Json& q = config["quantization_config"];
    q = {{"activation_scheme", "dynamic"},
         {"fmt", "e4m3"},
         {"quant_method", "fp8"},
         {"weight_block_size", {kScaleGroup, kScaleGroup}}};
    if (has_chosen_scales(source)) q["scale_fmt"] = "ue8m0";
  }
  if (source.tokens_seen >= 0) config[kTrainingKey]["tokens_seen"] = source.tokens_seen;
  if (source.heldout_loss && !options.ema) config[kTrainingKey]["heldout_loss"] = *source.heldout_loss;
  write_json(folder / kConfigFile, config);
  Json generation = {{"_from_model_config", true}};
  if (bos >= 0) generation["bos_token_id"] = bos;
  if (eos >= 0) generation["eos_token_id"] = eos;
  write_json(folder / "generation_config.json", generation);
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

void check_exportable(const ModelSource& source, const Tokenizer& tokenizer, bool ema) {
  for (const auto& [name, t] : source.tensors(ema)) check_readable(t);
  if (tokenizer.vocab_size() > source.config.vocab_size)
    fail("{}: its tokenizer has {} entries, its embedding {}: they belong to different models", source.description,
         tokenizer.vocab_size(), source.config.vocab_size);
}

void export_model(const ModelSource& source, const fs::path& directory, const ExportOptions& options) {
  fs::path target = fs::absolute(directory).lexically_normal();
  if (!target.has_filename()) target = target.parent_path();  // "dir/"
  check_target(target);
  const Tokenizer tokenizer = Tokenizer::load(source.tokenizer_directory);
  CHECK(options.dtype == DType::kBF16 || options.dtype == DType::kF32 || options.dtype == DType::kE4M3);
  CHECK(options.shard_bytes > 0);
  check_exportable(source, tokenizer, options.ema);
  PartialDirectory partial(target);
  write_weights(source, partial.path(), options);
  write_configs(source, tokenizer, options, partial.path());
  write_tokenizer(source.tokenizer_directory, tokenizer, partial.path());
  partial.publish();
}

}  // namespace rorqual
