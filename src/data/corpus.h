// Where text comes from: files, folders and compressed files behind `--data PATH[=WEIGHT]`, read as documents.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/threads.h"

namespace rorqual {

// One `--data` argument.
struct DataSpec {
  std::filesystem::path path;
  double weight = 1.0;  // relative to the other sources; finite and above 0
};

// "PATH" or "PATH=WEIGHT". A file or folder whose name itself is the whole text wins over the second reading.
// Error (usage): an empty path, a weight that is no finite number above 0.
DataSpec parse_data_spec(std::string_view text);

enum class TextKind { kText, kJsonLines };  // one document per file; one per line, in the field "text"
enum class Compression { kNone, kGzip, kZstandard };

struct CorpusFile {
  std::filesystem::path path;
  std::string name;   // relative to the source; for a source that is a file, its file name
  int64_t bytes = 0;  // on disk
  int64_t modified_ns = 0;
  TextKind kind = TextKind::kText;
  Compression compression = Compression::kNone;
};

// One source of documents: a file or a folder, listed but not read.
struct CorpusSource {
  std::string description;  // the last component of the path as given: no absolute path
  std::filesystem::path path;
  double weight = 1.0;
  std::vector<CorpusFile> files;  // ascending by the bytes of `name`

  int64_t bytes() const;          // on disk
  uint64_t listing_hash() const;  // of names, sizes and times of change: whether the source is still the one it was
};

// Lists a source: folders recursively, without hidden files and folders; links are followed, each folder is entered once.
// Error (runtime): the path is missing or unreadable, or a folder holds no file.
CorpusSource open_source(const DataSpec& spec);
std::vector<CorpusSource> open_sources(const std::vector<DataSpec>& specs);

// What reading a source met.
struct CorpusCounts {
  int64_t files = 0;
  int64_t documents = 0;                         // delivered: not empty
  int64_t bytes = 0;                             // of their text
  int64_t empty_documents = 0;                   // skipped
  int64_t binary_files = 0;                      // skipped: they hold NUL bytes
  int64_t not_utf8_documents = 0;                // delivered as they are
  std::string binary_example, not_utf8_example;  // the first of each, "name" or "name:line"
};

// One warning line for each thing worth saying (not UTF-8, binary files, empty documents).
void warn_about(const CorpusSource& source, const CorpusCounts& counts);

struct Document {
  std::string text;   // raw bytes, never empty
  uint64_t hash = 0;  // content_hash(text)
  int64_t file = 0;   // index into CorpusSource::files
  int64_t line = 0;   // from 1 in a .jsonl file, 0 in a text file
};

// XXH3 of the text with a constant seed of its own; never changes, since the held-out split hangs on it.
uint64_t content_hash(std::string_view text);

// The held-out split: a function of the content alone, so that copies of a document fall on one side.
inline constexpr double kDefaultHeldoutFraction = 0.05;
bool is_heldout(uint64_t hash, double heldout_fraction);

// Reads a source batch by batch in the order of its files, decompressing and parsing on the stream's threads; what is
// delivered, and in what batches, does not depend on their number. The corpus is never in memory as a whole.
class CorpusReader {
 public:
  // `source` must outlive the reader.
  CorpusReader(const CorpusSource& source, const Stream& stream);
  ~CorpusReader();
  CorpusReader(const CorpusReader&) = delete;
  CorpusReader& operator=(const CorpusReader&) = delete;

  // The next documents in `batch` (replacing what it held); false at the end. A batch may be empty.
  // Error (runtime): an unreadable or damaged file, a line that is no JSON object with a string "text" (file and line).
  bool next(std::vector<Document>& batch);
  const CorpusCounts& counts() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// A sample of the training side for training a tokenizer: for each source the documents with the smallest hashes, copies
// once, up to max_bytes over all sources, shared by weight (a source too small leaves its share to the others). The last
// document of a source is cut to fit. Reads every source once. In order of source, then hash: independent of file order.
// Error (runtime): no document at all.
std::vector<std::string> sample_documents(const std::vector<CorpusSource>& sources, int64_t max_bytes, double heldout_fraction,
                                          const Stream& stream);

}  // namespace rorqual
