// GGUF files, version 3 (docs/formats/gguf.md): a header, typed metadata, a list of tensors, their bytes. Little-endian.
// Reading maps the file and checks every bound; writing is streamed and atomic.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/file.h"

namespace rorqual {

// How a tensor's elements are stored: by blocks of `block` elements of a row in `bytes` bytes each.
struct GgmlType {
  uint32_t id = 0;
  std::string_view name;
  int64_t block = 1, bytes = 4;
  // Of a row; its length is a multiple of the block.
  int64_t row_bytes(int64_t elements) const { return elements / block * bytes; }
  bool operator==(const GgmlType& other) const { return id == other.id; }
};
inline constexpr GgmlType kGgmlF32{0, "F32", 1, 4}, kGgmlBf16{30, "BF16", 1, 2}, kGgmlQ8{8, "Q8_0", 32, 34};

// Rows of FP32 values as F32, BF16 (rounded to nearest even) or Q8_0: of 32 values a scale, the largest magnitude / 127, in
// FP16 and 32 integers of 8 bits. A value that is not finite makes its block's scale NaN.
void encode_ggml(const GgmlType& type, const float* values, int64_t count, std::byte* out);
void decode_ggml(const GgmlType& type, const std::byte* in, int64_t count, float* values);

// A metadata value. Integers and floats keep the width that the file gives them in `type`.
struct GgufValue {
  enum class Type : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };
  Type type = Type::kU32;
  std::variant<uint64_t, int64_t, double, bool, std::string, std::vector<GgufValue>> value;
  Type element = Type::kU32;  // of an array

  static GgufValue of_u32(int64_t v) { return {Type::kU32, static_cast<uint64_t>(v), {}}; }
  static GgufValue of_u64(int64_t v) { return {Type::kU64, static_cast<uint64_t>(v), {}}; }
  static GgufValue of_f32(double v) { return {Type::kF32, v, {}}; }
  static GgufValue of_f64(double v) { return {Type::kF64, v, {}}; }
  static GgufValue of_bool(bool v) { return {Type::kBool, v, {}}; }
  static GgufValue of_string(std::string v) { return {Type::kString, std::move(v), {}}; }
  static GgufValue of_strings(const std::vector<std::string>& v);
  static GgufValue of_i32s(const std::vector<int32_t>& v);
};
using GgufMetadata = std::vector<std::pair<std::string, GgufValue>>;  // in the order of the file

struct GgufTensor {
  std::string name;
  GgmlType type;
  std::vector<int64_t> shape;  // slowest dimension first, as everywhere else; the file has them the other way round
  int64_t begin = 0, end = 0;  // bytes within the data part
  int64_t count() const;
  int64_t bytes() const;
};

struct GgufHeader {
  uint32_t version = 3;
  int64_t alignment = 32;
  int64_t data_begin = 0;
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;
  const GgufValue* find(std::string_view key) const;
};

// Parses the header of a file of `file_bytes` bytes whose first bytes are `text` (at least the whole header). For readers and
// fuzzers. Error (runtime): what is wrong, and `where`.
GgufHeader parse_gguf(std::string_view text, int64_t file_bytes, const std::string& where);

class GgufFile {
 public:
  explicit GgufFile(const std::filesystem::path& path);
  const GgufHeader& header() const { return header_; }
  std::span<const std::byte> bytes(const GgufTensor& tensor) const;

 private:
  MappedFile map_;
  GgufHeader header_;
};

// Declares tensors first (name, type, shape), then streams their bytes in the same order, then commits. Bytes depend on the
// arguments alone.
class GgufWriter {
 public:
  struct Declaration {
    std::string name;
    GgmlType type;
    std::vector<int64_t> shape;
  };
  GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata, const std::vector<Declaration>& tensors);
  // The next values of the next tensor, any number of whole blocks.
  void write(const float* values, int64_t count);
  void commit();

 private:
  void pad();

  AtomicFile file_;
  std::vector<GgufTensor> tensors_;
  size_t next_ = 0;
  int64_t written_ = 0;  // values of tensor next_
  std::vector<std::byte> buffer_;
};

}  // namespace rorqual
