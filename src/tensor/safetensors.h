// safetensors files: an 8-byte little-endian header length, a JSON header, raw tensors. Reading maps the file and checks every
// bound; writing is streamed and atomic.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "tensor/tensor.h"

namespace rorqual {

struct SafetensorsEntry {
  std::string name;
  std::string dtype;  // as the file names it; types unknown to rorqual can still be listed
  std::vector<int64_t> shape;
  int64_t begin = 0, end = 0;  // bytes within the data part
  int64_t count() const;
};

class SafetensorsFile {
 public:
  // Error (runtime) for anything that is not a whole, consistent safetensors file: what and where.
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }  // in order of begin
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const SafetensorsEntry* find(const std::string& name) const;
  // The raw bytes of an entry, in the map.
  std::span<const std::byte> bytes(const SafetensorsEntry& entry) const;
  // The entry has been read and its memory can go; it may be read again all the same.
  void forget(const SafetensorsEntry& entry) const { map_.forget(bytes(entry)); }
  // A view [rows = product of all but the last dimension, cols]; the dtype must be one of ours, else an Error. Into the map;
  // the format aligns nothing, so what lies askew is copied once and kept. For one thread.
  Tensor tensor(const SafetensorsEntry& entry) const;
  // The tensor of that name, or an Error that names the file.
  Tensor tensor(const std::string& name) const;

 private:
  std::filesystem::path path_;
  MappedFile map_;
  std::vector<SafetensorsEntry> entries_;
  std::map<std::string, size_t> index_;
  std::map<std::string, std::string> metadata_;
  int64_t data_begin_ = 0;
  mutable std::map<int64_t, std::vector<std::byte>> aligned_;  // copies, by begin
};

// Parses the header of a file of `file_bytes` bytes whose first bytes are `text` (at least the whole header). For readers and
// fuzzers.
std::vector<SafetensorsEntry> parse_safetensors_header(std::string_view text, int64_t file_bytes, const std::string& where,
                                                       std::map<std::string, std::string>* metadata, int64_t* data_begin);

// Declares tensors first, then streams their bytes in the same order, then commits. Bytes depend on the arguments alone.
class SafetensorsWriter {
 public:
  struct Declaration {
    std::string name;
    DType dtype{};
    std::vector<int64_t> shape;
  };
  SafetensorsWriter(const std::filesystem::path& path, const std::vector<Declaration>& tensors,
                    const std::map<std::string, std::string>& metadata);
  // The next values of the next tensor, as many rows of it as the caller has at hand, converted to its declared dtype if that
  // differs from theirs.
  void write(const Tensor& values);
  void commit();

 private:
  AtomicFile file_;
  std::vector<Declaration> tensors_;
  size_t next_ = 0;
  int64_t written_ = 0;  // values of tensor next_
};

}  // namespace rorqual
