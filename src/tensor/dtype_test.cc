#include "tensor/dtype.h"

#include <gtest/gtest.h>

#include "tensor/tensor.h"

namespace rorqual {
namespace {

template <class T>
void expect_dtype(DType dtype, std::string_view name) {
  EXPECT_EQ(dtype_of<T>(), dtype);
  EXPECT_EQ(size_of(dtype), static_cast<int64_t>(sizeof(T)));
  EXPECT_EQ(dtype_name(dtype), name);
}

TEST(DType, SizesAndSafetensorsNames) {
  expect_dtype<double>(DType::kF64, "F64");
  expect_dtype<float>(DType::kF32, "F32");
  expect_dtype<Bf16>(DType::kBF16, "BF16");
  expect_dtype<int32_t>(DType::kI32, "I32");
  expect_dtype<int64_t>(DType::kI64, "I64");
  expect_dtype<uint8_t>(DType::kU8, "U8");
}

TEST(DType, VisitsFloatingPointAlone) {
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kBF16})
    EXPECT_EQ(visit_float(dtype, [](auto zero) { return dtype_of<decltype(zero)>(); }), dtype);
  EXPECT_DEATH(visit_float(DType::kI32, [](auto) {}), "not a floating-point dtype: I32");
  static_assert(std::is_same_v<compute_t<double>, double> && std::is_same_v<compute_t<Bf16>, float>);
}

TEST(Tensor, ViewsShareMemory) {
  float data[3 * 8] = {};
  for (int i = 0; i < 24; ++i) data[i] = static_cast<float>(i);
  const Tensor t(data, DType::kF32, 3, 8);
  EXPECT_TRUE(t.contiguous());
  EXPECT_EQ(t.bytes(), 96);
  const Tensor inner = t.row_range(1, 2).col_range(2, 3);
  EXPECT_FALSE(inner.contiguous());
  EXPECT_EQ(inner.rows, 2);
  EXPECT_EQ(inner.cols, 3);
  EXPECT_EQ(inner.row<float>(1)[2], 2 * 8 + 4);
  EXPECT_EQ(inner.bytes(), 24) << "gaps between rows are left out";
  inner.row<float>(0)[0] = -1;
  EXPECT_EQ(data[8 + 2], -1);
  EXPECT_EQ(t.row_range(3, 0).rows, 0);
}

TEST(TensorDeathTest, RefusesWrongTypesAndRanges) {
  float data[4] = {};
  const Tensor t(data, DType::kF32, 2, 2);
  EXPECT_DEATH(t.ptr<double>(), "tensor holds F32, asked for F64");
  EXPECT_DEATH(t.row_range(1, 2), "rows 1\\+2 of 2");
  EXPECT_DEATH(t.col_range(-1, 1), "columns -1\\+1 of 2");
}

}  // namespace
}  // namespace rorqual
