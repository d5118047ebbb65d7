// Token shards: `*.rqs`, memory-mapped and checksummed; docs/formats/shards.md is the format.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"

namespace rorqual {

enum class ShardSplit : uint32_t { kTrain = 0, kHeldout = 1 };
std::string_view shard_split_name(ShardSplit split);  // "train", "heldout"

inline constexpr int64_t kShardHeaderBytes = 4096;
inline constexpr int64_t kShardBlockBytes = int64_t{1} << 20;
inline constexpr int64_t kDefaultShardBytes = int64_t{256} << 20;

// Everything in a shard's header.
struct ShardInfo {
  std::string path;
  uint32_t version = 0;
  int64_t file_bytes = 0;
  int64_t token_bytes = 0;  // width of a token: 2 (vocabulary up to 65536) or 4
  ShardSplit split = ShardSplit::kTrain;
  uint64_t tokenizer_fingerprint = 0;
  int64_t vocab_size = 0;
  int64_t documents = 0;
  int64_t tokens = 0;        // ordinary tokens only
  int64_t text_bytes = 0;    // of the documents' original text
  int64_t blocks = 0;        // checksummed blocks of 1 MiB
  uint64_t header_hash = 0;  // names the whole content: it covers the blocks' checksums
  std::string source;        // description, without absolute paths
};

// Reads and checks the header alone. Error (runtime): no shard, another version or byte order, a damaged header, a file
// that is longer or shorter than its header says.
ShardInfo describe_shard(const std::filesystem::path& path);

// One shard, mapped. Thread-safe.
class ShardReader {
 public:
  // With `verify` every byte is checked: checksums, offsets, ids below vocab_size. Error (runtime) names file and block,
  // and says what to do.
  ShardReader(const std::filesystem::path& path, bool verify);
  // Over bytes in memory, which must outlive the reader; `name` stands for the path in errors.
  ShardReader(std::span<const std::byte> bytes, const std::string& name, bool verify);

  const ShardInfo& info() const { return info_; }
  int64_t documents() const { return info_.documents; }
  int64_t tokens() const { return info_.tokens; }
  int64_t document_tokens(int64_t document) const;
  int64_t document_bytes(int64_t document) const;
  // Copies tokens [begin, begin + out.size()) of a document.
  void copy_tokens(int64_t document, int64_t begin, std::span<int32_t> out) const;

 private:
  void map(bool verify);
  void verify_blocks() const;
  void verify_contents() const;
  uint64_t offset(int64_t document) const;

  MappedFile file_;
  std::span<const std::byte> bytes_;
  ShardInfo info_;
  int64_t table_offset_ = 0;  // of the document table
};

// Writes one shard; it exists once commit() has returned, whole. Memory: the document table.
class ShardWriter {
 public:
  ShardWriter(const std::filesystem::path& path, ShardSplit split, uint64_t tokenizer_fingerprint, int64_t vocab_size,
              std::string_view source);
  void add_document(std::span<const int32_t> tokens, int64_t text_bytes);
  int64_t documents() const { return info_.documents; }
  // Size of the file if it were committed now.
  int64_t file_bytes() const;
  ShardInfo commit();

 private:
  void append(const void* data, int64_t bytes);
  void finish_block();

  AtomicFile file_;
  ShardInfo info_;
  std::vector<uint64_t> offsets_{0}, text_bytes_;
  std::vector<uint64_t> block_hashes_;
  std::vector<std::byte> block_;
  std::vector<std::byte> scratch_;
};

}  // namespace rorqual
