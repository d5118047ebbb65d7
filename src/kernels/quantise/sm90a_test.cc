// Quantising on Hopper against the scalar kernels of the CPU: every byte equal, what lies around the results untouched.
#include "kernels/quantise/sm90a.h"

#include "kernels/common/sm90a_for_tests.h"

namespace rorqual {
namespace {

using namespace testing;  // NOLINT

using QuantiseSm90a = hopper::HopperTest;

constexpr DType kPlainTypes[] = {DType::kF32, DType::kBF16};
struct Shape {
  int64_t rows, cols;
};
std::vector<Shape> shapes() {
  std::vector<Shape> all = {{1, 1}, {3, 127}, {2, 128}, {9, 130}, {1, 513}, {2, 1000}, {1, 2048}};
  if (!hopper::is_emulated()) all.insert(all.end(), {{40, 7168}, {200, 1408}});
  return all;
}
std::string name_of(DType x, DType y, const Shape& shape, ScaleRule rule) {
  return fmt::format("{} to {}, {}x{}, {}", dtype_name(x), dtype_name(y), shape.rows, shape.cols,
                     rule == ScaleRule::kPow2 ? "powers of two" : "FP32 scales");
}
template <class Body>
void for_cases(const Body& body) {
  for (const DType x_type : kPlainTypes)
    for (const DType type : kCodedTypes)
      for (const ScaleRule rule : kRules)
        for (const Shape& shape : shapes()) {
          SCOPED_TRACE(name_of(x_type, type, shape, rule));
          body(x_type, type, shape, Quantiser{.rule = rule});
        }
}

TEST_F(QuantiseSm90a, GivesTheBitsOfTheCpu) {
  const ScopedIsa isa(Isa::kReference);
  for_cases([](DType x_type, DType type, const Shape& shape, const Quantiser& quantiser) {
    Mirrored x(x_type, shape.rows, shape.cols);
    x.fill([&](int64_t r, int64_t c) { return awkward_value(1, r + shape.cols, c, true); });
    MirroredCodes expected(type, shape.rows, shape.cols), actual = expected;
    quantise({.x = x.host(), .y = expected.host(), .quantiser = quantiser}, one_thread());
    quantise_sm90a({.x = x.device(), .y = actual.device(), .quantiser = quantiser}, Stream::on_device());
    actual.download();
    EXPECT_EQ(difference(expected, actual), "");
  });
}

// Quotients that lie on the boundary between two codes, or a last bit beside it, for scales of every kind.
TEST_F(QuantiseSm90a, DividesAsIeeeDoes) {
  const ScopedIsa isa(Isa::kReference);
  const int64_t rows = hopper::is_emulated() ? 40 : 4000, cols = 512;
  for (const DType type : kCodedTypes) {
    Mirrored x(DType::kF32, rows, cols);
    x.fill([&](int64_t r, int64_t c) {
      const auto words = random_words({.seed = 3}, static_cast<uint64_t>(r * cols + c));
      const auto amax_words = random_words({.seed = 4}, static_cast<uint64_t>(r * 4 + c / 128));
      const uint32_t exponent = 1 + amax_words[0] % 253;
      const float amax = std::bit_cast<float>(exponent << 23 | amax_words[1] >> 9);
      if (c % 128 == 0) return static_cast<double>(amax);
      const float scale = scale_of(amax, largest_of(type), ScaleRule::kFp32);
      const int fraction_bits = type == DType::kE4M3 ? 4 : type == DType::kE5M2 ? 3 : 7;
      const double tie = std::ldexp(1 + (words[0] % (1u << fraction_bits) | 1u) / std::ldexp(1.0, fraction_bits),
                                    static_cast<int>(words[1] % 18) - 10);
      const auto near = static_cast<float>(std::min(tie * scale, static_cast<double>(amax)));
      const int32_t moved = static_cast<int32_t>(std::bit_cast<uint32_t>(near)) + static_cast<int32_t>(words[2] % 3) - 1;
      const float value = std::bit_cast<float>(std::max(moved, 0));
      return static_cast<double>(std::min(value, amax) * (words[3] % 2 == 0 ? 1.0f : -1.0f));
    });
    MirroredCodes expected(type, rows, cols), actual = expected;
    const Quantiser quantiser{.rule = ScaleRule::kFp32};
    quantise({.x = x.host(), .y = expected.host(), .quantiser = quantiser}, one_thread());
    quantise_sm90a({.x = x.device(), .y = actual.device(), .quantiser = quantiser}, Stream::on_device());
    actual.download();
    EXPECT_EQ(difference(expected, actual), "") << dtype_name(type);
  }
}

TEST_F(QuantiseSm90a, DispatchesEachRowToItsChoices) {
  const ScopedIsa isa(Isa::kReference);
  for_cases([](DType x_type, DType type, const Shape& shape, const Quantiser& quantiser) {
    for (const bool with_own : {false, true}) {
      const int64_t top_k = 3, tokens = shape.rows, rows = tokens * top_k + 2;
      Mirrored x(x_type, tokens, shape.cols);
      x.fill([&](int64_t r, int64_t c) { return awkward_value(2, r, c, true); });
      std::vector<int32_t> choice;
      for (int64_t i = 0; i < tokens * top_k; ++i) choice.push_back(i % 5 == 3 ? -1 : static_cast<int32_t>(rows - 1 - i));
      const hopper::DeviceBuffer on_device = hopper::to_device(choice);
      MirroredCodes expected(type, rows, shape.cols), actual = expected;
      MirroredCodes own(type, tokens, shape.cols), own_actual = own;
      QuantiseDispatchArgs args{.x = x.host(),
                                .row_of_choice = choice.data(),
                                .top_k = top_k,
                                .y = expected.host(),
                                .own = with_own ? own.host() : ScaledTensor(),
                                .quantiser = quantiser};
      quantise_dispatch(args, one_thread());
      args.x = x.device();
      args.row_of_choice = on_device.as<int32_t>();
      args.y = actual.device();
      if (with_own) args.own = own_actual.device();
      quantise_dispatch_sm90a(args, Stream::on_device());
      actual.download();
      own_actual.download();
      EXPECT_EQ(difference(expected, actual), "");
      EXPECT_EQ(difference(own, own_actual), "");
    }
  });
}

TEST_F(QuantiseSm90a, DequantisesAllCodes) {
  const ScopedIsa isa(Isa::kReference);
  for (const DType type : kCodedTypes)
    for (const DType y_type : kPlainTypes)
      for (const Shape& shape : shapes()) {
        SCOPED_TRACE(name_of(type, y_type, shape, ScaleRule::kPow2));
        MirroredCodes x(type, shape.rows, shape.cols);
        x.codes.fill_random_bytes(5);
        x.scales.fill([](int64_t r, int64_t c) { return awkward_scale(6, r * 100 + c); });
        Mirrored expected(y_type, shape.rows, shape.cols), actual = expected;
        dequantise({.x = x.host(), .y = expected.host()}, one_thread());
        dequantise_sm90a({.x = x.device(), .y = actual.device()}, Stream::on_device());
        actual.download();
        EXPECT_EQ(difference(expected, actual), "");
      }
}

// ---- columns

// x of any type the kernel takes.
MirroredCodes values_of(DType type, int64_t rows, int64_t cols, uint64_t seed) {
  MirroredCodes x(type, rows, cols);
  if (type == DType::kF32 || type == DType::kBF16) {
    x.codes.fill([&](int64_t r, int64_t c) { return awkward_value(seed, c + 7, r, true); });  // groups along columns
  } else {
    x.codes.fill_random_bytes(seed);
    for (int64_t r = 0; r < rows; ++r)  // few NaN codes: each empties its column
      for (int64_t c = 0; c < cols; ++c)
        if (type == DType::kE4M3 && random_words({.seed = seed + 1}, static_cast<uint64_t>(r * cols + c))[0] % 512 != 0)
          x.codes.host().raw_row(r)[c] &= std::byte{0xf7};
        else if (type == DType::kE5M6 && random_words({.seed = seed + 1}, static_cast<uint64_t>(r * cols + c))[0] % 512 != 0) {
          auto* row = reinterpret_cast<uint8_t*>(x.codes.host().raw_row(r));
          E5M6::from_bits(E5M6::read(row, c).bits & 0xfbf).write(row, c);
        }
    x.codes.upload();
    x.scales.fill([&](int64_t r, int64_t c) {
      const double scale = awkward_scale(seed, r * 100 + c);
      return std::isnan(scale) && r % 16 != 5 ? 1 : scale;
    });
  }
  return x;
}
bool is_plain(const MirroredCodes& x) {
  return x.codes.host().dtype == DType::kF32 || x.codes.host().dtype == DType::kBF16;
}
ScaledTensor host_of(const MirroredCodes& x) {
  return is_plain(x) ? ScaledTensor(x.codes.host()) : x.host();
}
ScaledTensor device_of(const MirroredCodes& x) {
  return is_plain(x) ? ScaledTensor(x.codes.device()) : x.device();
}

// The CPU's codes [rows, cols] against [cols, rows] of the GPU.
std::string transposed_difference(const MirroredCodes& expected, const MirroredCodes& actual) {
  const std::string scales = difference(expected.scales, actual.scales);
  if (!scales.empty()) return "scales: " + scales;
  MirroredCodes turned(actual.codes.host().dtype, expected.codes.rows(), expected.codes.cols(), actual.group);
  for (int64_t r = 0; r < expected.codes.rows(); ++r)
    for (int64_t c = 0; c < expected.codes.cols(); ++c) turned.codes.host().raw_row(c)[r] = expected.codes.host().raw_row(r)[c];
  return difference(turned.codes, actual.codes);
}

void expect_columns(DType x_type, DType type, ScaleRule rule, ScaledTensor::Group group, const std::vector<Shape>& list) {
  std::vector<MirroredCodes> x, expected, actual;
  std::vector<RequantiseProblem> on_host, on_device;
  for (const Shape& shape : list) {
    x.push_back(values_of(x_type, shape.rows, shape.cols, 10 + x.size()));
    expected.emplace_back(type, shape.rows, shape.cols, ScaledTensor::Group::kColumn);
    actual.emplace_back(type, shape.rows, shape.cols, group);
  }
  for (size_t i = 0; i < list.size(); ++i) {
    on_host.push_back({host_of(x[i]), expected[i].host()});
    on_device.push_back({device_of(x[i]), actual[i].device()});
  }
  requantise_columns({.problems = on_host, .quantiser = {.rule = rule}}, one_thread());
  requantise_columns_sm90a({.problems = on_device, .quantiser = {.rule = rule}}, Stream::on_device());
  for (size_t i = 0; i < list.size(); ++i) {
    actual[i].download();
    const bool turned = group == ScaledTensor::Group::kColumnTransposed;
    ASSERT_EQ(turned ? transposed_difference(expected[i], actual[i]) : difference(expected[i], actual[i]), "")
        << "problem " << i << ", " << name_of(x_type, type, list[i], rule) << (turned ? ", transposed" : "");
  }
}

TEST_F(QuantiseSm90a, RequantisesColumns) {
  const ScopedIsa isa(Isa::kReference);
  std::vector<Shape> list = {{0, 300}, {1, 1}, {130, 200}, {0, 5}, {64, 129}, {128, 128}, {17, 0}, {255, 31}};
  if (!hopper::is_emulated()) list.insert(list.end(), {{700, 520}, {300, 1408}});
  for (const DType x_type : {DType::kF32, DType::kBF16, DType::kE4M3, DType::kE5M6})
    for (const DType type : {DType::kE4M3, DType::kE5M2})
      for (const ScaleRule rule : kRules)
        for (const auto group : {ScaledTensor::Group::kColumn, ScaledTensor::Group::kColumnTransposed})
          expect_columns(x_type, type, rule, group, list);
}

TEST_F(QuantiseSm90a, RequantisesMoreProblemsThanOneLaunchTakes) {
  const ScopedIsa isa(Isa::kReference);
  std::vector<Shape> list;
  for (int64_t i = 0; i < 140; ++i) list.push_back({i % 3, 1 + i % 7});
  list.resize(280, {2, 3});
  expect_columns(DType::kE4M3, DType::kE4M3, ScaleRule::kPow2, ScaledTensor::Group::kColumnTransposed, list);
}

// ---- refusals

TEST_F(QuantiseSm90a, SaysWhatItDoesNotTake) {
  const Mirrored x(DType::kF32, 4, 256);
  const MirroredCodes y(DType::kE4M3, 4, 256);
  const QuantiseArgs good{.x = x.device(), .y = y.device()};
  EXPECT_EQ(refuse_quantise_sm90a(good), "");
  const auto refused = [&](auto change) {
    QuantiseArgs args = good;
    change(args);
    EXPECT_NE(refuse_quantise_sm90a(args), "");
  };
  QuantiseStatistics statistics;
  refused([&](auto& args) { args.quantiser.statistics = &statistics; });
  refused([](auto& args) { args.quantiser.granularity = Granularity::kBlock; });
  refused([](auto& args) { args.quantiser.granularity = Granularity::kTensor; });
  refused([](auto& args) { args.x.dtype = DType::kF64; });
  refused([](auto& args) { args.x = args.x.col_range(1, 255); });
  refused([](auto& args) { args.x.stride = 257; });
  refused([](auto& args) { args.y.codes.stride = 264; });
  refused([](auto& args) { args.y.codes.dtype = DType::kU8; });
  QuantiseArgs block = good;
  block.quantiser.granularity = Granularity::kBlock;
  EXPECT_DEATH(quantise_sm90a(block, Stream::on_device()), "a scale of more than one group");
  EXPECT_DEATH(quantise_sm90a({.x = x.device().row_range(0, 3), .y = y.device()}, Stream::on_device()), "to \\[4, 256\\]");

  EXPECT_NE(refuse_quantise_dispatch_sm90a({.x = x.device(), .top_k = 33, .y = y.device()}), "");
  EXPECT_EQ(refuse_dequantise_sm90a({.x = y.device(), .y = x.device()}), "");
  EXPECT_NE(refuse_dequantise_sm90a({.x = y.device(), .y = x.device().col_range(1, 128)}), "");

  const auto refused_columns = [&](const ScaledTensor& from, DType type, const Quantiser& quantiser = {}) {
    const MirroredCodes to(type, 4, 256, ScaledTensor::Group::kColumnTransposed);
    const RequantiseProblem problem{from, to.device()};
    return refuse_requantise_columns_sm90a({.problems = {&problem, 1}, .quantiser = quantiser});
  };
  EXPECT_EQ(refused_columns(y.device(), DType::kE4M3), "");
  EXPECT_NE(refused_columns(y.device(), DType::kE5M6), "");
  EXPECT_NE(refused_columns(MirroredCodes(DType::kE5M2, 4, 256).device(), DType::kE4M3), "");
  EXPECT_NE(refused_columns(y.device(), DType::kE4M3, {.granularity = Granularity::kTensor}), "");
  const MirroredCodes to(DType::kE4M3, 4, 256, ScaledTensor::Group::kColumn);
  const RequantiseProblem mixed[] = {{y.device(), to.device()}, {x.device(), to.device()}};
  EXPECT_NE(refuse_requantise_columns_sm90a({.problems = mixed}), "");
}

}  // namespace
}  // namespace rorqual
