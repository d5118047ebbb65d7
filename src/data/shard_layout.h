// The bytes of a shard, shared by reader, writer and their tests; docs/formats/shards.md says what they mean.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "data/shard.h"

namespace rorqual {

inline constexpr char kShardMagic[8] = {'R', 'Q', 'S', 'H', 'A', 'R', 'D', '\n'};
inline constexpr uint32_t kShardVersion = 1;
inline constexpr uint32_t kShardByteOrder = 0x01020304;
inline constexpr uint32_t kShardSourceBytes = 2048;

struct ShardHeader {
  char magic[8];
  uint32_t version;
  uint32_t byte_order;
  uint32_t token_bytes;
  uint32_t split;
  uint64_t tokenizer_fingerprint;
  uint64_t vocab_size;
  uint64_t documents;
  uint64_t tokens;
  uint64_t text_bytes;
  uint64_t table_offset;      // document table
  uint64_t checksums_offset;  // behind the last block
  uint64_t file_bytes;
  uint64_t checksums_hash;
  uint32_t source_bytes;
  char source[kShardSourceBytes];
  char zeros[1940];
  uint64_t header_hash;  // of all bytes before it
};
static_assert(sizeof(ShardHeader) == kShardHeaderBytes && std::is_trivially_copyable_v<ShardHeader>);
static_assert(offsetof(ShardHeader, header_hash) == kShardHeaderBytes - 8);
static_assert(std::endian::native == std::endian::little, "shards are written as they lie in memory");

// Offsets that follow from the counts.
struct ShardLayout {
  int64_t table_offset, checksums_offset, blocks, file_bytes;
};

inline ShardLayout shard_layout(int64_t token_bytes, int64_t documents, int64_t tokens) {
  ShardLayout layout{};
  layout.table_offset = (kShardHeaderBytes + tokens * token_bytes + 7) / 8 * 8;
  layout.checksums_offset = layout.table_offset + 8 * (2 * documents + 1);
  layout.blocks = (layout.checksums_offset - kShardHeaderBytes + kShardBlockBytes - 1) / kShardBlockBytes;
  layout.file_bytes = layout.checksums_offset + 8 * layout.blocks;
  return layout;
}

inline uint64_t shard_header_hash(const ShardHeader& header) {
  return hash_bytes(&header, kShardHeaderBytes - 8);
}

}  // namespace rorqual
