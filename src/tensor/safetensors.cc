#include "tensor/safetensors.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"

namespace rorqual {
namespace {

using Json = nlohmann::json;
constexpr int64_t kMaximumHeader = 100'000'000;  // as the reference implementation
constexpr int64_t kAlign = 8;

// Bytes of one element; 0 for names that are not safetensors'.
int64_t element_bytes(const std::string& dtype) {
  static const std::map<std::string, int64_t> sizes = {{"F64", 8},     {"I64", 8},     {"U64", 8},  {"F32", 4}, {"I32", 4},
                                                       {"U32", 4},     {"F16", 2},     {"BF16", 2}, {"I16", 2}, {"U16", 2},
                                                       {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"I8", 1},   {"U8", 1},  {"BOOL", 1}};
  const auto it = sizes.find(dtype);
  return it == sizes.end() ? 0 : it->second;
}

int64_t integer(const Json& j, const std::string& where, const std::string& what) {
  if (!j.is_number_integer() || j.get<double>() < 0 || j.get<double>() > 9e18)
    fail("{}: {} is not a natural number", where, what);
  return j.get<int64_t>();
}

SafetensorsEntry parse_entry(const std::string& name, const Json& j, int64_t data_bytes, const std::string& where) {
  const std::string what = fmt::format("tensor '{}'", name);
  if (!j.is_object() || !j.contains("dtype") || !j.contains("shape") || !j.contains("data_offsets") ||
      !j["dtype"].is_string() || !j["shape"].is_array() || !j["data_offsets"].is_array() || j["data_offsets"].size() != 2)
    fail("{}: {} lacks dtype, shape or data_offsets", where, what);
  SafetensorsEntry e;
  e.name = name;
  e.dtype = j["dtype"].get<std::string>();
  const int64_t size = element_bytes(e.dtype);
  if (size == 0) fail("{}: {} has the unknown dtype '{}'", where, what, e.dtype);
  int64_t count = 1;
  for (const Json& n : j["shape"]) {
    e.shape.push_back(integer(n, where, what + "'s shape"));
    if (__builtin_mul_overflow(count, e.shape.back(), &count)) fail("{}: {} is too large", where, what);
  }
  e.begin = integer(j["data_offsets"][0], where, what + "'s offset");
  e.end = integer(j["data_offsets"][1], where, what + "'s offset");
  int64_t bytes = 0;
  if (__builtin_mul_overflow(count, size, &bytes) || e.end < e.begin || e.end - e.begin != bytes)
    fail("{}: {} has {} bytes, its shape asks for {}", where, what, e.end - e.begin, bytes);
  if (e.end > data_bytes)
    fail("{}: {} ends at byte {} of {}: the file is truncated; copy or download it again", where, what, e.end, data_bytes);
  return e;
}

}  // namespace

int64_t SafetensorsEntry::count() const {
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  return n;
}

std::vector<SafetensorsEntry> parse_safetensors_header(std::string_view text, int64_t file_bytes, const std::string& where,
                                                       std::map<std::string, std::string>* metadata, int64_t* data_begin) {
  uint64_t length = 0;
  if (text.size() < sizeof(length)) fail("{}: not a safetensors file: {} bytes are too few", where, file_bytes);
  std::memcpy(&length, text.data(), sizeof(length));
  if (length > kMaximumHeader || length + sizeof(length) > text.size())
    fail("{}: not a safetensors file, or truncated: its header claims {} bytes of {}", where, length, file_bytes);
  const Json header = Json::parse(text.substr(sizeof(length), length), nullptr, false);
  if (!header.is_object()) fail("{}: the safetensors header is not a JSON object", where);
  *data_begin = static_cast<int64_t>(length + sizeof(length));
  const int64_t data_bytes = file_bytes - *data_begin;
  std::vector<SafetensorsEntry> entries;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      if (!value.is_object()) fail("{}: __metadata__ is not an object", where);
      for (const auto& [k, v] : value.items())
        if (v.is_string() && metadata) (*metadata)[k] = v.get<std::string>();
      continue;
    }
    entries.push_back(parse_entry(name, value, data_bytes, where));
  }
  std::sort(entries.begin(), entries.end(),
            [](const auto& a, const auto& b) { return std::tie(a.begin, a.end) < std::tie(b.begin, b.end); });
  int64_t end = 0;
  for (const SafetensorsEntry& e : entries) {
    if (e.begin != end)
      fail("{}: tensor '{}' begins at byte {}, expected {}: gaps and overlaps are not allowed", where, e.name, e.begin, end);
    end = e.end;
  }
  if (end != data_bytes) fail("{}: {} bytes of tensors, the file holds {}: truncated or damaged", where, end, data_bytes);
  return entries;
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : path_(path), map_(path) {
  const std::string_view text = map_.text();
  entries_ = parse_safetensors_header(text, static_cast<int64_t>(text.size()), path.string(), &metadata_, &data_begin_);
  for (size_t i = 0; i < entries_.size(); ++i) index_[entries_[i].name] = i;
}

const SafetensorsEntry* SafetensorsFile::find(const std::string& name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &entries_[it->second];
}

std::span<const std::byte> SafetensorsFile::bytes(const SafetensorsEntry& e) const {
  return map_.bytes().subspan(static_cast<size_t>(data_begin_ + e.begin), static_cast<size_t>(e.end - e.begin));
}

Tensor SafetensorsFile::tensor(const SafetensorsEntry& e) const {
  for (const DType t : {DType::kF64, DType::kF32, DType::kBF16, DType::kI32, DType::kI64, DType::kU8}) {
    if (dtype_name(t) != e.dtype) continue;
    const int64_t cols = e.shape.empty() ? 1 : e.shape.back();
    std::span<const std::byte> values = bytes(e);
    if (reinterpret_cast<uintptr_t>(values.data()) % static_cast<uintptr_t>(size_of(t)) != 0)
      values = aligned_.try_emplace(e.begin, values.begin(), values.end()).first->second;
    return {const_cast<std::byte*>(values.data()), t, cols == 0 ? 0 : e.count() / cols, cols};
  }
  fail("{}: tensor '{}' has dtype {}; this command reads F64, F32, BF16 and integers", path_.string(), e.name, e.dtype);
}

Tensor SafetensorsFile::tensor(const std::string& name) const {
  const SafetensorsEntry* e = find(name);
  if (!e) fail("{}: it has no tensor '{}'", path_.string(), name);
  return tensor(*e);
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, const std::vector<Declaration>& tensors,
                                     const std::map<std::string, std::string>& metadata)
    : file_(path), tensors_(tensors) {
  std::string text = "{";  // by hand: an ordered JSON object looks for each key among all, and models have 10^5 tensors
  const auto member = [&](const std::string& key, const std::string& value) {
    text += fmt::format("{}{}:{}", text.size() > 1 ? "," : "", Json(key).dump(), value);
  };
  if (!metadata.empty()) member("__metadata__", Json(metadata).dump());
  std::set<std::string> names;
  int64_t offset = 0;
  for (const Declaration& t : tensors_) {
    int64_t bytes = size_of(t.dtype);
    for (const int64_t d : t.shape) bytes *= d;
    CHECK(names.insert(t.name).second, "tensor {} declared twice", t.name);
    member(t.name, fmt::format("{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", dtype_name(t.dtype),
                               fmt::join(t.shape, ","), offset, offset + bytes));
    offset += bytes;
  }
  text += "}";
  text.resize((text.size() + kAlign - 1) / kAlign * kAlign, ' ');  // tensors start aligned
  const uint64_t length = text.size();
  file_.write(&length, sizeof(length));
  file_.write(text);
}

void SafetensorsWriter::write(const Tensor& values) {
  CHECK(next_ < tensors_.size(), "more tensors written than declared");
  const Declaration& t = tensors_[next_];
  int64_t count = 1;
  for (const int64_t d : t.shape) count *= d;
  written_ += values.count();
  CHECK(written_ <= count, "tensor {}: {} values for {}", t.name, written_, count);
  if (written_ == count) {
    ++next_;
    written_ = 0;
  }
  if (values.dtype == t.dtype && values.contiguous()) {
    file_.write(values.data, values.bytes());
    return;
  }
  constexpr int64_t kBlock = 1 << 16;
  std::vector<std::byte> buffer;
  for (int64_t r = 0; r < values.rows; ++r) {
    if (values.dtype == t.dtype) {
      file_.write(values.raw_row(r), values.cols * size_of(t.dtype));
      continue;
    }
    visit_float(values.dtype, [&](auto from) {
      visit_float(t.dtype, [&](auto to) {
        using From = decltype(from);
        using To = decltype(to);
        for (int64_t begin = 0; begin < values.cols; begin += kBlock) {
          const int64_t n = std::min(kBlock, values.cols - begin);
          buffer.resize(static_cast<size_t>(n) * sizeof(To));
          To* out = reinterpret_cast<To*>(buffer.data());
          const std::byte* in = values.raw_row(r) + begin * static_cast<int64_t>(sizeof(From));
          for (int64_t i = 0; i < n; ++i) {
            From value;  // by memcpy: tensors of other programs' files may lie unaligned
            std::memcpy(&value, in + i * static_cast<int64_t>(sizeof(From)), sizeof(From));
            out[i] = static_cast<To>(static_cast<compute_t<From>>(value));
          }
          file_.write(buffer.data(), n * static_cast<int64_t>(sizeof(To)));
        }
      });
    });
  }
}

void SafetensorsWriter::commit() {
  CHECK(next_ == tensors_.size(), "{} of {} tensors written", next_, tensors_.size());
  file_.commit();
}

}  // namespace rorqual
