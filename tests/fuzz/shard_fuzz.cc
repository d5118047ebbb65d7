// Reads arbitrary bytes as a token shard. An even first byte: the rest is the file as it is. An odd one: the rest is the body
// of a file whose header and checksums are made to fit, so that what lies behind the checksums is reached too; two more
// bytes change one byte of the header first. Whatever is accepted must be readable from end to end, with ids in the vocabulary.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "data/shard.h"
#include "data/shard_layout.h"

namespace rorqual {
namespace {

std::vector<std::byte> as_file(const uint8_t* data, size_t size) {
  std::vector<std::byte> file(size);
  if (size > 0) std::memcpy(file.data(), data, size);
  return file;
}

std::vector<std::byte> with_header(const uint8_t* data, size_t size) {
  constexpr size_t kSettings = 8;
  if (size < kSettings) return {};
  const uint8_t* const body = data + kSettings;
  const auto body_bytes = static_cast<int64_t>(size - kSettings);
  const int64_t token_bytes = data[0] % 2 == 0 ? 2 : 4;
  const int64_t documents = data[1] % 32;
  const int64_t tokens = std::max<int64_t>(0, body_bytes - 8 * (2 * documents + 1)) / token_bytes;
  const ShardLayout layout = shard_layout(token_bytes, documents, tokens);
  std::vector<std::byte> file(static_cast<size_t>(layout.file_bytes));
  const int64_t body_end = std::min(body_bytes, layout.checksums_offset - kShardHeaderBytes);
  if (body_end > 0) std::memcpy(file.data() + kShardHeaderBytes, body, static_cast<size_t>(body_end));
  for (int64_t b = 0; b < layout.blocks; ++b) {
    const int64_t begin = kShardHeaderBytes + b * kShardBlockBytes;
    const int64_t end = std::min(begin + kShardBlockBytes, layout.checksums_offset);
    const uint64_t hash = hash_bytes(file.data() + begin, end - begin);
    std::memcpy(file.data() + layout.checksums_offset + 8 * b, &hash, 8);
  }
  ShardHeader header{};
  std::memcpy(header.magic, kShardMagic, sizeof kShardMagic);
  header.version = kShardVersion;
  header.byte_order = kShardByteOrder;
  header.token_bytes = static_cast<uint32_t>(token_bytes);
  header.vocab_size = 1 + static_cast<uint64_t>(data[2]) * data[3];
  header.documents = static_cast<uint64_t>(documents);
  header.tokens = static_cast<uint64_t>(tokens);
  header.text_bytes = data[4];
  header.table_offset = static_cast<uint64_t>(layout.table_offset);
  header.checksums_offset = static_cast<uint64_t>(layout.checksums_offset);
  header.file_bytes = static_cast<uint64_t>(layout.file_bytes);
  header.checksums_hash = hash_bytes(file.data() + layout.checksums_offset, 8 * layout.blocks);
  if (data[7] % 2 == 1) reinterpret_cast<uint8_t*>(&header)[data[5] % 128] ^= data[6];
  header.header_hash = shard_header_hash(header);
  std::memcpy(file.data(), &header, sizeof header);
  return file;
}

void read_everything(const std::vector<std::byte>& file, bool verify) {
  try {
    const ShardReader shard(file, "fuzz", verify);
    int64_t tokens = 0, text_bytes = 0;
    for (int64_t d = 0; d < shard.documents(); ++d) {
      std::vector<int32_t> ids(static_cast<size_t>(shard.document_tokens(d)));
      shard.copy_tokens(d, 0, ids);
      tokens += shard.document_tokens(d);
      if (!verify) continue;
      text_bytes += shard.document_bytes(d);
      for (const int32_t id : ids) {
        if (id < 0 || id >= shard.info().vocab_size) std::abort();
      }
    }
    if (verify && (tokens != shard.tokens() || text_bytes != shard.info().text_bytes)) std::abort();
  } catch (const Error&) {
  }
}

}  // namespace
}  // namespace rorqual

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const auto file = data[0] % 2 == 0 ? rorqual::as_file(data + 1, size - 1) : rorqual::with_header(data + 1, size - 1);
  rorqual::read_everything(file, true);
  rorqual::read_everything(file, false);
  return 0;
}
