// For the tests of corpora, shards and datasets: folders that go away, compressed files, a tokenizer of bytes.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "data/corpus_tokens.h"

namespace rorqual::testing {

class TempDir {
 public:
  TempDir() {
    std::string name = (std::filesystem::temp_directory_path() / "rorqual-data.XXXXXX").string();
    CHECK(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::filesystem::path& path() const { return path_; }

  std::filesystem::path write(const std::string& name, const std::string& bytes) const {
    std::filesystem::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << bytes;
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

inline std::string gzip(const std::string& text) {
  z_stream stream{};
  CHECK(deflateInit2(&stream, 6, Z_DEFLATED, MAX_WBITS + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string out(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  CHECK(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

// With a checksum of the content, as the command-line program writes them.
inline std::string zstandard(const std::string& text) {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
  std::string out(ZSTD_compressBound(text.size()), '\0');
  const size_t n = ZSTD_compress2(context, out.data(), out.size(), text.data(), text.size());
  ZSTD_freeCCtx(context);
  CHECK(!ZSTD_isError(n));
  out.resize(n);
  return out;
}

// Token = byte + 10; the ids below are special.
inline constexpr int32_t kByteBase = 10;
inline constexpr int64_t kByteVocab = 266;
inline constexpr uint64_t kByteFingerprint = 0xfeedbeef;

inline Encoder byte_encoder() {
  return {.encode =
              [](std::string_view text) {
                std::vector<int32_t> ids;
                for (const char c : text) ids.push_back(kByteBase + static_cast<unsigned char>(c));
                return ids;
              },
          .fingerprint = kByteFingerprint,
          .vocab_size = kByteVocab};
}

inline TokenIds byte_ids() {
  return {.bos = 0,
          .eos = 1,
          .fim_begin = 2,
          .fim_hole = 3,
          .fim_end = 4,
          .vocab_size = kByteVocab,
          .tokenizer_fingerprint = kByteFingerprint};
}

// The message of the Error that `body` throws; a failure if it throws none.
inline std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "no Error";
  return {};
}

struct Threads {
  explicit Threads(int threads) : pool(threads), stream(pool) {}
  ThreadPool pool;
  Stream stream;
};

// All documents of a source.
inline std::vector<Document> read_all(const CorpusSource& source, int threads = 2, CorpusCounts* counts = nullptr) {
  const Threads two(threads);
  CorpusReader reader(source, two.stream);
  std::vector<Document> all, batch;
  while (reader.next(batch)) std::move(batch.begin(), batch.end(), std::back_inserter(all));
  if (counts != nullptr) *counts = reader.counts();
  return all;
}

inline std::vector<std::string> texts(const std::vector<Document>& documents) {
  std::vector<std::string> result;
  for (const Document& document : documents) result.push_back(document.text);
  return result;
}

// Every file of a folder with its bytes.
inline std::vector<std::pair<std::string, std::string>> folder_bytes(const std::filesystem::path& folder) {
  std::vector<std::pair<std::string, std::string>> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) files.emplace_back(entry.path().filename().string(), read_file(entry.path()));
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace rorqual::testing
