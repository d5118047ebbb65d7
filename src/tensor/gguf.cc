#include "tensor/gguf.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <set>

#include "base/error.h"
#include "numerics/bf16.h"

namespace rorqual {
namespace {

using Type = GgufValue::Type;
constexpr std::string_view kMagic = "GGUF";
constexpr int64_t kAlignment = 32;  // unless general.alignment says otherwise
constexpr size_t kMostDimensions = 4;

// Every type that files in the wild have; what we do not compute with can still be listed.
constexpr std::array<GgmlType, 34> kTypes = {
    {{0, "F32", 1, 4},         {1, "F16", 1, 2},         {2, "Q4_0", 32, 18},      {3, "Q4_1", 32, 20},
     {6, "Q5_0", 32, 22},      {7, "Q5_1", 32, 24},      {8, "Q8_0", 32, 34},      {9, "Q8_1", 32, 36},
     {10, "Q2_K", 256, 84},    {11, "Q3_K", 256, 110},   {12, "Q4_K", 256, 144},   {13, "Q5_K", 256, 176},
     {14, "Q6_K", 256, 210},   {15, "Q8_K", 256, 292},   {16, "IQ2_XXS", 256, 66}, {17, "IQ2_XS", 256, 74},
     {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50},   {20, "IQ4_NL", 32, 18},   {21, "IQ3_S", 256, 110},
     {22, "IQ2_S", 256, 82},   {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1},         {25, "I16", 1, 2},
     {26, "I32", 1, 4},        {27, "I64", 1, 8},        {28, "F64", 1, 8},        {29, "IQ1_M", 256, 56},
     {30, "BF16", 1, 2},       {34, "TQ1_0", 256, 54},   {35, "TQ2_0", 256, 66},   {39, "MXFP4", 32, 17},
     {40, "NVFP4", 64, 36},    {41, "Q1_0", 128, 18}}};

// Of a scalar; 0 for strings and arrays.
constexpr int64_t bytes_of(Type type) {
  constexpr std::array<int64_t, 13> bytes = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return bytes[static_cast<size_t>(type)];
}

class Reader {
 public:
  Reader(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  template <class T>
  T read(const char* what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }
  std::string_view string(const char* what) { return take(read<uint64_t>(what), what); }

  GgufValue value(Type type, const std::string& key) {
    GgufValue v;
    v.type = type;
    switch (type) {
      case Type::kU8:
        v.value = uint64_t{read<uint8_t>(key.c_str())};
        break;
      case Type::kU16:
        v.value = uint64_t{read<uint16_t>(key.c_str())};
        break;
      case Type::kU32:
        v.value = uint64_t{read<uint32_t>(key.c_str())};
        break;
      case Type::kU64:
        v.value = read<uint64_t>(key.c_str());
        break;
      case Type::kI8:
        v.value = int64_t{read<int8_t>(key.c_str())};
        break;
      case Type::kI16:
        v.value = int64_t{read<int16_t>(key.c_str())};
        break;
      case Type::kI32:
        v.value = int64_t{read<int32_t>(key.c_str())};
        break;
      case Type::kI64:
        v.value = read<int64_t>(key.c_str());
        break;
      case Type::kF32:
        v.value = double{read<float>(key.c_str())};
        break;
      case Type::kF64:
        v.value = read<double>(key.c_str());
        break;
      case Type::kBool:
        v.value = read<uint8_t>(key.c_str()) != 0;
        break;
      case Type::kString:
        v.value = std::string(string(key.c_str()));
        break;
      case Type::kArray:
        array(key, v);
        break;
    }
    return v;
  }
  Type type(const std::string& key) {
    const auto id = read<uint32_t>(key.c_str());
    if (id > static_cast<uint32_t>(Type::kF64)) fail("{}: metadata '{}' has the unknown type {}", where_, key, id);
    return static_cast<Type>(id);
  }
  int64_t position() const { return static_cast<int64_t>(at_); }
  int64_t left() const { return static_cast<int64_t>(text_.size() - at_); }

 private:
  std::string_view take(uint64_t bytes, const char* what) {
    if (bytes > text_.size() - at_) fail("{}: it ends at byte {}, inside {}: truncated or damaged", where_, text_.size(), what);
    const std::string_view part = text_.substr(at_, bytes);
    at_ += bytes;
    return part;
  }
  void array(const std::string& key, GgufValue& v) {
    v.element = type(key);
    if (v.element == Type::kArray) fail("{}: metadata '{}' is an array of arrays, which no reader knows", where_, key);
    const auto count = read<uint64_t>(key.c_str());
    const int64_t least = std::max<int64_t>(bytes_of(v.element), v.element == Type::kString ? 8 : 1);
    if (count > static_cast<uint64_t>(left() / least))
      fail("{}: metadata '{}' claims {} elements, the file has {} bytes left: truncated or damaged", where_, key, count,
           left());
    std::vector<GgufValue> elements;
    elements.reserve(count);
    for (uint64_t i = 0; i < count; ++i) elements.push_back(value(v.element, key));
    v.value = std::move(elements);
  }

  std::string_view text_;
  const std::string& where_;
  size_t at_ = 0;
};

int64_t aligned(int64_t bytes, int64_t alignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

GgufTensor read_tensor(Reader& in, const std::string& where) {
  GgufTensor t;
  t.name = in.string("the name of a tensor");
  const auto dimensions = in.read<uint32_t>("the dimensions of a tensor");
  if (dimensions == 0 || dimensions > kMostDimensions)
    fail("{}: tensor '{}' has {} dimensions; 1 to {} are possible", where, t.name, dimensions, kMostDimensions);
  int64_t count = 1;
  for (uint32_t d = 0; d < dimensions; ++d) {
    const auto n = in.read<uint64_t>("the dimensions of a tensor");
    if (n == 0) fail("{}: tensor '{}' is empty", where, t.name);
    if (n > static_cast<uint64_t>(INT64_MAX) || __builtin_mul_overflow(count, static_cast<int64_t>(n), &count) ||
        count > INT64_MAX / 16)
      fail("{}: tensor '{}' is too large", where, t.name);
    t.shape.insert(t.shape.begin(), static_cast<int64_t>(n));
  }
  const auto id = in.read<uint32_t>("the type of a tensor");
  const auto type = std::find_if(kTypes.begin(), kTypes.end(), [&](const GgmlType& k) { return k.id == id; });
  if (type == kTypes.end()) fail("{}: tensor '{}' has the unknown type {}", where, t.name, id);
  t.type = *type;
  if (t.shape.back() % t.type.block != 0)
    fail("{}: tensor '{}' has rows of {} elements, {} comes in blocks of {}", where, t.name, t.shape.back(), t.type.name,
         t.type.block);
  const auto begin = in.read<uint64_t>("the place of a tensor");
  if (begin > static_cast<uint64_t>(INT64_MAX / 2)) fail("{}: tensor '{}' begins beyond every file", where, t.name);
  t.begin = static_cast<int64_t>(begin);
  t.end = t.begin + t.bytes();
  return t;
}

// Tensors follow each other, each at the next multiple of the alignment.
void check_places(const GgufHeader& h, int64_t file_bytes, const std::string& where) {
  int64_t end = 0;
  std::set<std::string_view> names;
  for (const GgufTensor& t : h.tensors) {
    if (!names.insert(t.name).second) fail("{}: tensor '{}' is there twice", where, t.name);
    if (t.begin != aligned(end, h.alignment))
      fail("{}: tensor '{}' begins at byte {}, expected {}", where, t.name, t.begin, aligned(end, h.alignment));
    end = t.end;
    if (end > file_bytes - h.data_begin)
      fail("{}: tensor '{}' ends at byte {} of {}: the file is truncated; copy or download it again", where, t.name,
           h.data_begin + end, file_bytes);
  }
}

void append(std::string& out, const void* data, size_t bytes) {
  out.append(static_cast<const char*>(data), bytes);
}
template <class T>
void append_value(std::string& out, T value) {
  append(out, &value, sizeof(T));
}
void append_string(std::string& out, std::string_view text) {
  append_value(out, static_cast<uint64_t>(text.size()));
  out += text;
}

void append_value(std::string& out, const GgufValue& v) {
  switch (v.type) {
    case Type::kF32:
      return append_value(out, static_cast<float>(std::get<double>(v.value)));
    case Type::kF64:
      return append_value(out, std::get<double>(v.value));
    case Type::kBool:
      return append_value(out, static_cast<uint8_t>(std::get<bool>(v.value)));
    case Type::kString:
      return append_string(out, std::get<std::string>(v.value));
    case Type::kArray: {
      const auto& elements = std::get<std::vector<GgufValue>>(v.value);
      append_value(out, static_cast<uint32_t>(v.element));
      append_value(out, static_cast<uint64_t>(elements.size()));
      for (const GgufValue& e : elements) append_value(out, e);
      return;
    }
    default: {
      // Integers: the low bytes of the two's complement.
      const uint64_t bits = std::holds_alternative<int64_t>(v.value) ? static_cast<uint64_t>(std::get<int64_t>(v.value))
                                                                     : std::get<uint64_t>(v.value);
      append(out, &bits, static_cast<size_t>(bytes_of(v.type)));
    }
  }
}

// FP16, round to nearest even; beyond its range infinite, NaN stays.
uint16_t to_half(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const float magnitude = std::bit_cast<float>(bits & 0x7fffffffu);
  if (magnitude != magnitude) return sign | 0x7e00u;
  if (magnitude >= 65520.0f) return sign | 0x7c00u;
  // Below 2^-14 the last bit weighs 2^-24: adding 0.5 leaves it at the end of the mantissa.
  if (magnitude < 0x1p-14f) return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(magnitude + 0.5f) - 0x3f000000u));
  const uint32_t m = bits & 0x7fffffffu;
  const uint32_t rounded = m + 0xfffu + (m >> 13 & 1u);
  return static_cast<uint16_t>(sign | ((rounded >> 13) - (112u << 10)));
}

float from_half(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16, exponent = half >> 10 & 31u, fraction = half & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | fraction << 13);
  if (exponent == 0) return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(static_cast<float>(fraction) * 0x1p-24f));
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

void encode_q8_block(const float* x, std::byte* out) {
  float amax = 0;
  for (int i = 0; i < 32; ++i)
    if (const float magnitude = std::abs(x[i]); magnitude > amax || std::isnan(magnitude)) amax = magnitude;  // a NaN stays
  const float scale = std::isfinite(amax) ? amax / 127 : std::bit_cast<float>(0x7fc00000u);
  const uint16_t half = to_half(scale);
  std::memcpy(out, &half, sizeof half);
  const float inverse = scale > 0 ? 1 / scale : 0;  // 0 for NaN too
  for (int i = 0; i < 32; ++i) {
    const float q = inverse > 0 ? std::round(x[i] * inverse) : 0;
    out[2 + i] = static_cast<std::byte>(static_cast<int8_t>(std::clamp(q, -127.0f, 127.0f)));
  }
}

}  // namespace

void encode_ggml(const GgmlType& type, const float* values, int64_t count, std::byte* out) {
  CHECK(count % type.block == 0, "{} values of {}", count, type.name);
  if (type == kGgmlF32) {
    std::memcpy(out, values, static_cast<size_t>(count) * sizeof(float));
  } else if (type == kGgmlBf16) {
    for (int64_t i = 0; i < count; ++i) {
      const Bf16 rounded(values[i]);
      std::memcpy(out + 2 * i, &rounded, sizeof rounded);
    }
  } else {
    CHECK(type == kGgmlQ8, "cannot write {}", type.name);
    for (int64_t i = 0; i < count / 32; ++i) encode_q8_block(values + 32 * i, out + 34 * i);
  }
}

void decode_ggml(const GgmlType& type, const std::byte* in, int64_t count, float* values) {
  CHECK(count % type.block == 0, "{} values of {}", count, type.name);
  if (type == kGgmlF32) {
    std::memcpy(values, in, static_cast<size_t>(count) * sizeof(float));
  } else if (type == kGgmlBf16) {
    for (int64_t i = 0; i < count; ++i) {
      Bf16 value;
      std::memcpy(&value, in + 2 * i, sizeof value);
      values[i] = static_cast<float>(value);
    }
  } else {
    CHECK(type == kGgmlQ8, "cannot read {}", type.name);
    for (int64_t i = 0; i < count; ++i) {
      uint16_t half = 0;
      std::memcpy(&half, in + i / 32 * 34, sizeof half);
      values[i] = from_half(half) * static_cast<float>(static_cast<int8_t>(in[i / 32 * 34 + 2 + i % 32]));
    }
  }
}

GgufValue GgufValue::of_strings(const std::vector<std::string>& v) {
  std::vector<GgufValue> elements;
  for (const std::string& s : v) elements.push_back(of_string(s));
  return {Type::kArray, std::move(elements), Type::kString};
}

GgufValue GgufValue::of_i32s(const std::vector<int32_t>& v) {
  std::vector<GgufValue> elements;
  for (const int32_t i : v) elements.push_back({Type::kI32, int64_t{i}, {}});
  return {Type::kArray, std::move(elements), Type::kI32};
}

int64_t GgufTensor::count() const {
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  return n;
}
int64_t GgufTensor::bytes() const {
  return type.row_bytes(count());
}

const GgufValue* GgufHeader::find(std::string_view key) const {
  for (const auto& [k, v] : metadata)
    if (k == key) return &v;
  return nullptr;
}

GgufHeader parse_gguf(std::string_view text, int64_t file_bytes, const std::string& where) {
  if (!text.starts_with(kMagic)) fail("{}: not a GGUF file", where);
  Reader in(text, where);
  in.read<uint32_t>("the magic");
  GgufHeader h;
  h.version = in.read<uint32_t>("the version");
  if (h.version != 2 && h.version != 3) fail("{}: GGUF version {}; 2 and 3 are known", where, h.version);
  const auto tensors = in.read<uint64_t>("the number of tensors"), values = in.read<uint64_t>("the number of metadata values");
  std::set<std::string> keys;
  for (uint64_t i = 0; i < values; ++i) {
    std::string key(in.string("a metadata key"));
    if (!keys.insert(key).second) fail("{}: metadata '{}' is there twice", where, key);
    const Type type = in.type(key);
    GgufValue value = in.value(type, key);
    h.metadata.emplace_back(std::move(key), std::move(value));
  }
  if (const GgufValue* a = h.find("general.alignment")) {
    const auto* n = std::get_if<uint64_t>(&a->value);
    if (n == nullptr || !std::has_single_bit(*n) || *n > (1u << 20))
      fail("{}: general.alignment is no power of two up to 2^20", where);
    h.alignment = static_cast<int64_t>(*n);
  }
  for (uint64_t i = 0; i < tensors; ++i) h.tensors.push_back(read_tensor(in, where));
  h.data_begin = aligned(in.position(), h.alignment);
  check_places(h, file_bytes, where);
  return h;
}

GgufFile::GgufFile(const std::filesystem::path& path) : map_(path) {
  const std::string_view text = map_.text();
  header_ = parse_gguf(text, static_cast<int64_t>(text.size()), path.string());
}

std::span<const std::byte> GgufFile::bytes(const GgufTensor& t) const {
  return map_.bytes().subspan(static_cast<size_t>(header_.data_begin + t.begin), static_cast<size_t>(t.bytes()));
}

GgufWriter::GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata, const std::vector<Declaration>& tensors)
    : file_(path) {
  std::string text(kMagic);
  append_value(text, uint32_t{3});
  append_value(text, static_cast<uint64_t>(tensors.size()));
  append_value(text, static_cast<uint64_t>(metadata.size()));
  for (const auto& [key, value] : metadata) {
    append_string(text, key);
    append_value(text, static_cast<uint32_t>(value.type));
    append_value(text, value);
  }
  int64_t begin = 0;
  for (const Declaration& d : tensors) {
    CHECK(!d.shape.empty() && d.shape.size() <= kMostDimensions && d.shape.back() % d.type.block == 0, "tensor {}", d.name);
    GgufTensor t{d.name, d.type, d.shape, begin, 0};
    t.end = begin + t.bytes();
    begin = aligned(t.end, kAlignment);
    append_string(text, t.name);
    append_value(text, static_cast<uint32_t>(t.shape.size()));
    for (auto n = t.shape.rbegin(); n != t.shape.rend(); ++n) append_value(text, static_cast<uint64_t>(*n));
    append_value(text, t.type.id);
    append_value(text, static_cast<uint64_t>(t.begin));
    tensors_.push_back(std::move(t));
  }
  file_.write(text);
  pad();
}

void GgufWriter::pad() {
  const std::string zeros(static_cast<size_t>(aligned(file_.position(), kAlignment) - file_.position()), '\0');
  file_.write(zeros);
}

void GgufWriter::write(const float* values, int64_t count) {
  CHECK(next_ < tensors_.size(), "more tensors written than declared");
  const GgufTensor& t = tensors_[next_];
  written_ += count;
  CHECK(written_ <= t.count(), "tensor {}: {} values for {}", t.name, written_, t.count());
  buffer_.resize(static_cast<size_t>(t.type.row_bytes(count)));
  encode_ggml(t.type, values, count, buffer_.data());
  file_.write(buffer_.data(), static_cast<int64_t>(buffer_.size()));
  if (written_ < t.count()) return;
  ++next_;
  written_ = 0;
  pad();
}

void GgufWriter::commit() {
  CHECK(next_ == tensors_.size(), "{} of {} tensors written", next_, tensors_.size());
  file_.commit();
}

}  // namespace rorqual
