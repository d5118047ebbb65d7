#include "data/shard.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "data/shard_layout.h"

namespace rorqual {
namespace {

constexpr std::string_view kRemedy = "delete the folder it lies in, and the data is tokenised again";

[[noreturn]] void fail_damaged(const std::string& path, const std::string& why) {
  fail("the token shard {} is damaged: {}; {}", path, why, kRemedy);
}

// Checks the header alone against itself and the size of the file.
ShardInfo read_header(std::span<const std::byte> bytes, const std::string& path) {
  const auto size = static_cast<int64_t>(bytes.size());
  ShardHeader header;
  if (size < 8) fail_damaged(path, fmt::format("it has {} bytes, which is no header", size));
  std::memcpy(&header, bytes.data(), std::min(bytes.size(), sizeof header));
  if (std::memcmp(header.magic, kShardMagic, sizeof kShardMagic) != 0) {
    fail("{} is no token shard, or its first bytes are damaged; {}", path, kRemedy);
  }
  if (size < kShardHeaderBytes) fail_damaged(path, fmt::format("it ends inside the header, after {} bytes", size));
  if (header.byte_order != kShardByteOrder) {
    fail("the token shard {} has the byte order of another kind of machine, or is damaged; {}", path, kRemedy);
  }
  if (header.header_hash != shard_header_hash(header)) fail_damaged(path, "the header does not match its checksum");
  if (header.version != kShardVersion) {
    fail("the token shard {} has format version {}, this program reads version {}; {}", path, header.version, kShardVersion,
         kRemedy);
  }
  // Bounds first, so that the layout cannot overflow.
  const auto limit = static_cast<uint64_t>(size);
  const bool plausible = (header.token_bytes == 2 || header.token_bytes == 4) && header.split <= 1 &&
                         header.documents <= limit && header.tokens <= limit && header.source_bytes <= kShardSourceBytes &&
                         header.file_bytes <= INT64_MAX && header.vocab_size >= 1 &&
                         header.vocab_size <= (header.token_bytes == 2 ? 65536u : uint64_t{INT32_MAX}) &&
                         header.text_bytes <= INT64_MAX;
  if (static_cast<uint64_t>(size) != header.file_bytes) {
    fail_damaged(path, fmt::format("it has {} bytes, its header says {}", size, header.file_bytes));
  }
  if (!plausible) fail_damaged(path, "the header contradicts itself");
  const ShardLayout layout =
      shard_layout(header.token_bytes, static_cast<int64_t>(header.documents), static_cast<int64_t>(header.tokens));
  if (layout.file_bytes != size || static_cast<uint64_t>(layout.table_offset) != header.table_offset ||
      static_cast<uint64_t>(layout.checksums_offset) != header.checksums_offset) {
    fail_damaged(path, "the header contradicts itself");
  }
  ShardInfo info;
  info.path = path;
  info.version = header.version;
  info.file_bytes = size;
  info.token_bytes = header.token_bytes;
  info.split = static_cast<ShardSplit>(header.split);
  info.tokenizer_fingerprint = header.tokenizer_fingerprint;
  info.vocab_size = static_cast<int64_t>(header.vocab_size);
  info.documents = static_cast<int64_t>(header.documents);
  info.tokens = static_cast<int64_t>(header.tokens);
  info.text_bytes = static_cast<int64_t>(header.text_bytes);
  info.blocks = layout.blocks;
  info.header_hash = header.header_hash;
  info.source.assign(header.source, header.source_bytes);
  return info;
}

}  // namespace

std::string_view shard_split_name(ShardSplit split) {
  return split == ShardSplit::kTrain ? "train" : "heldout";
}

ShardInfo describe_shard(const std::filesystem::path& path) {
  const MappedFile file(path);
  return read_header(file.bytes(), path.string());
}

ShardReader::ShardReader(const std::filesystem::path& path, bool verify) : file_(path), bytes_(file_.bytes()) {
  info_.path = path.string();
  map(verify);
}

ShardReader::ShardReader(std::span<const std::byte> bytes, const std::string& name, bool verify) : bytes_(bytes) {
  info_.path = name;
  map(verify);
}

void ShardReader::map(bool verify) {
  info_ = read_header(bytes_, info_.path);
  table_offset_ = shard_layout(info_.token_bytes, info_.documents, info_.tokens).table_offset;
  if (verify) {
    verify_blocks();
    verify_contents();
  }
}

void ShardReader::verify_blocks() const {
  const ShardLayout layout = shard_layout(info_.token_bytes, info_.documents, info_.tokens);
  ShardHeader header;
  std::memcpy(&header, bytes_.data(), sizeof header);
  const std::byte* const checksums = bytes_.data() + layout.checksums_offset;
  if (hash_bytes(checksums, 8 * layout.blocks) != header.checksums_hash) {
    fail_damaged(info_.path,
                 fmt::format("the list of checksums at byte {} does not match its own checksum", layout.checksums_offset));
  }
  for (int64_t block = 0; block < layout.blocks; ++block) {
    const int64_t begin = kShardHeaderBytes + block * kShardBlockBytes;
    const int64_t end = std::min(begin + kShardBlockBytes, layout.checksums_offset);
    uint64_t expected;
    std::memcpy(&expected, checksums + 8 * block, 8);
    if (hash_bytes(bytes_.data() + begin, end - begin) != expected) {
      fail_damaged(info_.path, fmt::format("block {} of {} (bytes {} to {}) does not match its checksum", block, layout.blocks,
                                           begin, end));
    }
  }
}

// What checksums cannot know: that whoever wrote them wrote sense.
void ShardReader::verify_contents() const {
  uint64_t previous = offset(0);
  uint64_t text_bytes = 0;
  bool ordered = previous == 0;
  for (int64_t d = 0; d < info_.documents; ++d) {
    const uint64_t next = offset(d + 1);
    ordered = ordered && next >= previous;
    previous = next;
    ordered = ordered && document_bytes(d) >= 0;
    text_bytes += static_cast<uint64_t>(document_bytes(d));
  }
  if (!ordered || previous != static_cast<uint64_t>(info_.tokens) || text_bytes != static_cast<uint64_t>(info_.text_bytes)) {
    fail_damaged(info_.path, "its document table contradicts its header");
  }
  uint32_t largest = 0;
  if (info_.token_bytes == 2) {
    const auto* tokens = reinterpret_cast<const uint16_t*>(bytes_.data() + kShardHeaderBytes);
    for (int64_t i = 0; i < info_.tokens; ++i) largest = std::max(largest, uint32_t{tokens[i]});
  } else {
    const auto* tokens = reinterpret_cast<const uint32_t*>(bytes_.data() + kShardHeaderBytes);
    for (int64_t i = 0; i < info_.tokens; ++i) largest = std::max(largest, tokens[i]);
  }
  if (info_.tokens > 0 && int64_t{largest} >= info_.vocab_size) {
    fail_damaged(info_.path, fmt::format("it holds the token id {}, its vocabulary has {}", largest, info_.vocab_size));
  }
}

uint64_t ShardReader::offset(int64_t document) const {
  uint64_t value;
  std::memcpy(&value, bytes_.data() + table_offset_ + 8 * document, 8);
  return value;
}

int64_t ShardReader::document_tokens(int64_t document) const {
  CHECK(document >= 0 && document < info_.documents, "document {} of {}", document, info_.documents);
  const uint64_t begin = offset(document), end = offset(document + 1);
  // Also without verify, a damaged table must not lead outside the file.
  if (begin > end || end > static_cast<uint64_t>(info_.tokens)) {
    fail_damaged(info_.path, fmt::format("the table entry of document {} is wrong", document));
  }
  return static_cast<int64_t>(end - begin);
}

int64_t ShardReader::document_bytes(int64_t document) const {
  CHECK(document >= 0 && document < info_.documents, "document {} of {}", document, info_.documents);
  uint64_t value;
  std::memcpy(&value, bytes_.data() + table_offset_ + 8 * (info_.documents + 1 + document), 8);
  return static_cast<int64_t>(value);
}

void ShardReader::copy_tokens(int64_t document, int64_t begin, std::span<int32_t> out) const {
  const int64_t tokens = document_tokens(document);
  const auto count = static_cast<int64_t>(out.size());
  CHECK(begin >= 0 && begin + count <= tokens, "tokens {} to {} of {}", begin, begin + count, tokens);
  const int64_t first = static_cast<int64_t>(offset(document)) + begin;
  const std::byte* const data = bytes_.data() + kShardHeaderBytes + first * info_.token_bytes;
  if (count == 0) return;
  if (info_.token_bytes == 4) {
    std::memcpy(out.data(), data, static_cast<size_t>(count) * 4);
    return;
  }
  const auto* narrow = reinterpret_cast<const uint16_t*>(data);
  for (int64_t i = 0; i < count; ++i) out[static_cast<size_t>(i)] = narrow[i];
}

}  // namespace rorqual
