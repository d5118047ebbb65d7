#include "data/shard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "base/rng.h"
#include "data/corpus_test_support.h"
#include "data/shard_layout.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using ::testing::HasSubstr;
using testing::TempDir;

std::vector<int32_t> random_tokens(int64_t count, int64_t vocab, uint64_t seed) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) {
    tokens.push_back(
        static_cast<int32_t>(random_below({.seed = seed}, static_cast<uint64_t>(i), static_cast<uint64_t>(vocab))));
  }
  return tokens;
}

// Documents of 0, 1, 2, ... tokens.
fs::path write_shard(const TempDir& dir, int64_t documents, int64_t vocab, const std::string& name = "x.rqs") {
  const fs::path path = dir.path() / name;
  ShardWriter writer(path, ShardSplit::kHeldout, 0x1234567890abcdef, vocab, "corpus");
  for (int64_t d = 0; d < documents; ++d) writer.add_document(random_tokens(d, vocab, static_cast<uint64_t>(d)), 3 * d + 1);
  const int64_t bytes = writer.file_bytes();
  writer.commit();
  EXPECT_EQ(static_cast<int64_t>(fs::file_size(path)), bytes);
  return path;
}

std::vector<int32_t> document(const ShardReader& shard, int64_t d) {
  std::vector<int32_t> tokens(static_cast<size_t>(shard.document_tokens(d)));
  shard.copy_tokens(d, 0, tokens);
  return tokens;
}

TEST(Shard, RoundTripOfBothWidths) {
  const TempDir dir;
  for (const int64_t vocab : {1, 300, 65536, 65537, 129280}) {
    const fs::path path = write_shard(dir, 50, vocab);
    const ShardInfo info = describe_shard(path);
    EXPECT_EQ(info.version, 1u);
    EXPECT_EQ(info.token_bytes, vocab <= 65536 ? 2 : 4);
    EXPECT_EQ(info.split, ShardSplit::kHeldout);
    EXPECT_EQ(info.tokenizer_fingerprint, 0x1234567890abcdefu);
    EXPECT_EQ(info.vocab_size, vocab);
    EXPECT_EQ(info.documents, 50);
    EXPECT_EQ(info.tokens, 49 * 50 / 2);
    EXPECT_EQ(info.text_bytes, 3 * 49 * 50 / 2 + 50);
    EXPECT_EQ(info.source, "corpus");
    EXPECT_EQ(info.file_bytes, static_cast<int64_t>(fs::file_size(path)));
    const ShardReader shard(path, true);
    for (int64_t d = 0; d < 50; ++d) {
      EXPECT_EQ(document(shard, d), random_tokens(d, vocab, static_cast<uint64_t>(d)));
      EXPECT_EQ(shard.document_bytes(d), 3 * d + 1);
    }
    std::vector<int32_t> part(10);
    shard.copy_tokens(40, 25, part);
    const auto whole = random_tokens(40, vocab, 40);
    EXPECT_EQ(part, std::vector<int32_t>(whole.begin() + 25, whole.begin() + 35));
  }
}

TEST(Shard, WithoutDocumentsAndAbsentWithoutCommit) {
  const TempDir dir;
  const ShardReader empty(write_shard(dir, 0, 10), true);
  EXPECT_EQ(empty.documents(), 0);
  EXPECT_EQ(empty.tokens(), 0);
  {
    ShardWriter writer(dir.path() / "never.rqs", ShardSplit::kTrain, 1, 10, "");
    writer.add_document(random_tokens(5, 10, 1), 5);
  }
  EXPECT_FALSE(fs::exists(dir.path() / "never.rqs"));
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), fs::directory_iterator()), 1);
}

TEST(Shard, EverySingleByteIsGuarded) {
  const TempDir dir;
  const std::string whole = read_file(write_shard(dir, 60, 300));
  ASSERT_LT(whole.size(), 10'000u);
  std::vector<std::byte> bytes(whole.size());
  std::memcpy(bytes.data(), whole.data(), whole.size());
  for (size_t at = 0; at < bytes.size(); ++at) {
    const std::byte bit{static_cast<uint8_t>(1u << (at % 8))};
    bytes[at] ^= bit;
    EXPECT_THAT(error_of([&] { ShardReader(bytes, "damaged.rqs", true); }), HasSubstr("damaged.rqs")) << "byte " << at;
    bytes[at] ^= bit;
  }
  for (size_t size = 0; size < bytes.size(); size += size < 64 ? 1 : 61) {
    const auto cut = std::span<const std::byte>(bytes).first(size);
    EXPECT_THAT(error_of([&] { ShardReader(cut, "cut.rqs", false); }), HasSubstr("cut.rqs")) << size << " bytes";
  }
  bytes.push_back(std::byte{0});
  EXPECT_THAT(error_of([&] { ShardReader(bytes, "long.rqs", false); }), HasSubstr("its header says"));
  bytes.pop_back();
  EXPECT_EQ(ShardReader(bytes, "whole.rqs", true).documents(), 60);
}

TEST(Shard, DamageIsLocatedByBlock) {
  const TempDir dir;
  const fs::path path = dir.path() / "large.rqs";
  ShardWriter writer(path, ShardSplit::kTrain, 1, 129280, "");
  for (int d = 0; d < 9; ++d) writer.add_document(random_tokens(100'000, 129280, static_cast<uint64_t>(d)), 400'000);
  EXPECT_EQ(writer.commit().blocks, 4);  // 3.6 MB
  std::string bytes = read_file(path);
  const std::pair<int64_t, std::string> places[] = {
      {kShardHeaderBytes, "block 0 of 4"},
      {kShardHeaderBytes + kShardBlockBytes - 1, "block 0 of 4"},
      {kShardHeaderBytes + kShardBlockBytes, "block 1 of 4 (bytes 1052672 to 2101248)"},
      {kShardHeaderBytes + 3 * kShardBlockBytes + 7, "block 3 of 4"},
      {static_cast<int64_t>(bytes.size()) - 1, "the list of checksums"},
      {100, "header"},
  };
  for (const auto& [at, expected] : places) {
    std::string damaged = bytes;
    damaged[static_cast<size_t>(at)] = static_cast<char>(damaged[static_cast<size_t>(at)] ^ 1);
    const std::string message = error_of([&] { ShardReader(dir.write("damaged.rqs", damaged), true); });
    EXPECT_THAT(message, HasSubstr(expected));
    EXPECT_THAT(message, HasSubstr("damaged.rqs"));
    EXPECT_THAT(message, HasSubstr("tokenised again"));
  }
}

// Writes checksums that fit, as a program gone wrong would.
std::vector<std::byte> with_checksums(std::string bytes) {
  ShardHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  const auto end = static_cast<int64_t>(header.checksums_offset);
  for (int64_t b = 0; kShardHeaderBytes + b * kShardBlockBytes < end; ++b) {
    const int64_t begin = kShardHeaderBytes + b * kShardBlockBytes;
    const uint64_t hash = hash_bytes(bytes.data() + begin, std::min(kShardBlockBytes, end - begin));
    std::memcpy(bytes.data() + end + 8 * b, &hash, 8);
  }
  header.checksums_hash = hash_bytes(bytes.data() + end, static_cast<int64_t>(bytes.size()) - end);
  header.header_hash = shard_header_hash(header);
  std::memcpy(bytes.data(), &header, sizeof header);
  std::vector<std::byte> result(bytes.size());
  std::memcpy(result.data(), bytes.data(), bytes.size());
  return result;
}

TEST(Shard, NonsenseUnderRightChecksums) {
  const TempDir dir;
  const std::string whole = read_file(write_shard(dir, 20, 300));
  ShardHeader header;
  std::memcpy(&header, whole.data(), sizeof header);
  const auto poke = [&](size_t at, uint64_t value, size_t width) {
    std::string bytes = whole;
    std::memcpy(bytes.data() + at, &value, width);
    const auto fixed = with_checksums(bytes);
    return error_of([&] { ShardReader(fixed, "x", true); });
  };
  EXPECT_THAT(poke(kShardHeaderBytes + 10, 300, 2), HasSubstr("token id 300, its vocabulary has 300"));
  EXPECT_THAT(poke(header.table_offset, 1, 8), HasSubstr("document table"));
  EXPECT_THAT(poke(header.table_offset + 8, UINT64_MAX, 8), HasSubstr("document table"));
  EXPECT_THAT(poke(header.table_offset + 8 * 20, 5, 8), HasSubstr("document table"));
  EXPECT_THAT(poke(header.table_offset + 8 * 25, 1u << 30, 8), HasSubstr("document table"));
  EXPECT_THAT(poke(offsetof(ShardHeader, documents), UINT64_MAX / 2, 8), HasSubstr("contradicts itself"));
  EXPECT_THAT(poke(offsetof(ShardHeader, tokens), 180, 8), HasSubstr("contradicts itself"));
  EXPECT_THAT(poke(offsetof(ShardHeader, token_bytes), 3, 4), HasSubstr("contradicts itself"));
  EXPECT_THAT(poke(offsetof(ShardHeader, source_bytes), 4000, 4), HasSubstr("contradicts itself"));
  EXPECT_THAT(poke(offsetof(ShardHeader, version), 2, 4), HasSubstr("version 2"));
  EXPECT_THAT(poke(offsetof(ShardHeader, byte_order), 0x04030201, 4), HasSubstr("byte order"));
  // Without verify the table is not looked at, and still leads nowhere outside.
  std::string bytes = whole;
  const uint64_t far = uint64_t{1} << 40;
  std::memcpy(bytes.data() + header.table_offset + 8 * 5, &far, 8);
  const auto fixed = with_checksums(bytes);
  const ShardReader shard(fixed, "x", false);
  EXPECT_THAT(error_of([&] { shard.document_tokens(4); }), HasSubstr("document 4"));
  EXPECT_THAT(error_of([&] { shard.document_tokens(5); }), HasSubstr("document 5"));
  EXPECT_EQ(shard.document_tokens(6), 6);
}

TEST(Shard, OtherFilesAreNamed) {
  const TempDir dir;
  EXPECT_THAT(error_of([&] { describe_shard(dir.path() / "missing.rqs"); }), HasSubstr("missing.rqs"));
  EXPECT_THAT(error_of([&] { describe_shard(dir.write("text.rqs", std::string(5000, 'x'))); }), HasSubstr("no token shard"));
  EXPECT_THAT(error_of([&] { describe_shard(dir.write("empty.rqs", "")); }), HasSubstr("0 bytes"));
}

}  // namespace
}  // namespace rorqual
