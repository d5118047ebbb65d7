#include <algorithm>
#include <cstring>
#include <exception>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "data/corpus.h"
#include "data/corpus_input.h"
#include "data/corpus_text.h"

namespace rorqual {
namespace {

// A batch is made of whole files up to these sums, or of a part of one large .jsonl file. They bound memory and are part of
// no result.
constexpr int64_t kBatchFileBytes = int64_t{16} << 20;
constexpr size_t kBatchFiles = 1024;
constexpr size_t kPartBytes = size_t{32} << 20;

struct RawDocument {
  std::string bytes;  // a text, or a line of JSON
  int64_t file = 0;
  int64_t line = 0;
};

struct FileResult {
  std::vector<RawDocument> documents;
  bool binary = false;
  std::exception_ptr error;
};

bool is_blank(std::string_view line) {
  return line.find_first_not_of(" \t\r") == std::string_view::npos;
}

// Appends the lines of `text` that are not blank; returns the number of the line behind them.
int64_t split_lines(std::string_view text, int64_t file, int64_t line, std::vector<RawDocument>& out) {
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    if (!is_blank(text.substr(0, end))) out.push_back({std::string(text.substr(0, end)), file, line});
    text.remove_prefix(std::min(end + 1, text.size()));
    ++line;
  }
  return line;
}

}  // namespace

struct CorpusReader::State {
  const CorpusSource& source;
  const Stream& stream;
  CorpusCounts counts;
  size_t next_file = 0;
  // A large .jsonl file that is being read in parts.
  std::unique_ptr<CorpusInput> open;
  std::string rest;
  int64_t line = 1;

  std::string place(const RawDocument& raw) const {
    const std::string& name = source.files[static_cast<size_t>(raw.file)].name;
    return raw.line > 0 ? fmt::format("{}:{}", name, raw.line) : name;
  }

  void read_whole(int64_t index, FileResult& result) const;
  void read_group(std::vector<RawDocument>& raws);
  void read_part(std::vector<RawDocument>& raws);
  std::string parse_line(const RawDocument& raw, bool* utf8) const;
  void finish(std::vector<RawDocument>& raws, std::vector<Document>& batch);
};

void CorpusReader::State::read_whole(int64_t index, FileResult& result) const {
  const CorpusFile& file = source.files[static_cast<size_t>(index)];
  std::string text = read_corpus_file(file);
  if (file.kind == TextKind::kJsonLines) {
    split_lines(text, index, 1, result.documents);
  } else if (std::memchr(text.data(), 0, text.size()) != nullptr) {
    result.binary = true;
  } else {
    result.documents.push_back({std::move(text), index, 0});
  }
}

void CorpusReader::State::read_group(std::vector<RawDocument>& raws) {
  const size_t first = next_file;
  int64_t bytes = 0;
  while (next_file < source.files.size() && next_file - first < kBatchFiles) {
    const CorpusFile& file = source.files[next_file];
    const bool large = file.bytes > kBatchFileBytes;
    if (next_file > first && (large || bytes + file.bytes > kBatchFileBytes)) break;
    if (large && file.kind == TextKind::kJsonLines) {
      open = open_corpus_input(file);
      rest.clear();
      line = 1;
      ++next_file;
      ++counts.files;
      read_part(raws);
      return;
    }
    bytes += file.bytes;
    ++next_file;
  }
  std::vector<FileResult> results(next_file - first);
  stream.parallel(static_cast<int64_t>(results.size()), [&](int64_t i) {
    FileResult& result = results[static_cast<size_t>(i)];
    try {
      read_whole(static_cast<int64_t>(first) + i, result);
    } catch (...) {
      result.error = std::current_exception();  // the first bad file in order is reported, not the first in time
    }
  });
  for (size_t i = 0; i < results.size(); ++i) {
    if (results[i].error) std::rethrow_exception(results[i].error);
    ++counts.files;
    if (results[i].binary && counts.binary_files++ == 0) counts.binary_example = source.files[first + i].name;
    std::move(results[i].documents.begin(), results[i].documents.end(), std::back_inserter(raws));
  }
}

void CorpusReader::State::read_part(std::vector<RawDocument>& raws) {
  const int64_t index = static_cast<int64_t>(next_file) - 1;
  bool at_end = false;
  size_t wanted = kPartBytes;
  for (;;) {
    size_t done = rest.size();
    rest.resize(std::max(wanted, done + 1));
    while (done < rest.size()) {
      const size_t n = open->read(rest.data() + done, rest.size() - done);
      if (n == 0) break;
      done += n;
    }
    at_end = done < rest.size();
    rest.resize(done);
    if (at_end || rest.find('\n') != std::string::npos) break;
    wanted = rest.size() * 2;  // a line longer than a part
  }
  const size_t whole_lines = at_end ? rest.size() : rest.rfind('\n') + 1;
  line = split_lines(std::string_view(rest).substr(0, whole_lines), index, line, raws);
  rest.erase(0, whole_lines);
  if (at_end) open.reset();
}

std::string CorpusReader::State::parse_line(const RawDocument& raw, bool* utf8) const {
  const auto bad = [&](const std::string& why) {
    const CorpusFile& file = source.files[static_cast<size_t>(raw.file)];
    fail("{}, line {}: {}; each line must be a JSON object with the text in a string \"text\"", file.path.string(), raw.line,
         why);
  };
  std::string escaped;
  *utf8 = is_utf8(raw.bytes);
  if (!*utf8 && !escape_invalid_utf8(raw.bytes, escaped)) bad("it is not UTF-8 and uses code points that stand for such bytes");
  const std::string& text = *utf8 ? raw.bytes : escaped;
  nlohmann::json value;
  try {
    value = nlohmann::json::parse(text);
  } catch (const nlohmann::json::exception& error) {
    std::string_view why = error.what();  // "[json.exception.parse_error.101] parse error at ...: ..."
    why.remove_prefix(std::min(why.size(), why.find("] ") == std::string_view::npos ? 0 : why.find("] ") + 2));
    bad(fmt::format("no valid JSON ({})", why));
  }
  if (!value.is_object()) bad(fmt::format("it holds {} instead of an object", value.type_name()));
  const auto found = value.find("text");
  if (found == value.end()) bad("the object has no \"text\"");
  if (!found->is_string()) bad(fmt::format("\"text\" is {}, not a string", found->type_name()));
  std::string& result = found->get_ref<std::string&>();
  return *utf8 ? std::move(result) : unescape_invalid_utf8(result);
}

void CorpusReader::State::finish(std::vector<RawDocument>& raws, std::vector<Document>& batch) {
  batch.resize(raws.size());
  std::vector<char> utf8(raws.size(), 1);
  std::vector<std::exception_ptr> errors(raws.size());
  constexpr int64_t kPerTask = 16;
  const int64_t count = static_cast<int64_t>(raws.size());
  stream.parallel((count + kPerTask - 1) / kPerTask, [&](int64_t task) {
    for (int64_t i = task * kPerTask; i < std::min(count, (task + 1) * kPerTask); ++i) {
      const auto at = static_cast<size_t>(i);
      Document& document = batch[at];
      try {
        bool valid = true;
        if (raws[at].line > 0) {
          document.text = parse_line(raws[at], &valid);
        } else {
          document.text = std::move(raws[at].bytes);
          valid = is_utf8(document.text);
        }
        utf8[at] = valid;
      } catch (...) {
        errors[at] = std::current_exception();
      }
      document.hash = content_hash(document.text);
      document.file = raws[at].file;
      document.line = raws[at].line;
    }
  });
  for (size_t i = 0; i < raws.size(); ++i) {
    if (errors[i]) std::rethrow_exception(errors[i]);
    if (batch[i].text.empty()) {
      ++counts.empty_documents;
      continue;
    }
    ++counts.documents;
    counts.bytes += static_cast<int64_t>(batch[i].text.size());
    if (!utf8[i] && counts.not_utf8_documents++ == 0) counts.not_utf8_example = place(raws[i]);
  }
  std::erase_if(batch, [](const Document& document) { return document.text.empty(); });
}

CorpusReader::CorpusReader(const CorpusSource& source, const Stream& stream)
    : state_(new State{
          .source = source, .stream = stream, .counts = {}, .next_file = 0, .open = nullptr, .rest = {}, .line = 1}) {}
CorpusReader::~CorpusReader() = default;

bool CorpusReader::next(std::vector<Document>& batch) {
  batch.clear();
  if (!state_->open && state_->next_file == state_->source.files.size()) return false;
  std::vector<RawDocument> raws;
  if (state_->open) {
    state_->read_part(raws);
  } else {
    state_->read_group(raws);
  }
  state_->finish(raws, batch);
  return true;
}

const CorpusCounts& CorpusReader::counts() const {
  return state_->counts;
}

}  // namespace rorqual
