// The passes over memory on Hopper against the scalar kernels of the CPU: every byte equal, what lies around untouched.
#include "kernels/elementwise/sm90a.h"

#include <algorithm>

#include "kernels/common/sm90a_for_tests.h"

namespace rorqual {
namespace {

using namespace testing;  // NOLINT

using ElementwiseSm90a = hopper::HopperTest;

constexpr DType kTypes[] = {DType::kF32, DType::kBF16};

std::vector<int64_t> widths() {
  std::vector<int64_t> all = {1, 3, 4, 8, 33, 127, 511, 512, 520, 1030, 1536, 2100};
  if (!hopper::is_emulated()) all.push_back(7168);
  return all;
}
// Values of all sizes, zeros of both signs, denormals, infinities and NaNs among them.
double any_value(uint64_t seed, int64_t r, int64_t c) {
  const auto words = random_words({.seed = seed}, static_cast<uint64_t>(r * 65536 + c));
  switch (words[0] % 64) {
    case 0:
      return -0.0;
    case 1:
      return 1e-41;
    case 2:
      return words[1] % 2 == 0 ? HUGE_VAL : -HUGE_VAL;
    case 3:
      return NAN;
    default:
      return std::ldexp(static_cast<double>(words[1]) - 0x1p31, -31 - static_cast<int>(words[2] % 24));
  }
}

// ---- convert

TEST_F(ElementwiseSm90a, ConvertsAsTheCpu) {
  const ScopedIsa isa(Isa::kReference);
  for (const DType x_type : kTypes)
    for (const DType y_type : kTypes)
      for (const bool accumulate : {false, true})
        for (const int64_t cols : widths()) {
          Mirrored x(x_type, 3, cols), expected(y_type, 3, cols, 32);
          x.fill([](int64_t r, int64_t c) { return any_value(1, r, c); });
          if (accumulate) expected.fill([](int64_t r, int64_t c) { return any_value(2, r, c); });
          Mirrored actual = expected;
          convert({.x = x.host(), .y = expected.host(), .accumulate = accumulate}, one_thread());
          convert_sm90a({.x = x.device(), .y = actual.device(), .accumulate = accumulate}, Stream::on_device());
          actual.download();
          ASSERT_EQ(difference(expected, actual), "") << dtype_name(x_type) << " to " << dtype_name(y_type) << ", " << cols
                                                      << (accumulate ? " columns, added" : " columns");
        }
}

// Rows without gaps need no alignment of their own.
TEST_F(ElementwiseSm90a, ConvertsContiguousRowsOfAnyWidth) {
  const ScopedIsa isa(Isa::kReference);
  for (const DType y_type : kTypes)
    for (const int64_t cols : {5, 77, 511}) {
      const int64_t rows = 7;
      Mirrored x(DType::kF32, 1, rows * cols), expected(y_type, 1, rows * cols);
      x.fill([](int64_t r, int64_t c) { return any_value(3, r, c); });
      Mirrored actual = expected;
      const auto folded = [&](const Tensor& t) { return Tensor(t.data, t.dtype, rows, cols); };
      convert({.x = folded(x.host()), .y = folded(expected.host())}, one_thread());
      convert_sm90a({.x = folded(x.device()), .y = folded(actual.device())}, Stream::on_device());
      actual.download();
      ASSERT_EQ(difference(expected, actual), "") << dtype_name(y_type) << ", " << cols;
    }
}

// ---- gather

void expect_gathered(Mirrored& x, DType y_type, int64_t rows) {
  const ScopedIsa isa(Isa::kReference);
  std::vector<int32_t> source;
  for (int64_t i = 0; i < rows; ++i) source.push_back(i % 4 == 1 ? -1 : static_cast<int32_t>(i * 5 % x.rows()));
  const hopper::DeviceBuffer on_device = hopper::to_device(source);
  Mirrored expected(y_type, rows, x.cols(), 32), actual = expected;
  gather_rows({.x = x.host(), .source = source.data(), .y = expected.host()}, one_thread());
  gather_rows_sm90a({.x = x.device(), .source = on_device.as<int32_t>(), .y = actual.device()}, Stream::on_device());
  actual.download();
  ASSERT_EQ(difference(expected, actual), "") << dtype_name(x.host().dtype) << " to " << dtype_name(y_type) << ", " << x.cols();
}

TEST_F(ElementwiseSm90a, GathersRowsOfEveryType) {
  for (const int64_t cols : widths()) {
    for (const DType type : {DType::kU8, DType::kE4M3, DType::kE5M2, DType::kI32, DType::kF32, DType::kBF16}) {
      Mirrored x(type, 4, cols);
      x.fill_random_bytes(4);
      expect_gathered(x, type, 6);
    }
    for (const DType x_type : kTypes) {
      Mirrored x(x_type, 4, cols);
      x.fill([](int64_t r, int64_t c) { return any_value(5, r, c); });
      expect_gathered(x, x_type == DType::kF32 ? DType::kBF16 : DType::kF32, 6);
    }
  }
}

// As rows of scales lie: 4-byte aligned, no gaps.
TEST_F(ElementwiseSm90a, GathersRowsThatAreNotAlignedTo16Bytes) {
  const ScopedIsa isa(Isa::kReference);
  for (const int64_t cols : {1, 11, 57, 700}) {
    const std::vector<int32_t> source = {2, -1, 0, 1, 2};
    const hopper::DeviceBuffer on_device = hopper::to_device(source);
    Mirrored x(DType::kF32, 1, 3 * cols), expected(DType::kF32, 1, 5 * cols);
    x.fill_normal(6);
    Mirrored actual = expected;
    const auto folded = [&](const Tensor& t, int64_t rows) { return Tensor(t.data, t.dtype, rows, cols); };
    gather_rows({.x = folded(x.host(), 3), .source = source.data(), .y = folded(expected.host(), 5)}, one_thread());
    gather_rows_sm90a({.x = folded(x.device(), 3), .source = on_device.as<int32_t>(), .y = folded(actual.device(), 5)},
                      Stream::on_device());
    actual.download();
    ASSERT_EQ(difference(expected, actual), "") << cols;
  }
}

// ---- combine

struct Combine {
  Mirrored x, base, y;
  std::vector<int32_t> row, node;
  hopper::DeviceBuffer device_row, device_node;
  int64_t top_k;
  DType payload;
  Combine(DType x_type, DType base_type, DType y_type, int64_t tokens, int64_t d, int64_t k, DType payload_type)
      : x(x_type, 2 * tokens + 3, d), base(base_type, tokens, d), y(y_type, tokens, d, 32), top_k(k), payload(payload_type) {
    x.fill([](int64_t r, int64_t c) { return any_value(7, r, c / 4) * (1 + static_cast<double>(c % 4) / 3); });
    base.fill([](int64_t r, int64_t c) { return any_value(8, r, c); });
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t j = 0; j < k; ++j) {
        const auto words = random_words({.seed = 9}, static_cast<uint64_t>(t * 64 + j));
        row.push_back(static_cast<int32_t>(words[0] % static_cast<uint32_t>(x.rows())));
        node.push_back(j == 0 ? static_cast<int32_t>(words[1] % 3) : node.back() + static_cast<int32_t>(words[1] % 2));
      }
    device_row = hopper::to_device(row);
    device_node = hopper::to_device(node);
  }
  enum class Base { kNone, kOther, kItself };
  CombineRowsArgs args(bool on_device, Base which, const Mirrored& to) const {
    const Tensor out = on_device ? to.device() : to.host();
    return {.x = on_device ? x.device() : x.host(),
            .row = on_device ? device_row.as<int32_t>() : row.data(),
            .node = on_device ? device_node.as<int32_t>() : node.data(),
            .top_k = top_k,
            .payload = payload,
            .base = which == Base::kNone     ? Tensor()
                    : which == Base::kItself ? out
                    : on_device              ? base.device()
                                             : base.host(),
            .y = out};
  }
};

TEST_F(ElementwiseSm90a, CombinesInTheOrderOfTheCpu) {
  const ScopedIsa isa(Isa::kReference);
  for (const DType x_type : kTypes)
    for (const DType y_type : kTypes)
      for (const DType payload : kTypes)
        for (const int64_t top_k : {0, 1, 2, 3, 6, 8, 32})
          for (const int64_t d : {1, 20, 512, 777}) {
            const DType base_type = d % 2 == 0 ? DType::kF32 : DType::kBF16;
            const Combine c(x_type, base_type, y_type, 3, d, top_k, payload);
            for (const auto base : {Combine::Base::kNone, Combine::Base::kOther, Combine::Base::kItself}) {
              Mirrored expected(y_type, 3, d, 32);
              expected.fill([](int64_t r, int64_t i) { return any_value(10, r, i); });
              Mirrored actual = expected;
              combine_rows(c.args(false, base, expected), one_thread());
              combine_rows_sm90a(c.args(true, base, actual), Stream::on_device());
              actual.download();
              ASSERT_EQ(difference(expected, actual), "")
                  << dtype_name(x_type) << " to " << dtype_name(y_type) << " by " << dtype_name(payload) << ", top " << top_k
                  << ", d " << d << ", base " << static_cast<int>(base);
            }
          }
}

// ---- refusals

TEST_F(ElementwiseSm90a, SaysWhatItDoesNotTake) {
  const Mirrored f32(DType::kF32, 4, 64), bf16(DType::kBF16, 4, 64), f64(DType::kF64, 4, 64), e5m6(DType::kE5M6, 4, 64);
  const auto inside = [](const Mirrored& m) { return m.device().col_range(1, 62); };
  EXPECT_EQ(refuse_convert_sm90a({.x = f32.device(), .y = bf16.device()}), "");
  EXPECT_NE(refuse_convert_sm90a({.x = f64.device(), .y = bf16.device()}), "");
  EXPECT_NE(refuse_convert_sm90a({.x = f32.device(), .y = f64.device()}), "");
  EXPECT_NE(refuse_convert_sm90a({.x = inside(f32), .y = inside(bf16)}), "");
  EXPECT_EQ(refuse_convert_sm90a({.x = inside(f32), .y = inside(f32)}), "");  // a copy of words
  EXPECT_NE(refuse_convert_sm90a({.x = inside(f32), .y = inside(f32), .accumulate = true}), "");
  EXPECT_NE(refuse_convert_sm90a({.x = inside(bf16), .y = inside(bf16)}), "");

  EXPECT_EQ(refuse_gather_rows_sm90a({.x = f32.device(), .y = f32.device()}), "");
  EXPECT_NE(refuse_gather_rows_sm90a({.x = e5m6.device(), .y = e5m6.device()}), "");
  EXPECT_NE(refuse_gather_rows_sm90a({.x = f64.device(), .y = f64.device()}), "");
  EXPECT_NE(refuse_gather_rows_sm90a({.x = inside(bf16), .y = inside(bf16)}), "");
  EXPECT_NE(refuse_gather_rows_sm90a({.x = inside(f32), .y = inside(bf16)}), "");

  const Combine c(DType::kF32, DType::kF32, DType::kF32, 2, 64, 2, DType::kF32);
  const CombineRowsArgs good = c.args(true, Combine::Base::kOther, c.y);
  const auto refused = [&](auto change) {
    CombineRowsArgs args = good;
    change(args);
    return !refuse_combine_rows_sm90a(args).empty();
  };
  EXPECT_FALSE(refused([](auto&) {}));
  EXPECT_TRUE(refused([](auto& args) { args.top_k = 33; }));
  EXPECT_TRUE(refused([](auto& args) { args.payload = DType::kF64; }));
  EXPECT_TRUE(refused([](auto& args) { args.x = args.x.col_range(1, 63); }));
  EXPECT_TRUE(refused([](auto& args) { args.base.stride = 65; }));
}

}  // namespace
}  // namespace rorqual
