// Reads arbitrary bytes as the text of a safetensors file. Whatever is accepted must tile the data part exactly, each tensor
// with as many bytes as its shape asks for. Half of the inputs get a header length that fits, or the JSON is seldom reached.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "base/error.h"
#include "tensor/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  std::string text(reinterpret_cast<const char*>(data + 1), size - 1);
  if (data[0] % 2 == 1) {
    const uint64_t header = text.size() - text.size() / 256 * (data[0] / 2);
    std::string framed(sizeof header, '\0');
    std::memcpy(framed.data(), &header, sizeof header);
    text = framed + text;
  }
  try {
    std::map<std::string, std::string> metadata;
    int64_t begin = 0;
    const auto bytes = static_cast<int64_t>(text.size());
    const auto entries = rorqual::parse_safetensors_header(text, bytes, "fuzz", &metadata, &begin);
    int64_t end = 0;
    for (const auto& e : entries) {
      if (e.begin != end || e.end < e.begin || e.count() < 0 || e.count() > e.end - e.begin) std::abort();
      end = e.end;
    }
    if (begin + end != bytes) std::abort();
  } catch (const rorqual::Error&) {
  }
  return 0;
}
