#include "data/corpus.h"

#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <set>
#include <system_error>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kContentSeed = 0x726f727175616c31;  // "rorqual1": the held-out split of every run hangs on it
constexpr uint64_t kHeldoutSeed = 0x68656c642d6f7574;  // "held-out"

bool ends_with_ignoring_case(std::string_view text, std::string_view ending) {
  return text.size() >= ending.size() &&
         std::equal(ending.begin(), ending.end(), text.end() - static_cast<ptrdiff_t>(ending.size()),
                    [](char e, char c) { return e == (c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c); });
}

void set_kind(CorpusFile& file) {
  std::string_view name = file.name;
  if (ends_with_ignoring_case(name, ".gz")) {
    file.compression = Compression::kGzip;
    name.remove_suffix(3);
  } else if (ends_with_ignoring_case(name, ".zst")) {
    file.compression = Compression::kZstandard;
    name.remove_suffix(4);
  }
  if (ends_with_ignoring_case(name, ".jsonl")) file.kind = TextKind::kJsonLines;
}

// stat() that follows links; false with errno set.
bool look_at(const fs::path& path, struct stat* info) {
  return ::stat(path.c_str(), info) == 0;
}

CorpusFile describe_file(const fs::path& path, std::string name, const struct stat& info) {
  CorpusFile file;
  file.path = path;
  file.name = std::move(name);
  file.bytes = info.st_size;
  file.modified_ns = int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec;
  set_kind(file);
  return file;
}

class FolderWalk {
 public:
  explicit FolderWalk(std::vector<CorpusFile>& files) : files_(files) {}

  // Links may point back up: a folder that was entered once, by whatever name, is not entered again. Names are taken in
  // order, so that which name wins does not hang on the file system.
  void enter(const fs::path& folder, const std::string& prefix) {
    struct stat info {};
    if (!look_at(folder, &info)) fail_unreadable(folder, std::strerror(errno));
    if (!entered_.emplace(info.st_dev, info.st_ino).second) return;
    std::error_code error;
    std::vector<std::string> names;
    for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
      std::string name = entry->path().filename().string();
      if (!name.starts_with('.')) names.push_back(std::move(name));
    }
    if (error) fail_unreadable(folder, error.message());
    std::sort(names.begin(), names.end());
    for (const std::string& name : names) {
      const fs::path path = folder / name;
      if (!look_at(path, &info)) continue;  // a link to nowhere
      if (S_ISDIR(info.st_mode)) {
        enter(path, prefix + name + "/");
      } else if (S_ISREG(info.st_mode)) {
        files_.push_back(describe_file(path, prefix + name, info));
      }
    }
  }

 private:
  [[noreturn]] static void fail_unreadable(const fs::path& folder, const std::string& why) {
    fail("cannot read folder {}: {}; make it readable or take it out of the data", folder.string(), why);
  }

  std::vector<CorpusFile>& files_;
  std::set<std::pair<dev_t, ino_t>> entered_;
};

std::string last_component(const fs::path& path) {
  const fs::path p = path.has_filename() ? path : path.parent_path();
  std::string name = p.filename().string();
  if (!name.empty() && name != "." && name != "..") return name;
  std::error_code error;
  const std::string canonical = fs::weakly_canonical(path, error).filename().string();
  return canonical.empty() ? "data" : canonical;
}

bool exists(const std::string& path) {
  struct stat info {};
  return look_at(path, &info);
}

}  // namespace

DataSpec parse_data_spec(std::string_view text) {
  if (text.empty()) fail_usage("--data has an empty path; give a file or folder, or PATH=WEIGHT");
  const size_t equals = text.rfind('=');
  if (equals == std::string_view::npos || exists(std::string(text))) return {fs::path(text), 1.0};
  const std::string_view path = text.substr(0, equals);
  const std::string_view number = text.substr(equals + 1);
  double weight = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), weight);
  const bool is_number = error == std::errc() && end == number.data() + number.size();
  if (path.empty()) fail_usage("--data {} has an empty path; give PATH=WEIGHT", text);
  if (!is_number || !std::isfinite(weight) || weight <= 0) {
    fail_usage(
        "--data {}: there is no such file or folder, and the weight \"{}\" is no number above 0; give PATH=WEIGHT such as "
        "{}=0.5",
        text, number, path);
  }
  return {fs::path(path), weight};
}

int64_t CorpusSource::bytes() const {
  int64_t sum = 0;
  for (const CorpusFile& file : files) sum += file.bytes;
  return sum;
}

uint64_t CorpusSource::listing_hash() const {
  std::string list;
  for (const CorpusFile& file : files) {
    list += fmt::format("{} {} {}", file.name, file.bytes, file.modified_ns);
    list.push_back('\0');
  }
  return hash_bytes(list.data(), static_cast<int64_t>(list.size()));
}

CorpusSource open_source(const DataSpec& spec) {
  CHECK(std::isfinite(spec.weight) && spec.weight > 0, "weight {}", spec.weight);
  CorpusSource source;
  source.path = spec.path;
  source.weight = spec.weight;
  source.description = last_component(spec.path);
  struct stat info {};
  if (!look_at(spec.path, &info)) {
    fail("cannot read the data {}: {}; check the path given with --data", spec.path.string(), std::strerror(errno));
  }
  if (S_ISDIR(info.st_mode)) {
    FolderWalk(source.files).enter(spec.path, "");
    std::sort(source.files.begin(), source.files.end(),
              [](const CorpusFile& a, const CorpusFile& b) { return a.name < b.name; });
    if (source.files.empty()) {
      fail("the folder {} holds no file (hidden ones are left out); put text, .jsonl, .gz or .zst files there",
           spec.path.string());
    }
  } else if (S_ISREG(info.st_mode)) {
    source.files.push_back(describe_file(spec.path, source.description, info));
  } else {
    fail("the data {} is neither a file nor a folder; give text, .jsonl, .gz or .zst files", spec.path.string());
  }
  return source;
}

std::vector<CorpusSource> open_sources(const std::vector<DataSpec>& specs) {
  std::vector<CorpusSource> sources;
  sources.reserve(specs.size());
  for (const DataSpec& spec : specs) sources.push_back(open_source(spec));
  return sources;
}

void warn_about(const CorpusSource& source, const CorpusCounts& counts) {
  const std::string path = source.path.string();
  if (counts.not_utf8_documents > 0) {
    warn("{}: {} of {} documents are not valid UTF-8 and are used byte for byte as they are, the first is {}", path,
         counts.not_utf8_documents, counts.documents, counts.not_utf8_example);
  }
  if (counts.binary_files > 0) {
    warn("{}: {} of {} files hold NUL bytes, so they are no text and are left out, the first is {}", path, counts.binary_files,
         counts.files, counts.binary_example);
  }
  if (counts.empty_documents > 0) warn("{}: {} empty documents are left out", path, counts.empty_documents);
}

uint64_t content_hash(std::string_view text) {
  return hash_bytes(text.data(), static_cast<int64_t>(text.size()), kContentSeed);
}

bool is_heldout(uint64_t hash, double heldout_fraction) {
  // Hashed once more: the sample for the tokenizer takes the smallest content hashes, and must not lean on the split.
  const uint64_t h = hash_bytes(&hash, sizeof hash, kHeldoutSeed);
  return static_cast<double>(h >> 11) * 0x1p-53 < heldout_fraction;
}

}  // namespace rorqual
