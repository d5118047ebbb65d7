#include "checkpoint/source_tensor.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "checkpoint/checkpoint_test_support.h"

namespace rorqual {
namespace {

// The compiler's own half precision is the reference.
TEST(SourceTensor, EveryHalfIsReadExactly) {
  constexpr int64_t kRows = 256, kCols = 256;
  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "halves.safetensors";
  std::string header = R"({"halves":{"dtype":"F16","shape":[256,256],"data_offsets":[0,131072]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  std::string text(8, '\0');
  text[0] = static_cast<char>(header.size());
  text += header;
  for (int bits = 0; bits < 1 << 16; ++bits) text += {static_cast<char>(bits & 0xff), static_cast<char>(bits >> 8)};
  overwrite(path, text);

  const SafetensorsFile opened(path);
  SourceTensor tensor;
  tensor.file = &opened;
  tensor.entry = &opened.entries().front();
  check_readable(tensor);
  std::vector<float> values(kRows * kCols);
  const int64_t first = 3;
  read_rows(tensor, 0, Tensor(values.data(), DType::kF32, first, kCols));
  read_rows(tensor, first, Tensor(values.data() + first * kCols, DType::kF32, kRows - first, kCols));
  for (size_t bits = 0; bits < values.size(); ++bits) {
    const auto expected = static_cast<float>(std::bit_cast<_Float16>(static_cast<uint16_t>(bits)));
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(values[bits])) << bits;
    } else {
      ASSERT_EQ(std::bit_cast<uint32_t>(values[bits]), std::bit_cast<uint32_t>(expected)) << bits;
    }
  }
}

}  // namespace
}  // namespace rorqual
