#include <algorithm>
#include <cstddef>
#include <cstring>

#include "base/error.h"
#include "data/shard.h"
#include "data/shard_layout.h"

namespace rorqual {

ShardWriter::ShardWriter(const std::filesystem::path& path, ShardSplit split, uint64_t tokenizer_fingerprint,
                         int64_t vocab_size, std::string_view source)
    : file_(path) {
  CHECK(vocab_size >= 1 && vocab_size <= INT32_MAX, "vocabulary {}", vocab_size);
  info_.path = path.string();
  info_.version = kShardVersion;
  info_.split = split;
  info_.tokenizer_fingerprint = tokenizer_fingerprint;
  info_.vocab_size = vocab_size;
  info_.token_bytes = vocab_size <= 65536 ? 2 : 4;
  info_.source = source.substr(0, kShardSourceBytes);
  block_.reserve(static_cast<size_t>(kShardBlockBytes));
  const std::vector<std::byte> header(static_cast<size_t>(kShardHeaderBytes));  // filled in by commit()
  file_.write(header.data(), kShardHeaderBytes);
}

void ShardWriter::finish_block() {
  if (block_.empty()) return;
  const auto bytes = static_cast<int64_t>(block_.size());
  block_hashes_.push_back(hash_bytes(block_.data(), bytes));
  file_.write(block_.data(), bytes);
  block_.clear();
}

void ShardWriter::append(const void* data, int64_t bytes) {
  const auto* p = static_cast<const std::byte*>(data);
  while (bytes > 0) {
    const int64_t part = std::min(bytes, kShardBlockBytes - static_cast<int64_t>(block_.size()));
    block_.insert(block_.end(), p, p + part);
    p += part;
    bytes -= part;
    if (static_cast<int64_t>(block_.size()) == kShardBlockBytes) finish_block();
  }
}

void ShardWriter::add_document(std::span<const int32_t> tokens, int64_t text_bytes) {
  CHECK(text_bytes >= 0, "{} bytes", text_bytes);
  scratch_.resize(tokens.size() * static_cast<size_t>(info_.token_bytes));
  for (size_t i = 0; i < tokens.size(); ++i) {
    const int32_t id = tokens[i];
    CHECK(id >= 0 && id < info_.vocab_size, "token id {}, vocabulary {}", id, info_.vocab_size);
    if (info_.token_bytes == 2) {
      const auto narrow = static_cast<uint16_t>(id);
      std::memcpy(scratch_.data() + 2 * i, &narrow, 2);
    } else {
      std::memcpy(scratch_.data() + 4 * i, &id, 4);
    }
  }
  append(scratch_.data(), static_cast<int64_t>(scratch_.size()));
  info_.tokens += static_cast<int64_t>(tokens.size());
  info_.text_bytes += text_bytes;
  ++info_.documents;
  offsets_.push_back(static_cast<uint64_t>(info_.tokens));
  text_bytes_.push_back(static_cast<uint64_t>(text_bytes));
}

int64_t ShardWriter::file_bytes() const {
  return shard_layout(info_.token_bytes, info_.documents, info_.tokens).file_bytes;
}

ShardInfo ShardWriter::commit() {
  const ShardLayout layout = shard_layout(info_.token_bytes, info_.documents, info_.tokens);
  const uint64_t zero = 0;
  append(&zero, layout.table_offset - kShardHeaderBytes - info_.tokens * info_.token_bytes);
  append(offsets_.data(), static_cast<int64_t>(8 * offsets_.size()));
  append(text_bytes_.data(), static_cast<int64_t>(8 * text_bytes_.size()));
  finish_block();
  CHECK(static_cast<int64_t>(block_hashes_.size()) == layout.blocks && file_.position() == layout.checksums_offset);
  file_.write(block_hashes_.data(), 8 * layout.blocks);

  ShardHeader header{};
  std::memcpy(header.magic, kShardMagic, sizeof kShardMagic);
  header.version = kShardVersion;
  header.byte_order = kShardByteOrder;
  header.token_bytes = static_cast<uint32_t>(info_.token_bytes);
  header.split = static_cast<uint32_t>(info_.split);
  header.tokenizer_fingerprint = info_.tokenizer_fingerprint;
  header.vocab_size = static_cast<uint64_t>(info_.vocab_size);
  header.documents = static_cast<uint64_t>(info_.documents);
  header.tokens = static_cast<uint64_t>(info_.tokens);
  header.text_bytes = static_cast<uint64_t>(info_.text_bytes);
  header.table_offset = static_cast<uint64_t>(layout.table_offset);
  header.checksums_offset = static_cast<uint64_t>(layout.checksums_offset);
  header.file_bytes = static_cast<uint64_t>(layout.file_bytes);
  header.checksums_hash = hash_bytes(block_hashes_.data(), 8 * layout.blocks);
  header.source_bytes = static_cast<uint32_t>(info_.source.size());
  std::memcpy(header.source, info_.source.data(), info_.source.size());
  header.header_hash = shard_header_hash(header);
  file_.write_at(0, &header, kShardHeaderBytes);
  file_.commit();
  info_.file_bytes = layout.file_bytes;
  info_.blocks = layout.blocks;
  info_.header_hash = header.header_hash;
  return info_;
}

}  // namespace rorqual
