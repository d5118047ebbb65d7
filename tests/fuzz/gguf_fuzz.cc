// Reads arbitrary bytes as a GGUF file. Whatever is accepted must have its tensors inside the file, one behind the other, and
// values of the kinds that the types promise.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "tensor/gguf.h"

namespace {

using rorqual::GgufValue;

// The alternative of GgufValue::value that holds values of this type.
size_t alternative(GgufValue::Type type) {
  using Type = GgufValue::Type;
  switch (type) {
    case Type::kU8:
    case Type::kU16:
    case Type::kU32:
    case Type::kU64:
      return 0;
    case Type::kI8:
    case Type::kI16:
    case Type::kI32:
    case Type::kI64:
      return 1;
    case Type::kF32:
    case Type::kF64:
      return 2;
    case Type::kBool:
      return 3;
    case Type::kString:
      return 4;
    case Type::kArray:
      return 5;
  }
  std::abort();
}

void check(const GgufValue& v) {
  if (v.value.index() != alternative(v.type)) std::abort();
  if (v.type != GgufValue::Type::kArray) return;
  for (const GgufValue& e : std::get<std::vector<GgufValue>>(v.value)) {
    if (e.type != v.element) std::abort();
    check(e);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const auto bytes = static_cast<int64_t>(size);
    const rorqual::GgufHeader h = rorqual::parse_gguf(text, bytes, "fuzz");
    int64_t end = 0;
    for (const auto& t : h.tensors) {
      if (t.begin < end || t.begin % h.alignment != 0 || t.count() < 0 || t.end - t.begin != t.bytes()) std::abort();
      if (h.data_begin + t.end > bytes) std::abort();
      end = t.end;
    }
    for (const auto& [key, value] : h.metadata) check(value);
  } catch (const rorqual::Error&) {
  }
  return 0;
}
