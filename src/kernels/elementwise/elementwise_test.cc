// The passes over memory: the reference against hand-made cases, every other row against the reference bit for bit.
#include "kernels/elementwise/elementwise.h"

#include <gtest/gtest.h>

#include <numeric>

#include "kernels/common/matrix_for_tests.h"

namespace rorqual {
namespace {

using ::rorqual::testing::difference;
using ::rorqual::testing::Matrix;
using ::rorqual::testing::mixed_sizes;
using ::rorqual::testing::one_thread;

constexpr DType kTypes[] = {DType::kF32, DType::kBF16, DType::kF64};

template <class Args>
const KernelRow<Args>& reference_of(std::span<const KernelRow<Args>> rows) {
  return rows.back();
}

template <class Args>
bool takes(const KernelRow<Args>& row, const Args& args) {
  return row.refuse(args).empty();
}

// Numbers that meet ties, denormals, zeros of both signs and infinities when they are rounded.
double awkward(uint64_t seed, int64_t r, int64_t c) {
  constexpr double kSpecial[] = {0.0, -0.0, 1e-40, -1e-39, 1.00390625, 1.01171875, 3.4e38, HUGE_VAL, NAN, 1 + 0x1p-24};
  const int64_t i = r * 131 + c;
  return i % 7 == 0 ? kSpecial[static_cast<size_t>(i / 7 % 10)] : random_normal({.seed = seed}, static_cast<uint64_t>(i));
}

// ---- convert

struct Convert {
  Matrix x, y;
  bool accumulate;
  Convert(DType x_type, DType y_type, int64_t rows, int64_t cols, int64_t gap, bool add)
      : x(x_type, rows, cols, gap), y(y_type, rows, cols, gap == 0 ? 0 : gap + 1), accumulate(add) {
    x.fill([](int64_t r, int64_t c) { return awkward(1, r, c); });
    // A NaN comes from one side at most: which one an addition of two returns is not defined.
    if (add) y.fill([](int64_t r, int64_t c) { return random_normal({.seed = 2}, static_cast<uint64_t>(r * 1000 + c)); });
  }
  ConvertArgs args() const { return {.x = x, .y = y, .accumulate = accumulate}; }
};

std::string check(const Convert& c) {
  Convert expected(c.x.tensor().dtype, c.y.tensor().dtype, c.x.rows(), c.x.cols(), 2, c.accumulate);
  reference_of(convert_kernels()).run(expected.args(), one_thread());
  const std::string problem = difference(expected.y, c.y);
  return problem.empty() ? c.y.written_outside() : problem;
}

class ConvertRows : public ::testing::TestWithParam<KernelRow<ConvertArgs>> {};

TEST_P(ConvertRows, EqualsTheReference) {
  SKIP_IF_CPU_LACKS(GetParam());
  int runs = 0;
  for (const DType x_type : kTypes)
    for (const DType y_type : kTypes)
      for (const bool accumulate : {false, true})
        for (const int64_t gap : {0, 3})
          for (const int64_t cols : mixed_sizes()) {
            Convert c(x_type, y_type, 3, cols, gap, accumulate);
            if (!takes(GetParam(), c.args())) continue;
            GetParam().run(c.args(), one_thread());
            ASSERT_EQ(check(c), "") << dtype_name(x_type) << " to " << dtype_name(y_type) << " accumulate " << accumulate;
            ++runs;
          }
  EXPECT_GE(runs, 4 * 2 * 2 * static_cast<int>(mixed_sizes().size()));
}

TEST_P(ConvertRows, TheCheckSeesALostTailAndTruncation) {
  SKIP_IF_CPU_LACKS(GetParam());
  Convert c(DType::kF32, DType::kBF16, 3, 37, 3, false);
  GetParam().run(c.args(), one_thread());
  Convert lost = c, truncated = c;
  lost.y.set(2, 36, 0);
  EXPECT_NE(check(lost), "");
  for (int64_t i = 0; i < 37; ++i)
    truncated.y.tensor().row<Bf16>(1)[i].bits =
        static_cast<uint16_t>(std::bit_cast<uint32_t>(static_cast<float>(c.x.at(1, i))) >> 16);
  EXPECT_NE(check(truncated), "");
}

TEST_P(ConvertRows, DoesNotDependOnThreads) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (const int64_t gap : {0, 3})
    for (const int threads : {2, 3}) {
      Convert c(DType::kF32, DType::kBF16, 110, 999, gap, true);
      ThreadPool pool(threads);
      GetParam().run(c.args(), Stream(pool));
      EXPECT_EQ(check(c), "") << threads << " threads, gap " << gap;
    }
}

INSTANTIATE_TEST_SUITE_P(Rows, ConvertRows, ::testing::ValuesIn(convert_kernels().begin(), convert_kernels().end()),
                         ::rorqual::testing::RowName());

TEST(ConvertReference, RoundsOnceToTheNearestEven) {
  Matrix x(DType::kF64, 1, 5), narrow(DType::kBF16, 1, 5), sum(DType::kF32, 1, 5);
  const double values[] = {1 + 0x1p-8, 1 + 3 * 0x1p-8, -1 - 0x1p-8, 0.1, 1e300};
  x.fill([&](int64_t, int64_t c) { return values[c]; });
  convert({.x = x, .y = narrow}, one_thread());
  const double expected[] = {1, 1 + 0x1p-6, -1, 0.10009765625, HUGE_VAL};
  for (int64_t c = 0; c < 5; ++c) EXPECT_EQ(narrow.at(0, c), expected[c]);
  sum.fill([](int64_t, int64_t) { return 1; });
  convert({.x = x, .y = sum, .accumulate = true}, one_thread());
  EXPECT_EQ(sum.at(0, 1), 2 + 3 * 0x1p-8);
  EXPECT_EQ(sum.at(0, 3), static_cast<float>(1.1));
}

// A copy keeps the bits, also of NaNs and denormals, by every row.
TEST(ConvertReference, CopiesKeepEveryBit) {
  std::vector<Bf16> x(65536), y(65536);
  for (uint32_t i = 0; i < 65536; ++i) x[i] = Bf16::from_bits(static_cast<uint16_t>(i));
  convert({.x = {x.data(), DType::kBF16, 16, 4096}, .y = {y.data(), DType::kBF16, 16, 4096}}, one_thread());
  EXPECT_TRUE(x == y);
}

// ---- gather

struct Gather {
  Matrix x, y;
  std::vector<int32_t> source;
  Gather(DType x_type, DType y_type, int64_t rows, int64_t cols) : x(x_type, 11, cols), y(y_type, rows, cols, 4) {
    x.fill([](int64_t r, int64_t c) { return awkward(3, r, c); });
    for (int64_t i = 0; i < rows; ++i) source.push_back(static_cast<int32_t>((i * 7) % 12) - 1);
  }
  GatherRowsArgs args() const { return {.x = x, .source = source.data(), .y = y}; }
};

// Row i is the conversion of row source[i]; rows without a source keep their poison, bit for bit.
std::string check(const Gather& g) {
  for (int64_t i = 0; i < g.y.rows(); ++i) {
    Matrix expected(g.y.tensor().dtype, 1, g.y.cols()), found(g.y.tensor().dtype, 1, g.y.cols());
    const int32_t source = g.source[static_cast<size_t>(i)];
    if (source >= 0) reference_of(convert_kernels()).run({.x = g.x.tensor().row_range(source, 1), .y = expected}, one_thread());
    const size_t bytes = static_cast<size_t>(expected.tensor().bytes());
    std::memcpy(found.tensor().data, g.y.tensor().raw_row(i), bytes);
    if (source < 0 && std::memcmp(found.tensor().data, expected.tensor().data, bytes) != 0) return "an absent row was written";
    const std::string problem = difference(expected, found);
    if (!problem.empty()) return fmt::format("row {}: {}", i, problem);
  }
  return g.y.written_outside();
}

class GatherRows : public ::testing::TestWithParam<KernelRow<GatherRowsArgs>> {};

TEST_P(GatherRows, EqualsTheConversionOfEachRow) {
  SKIP_IF_CPU_LACKS(GetParam());
  int runs = 0;
  for (const DType x_type : kTypes)
    for (const DType y_type : kTypes)
      for (const int64_t cols : mixed_sizes()) {
        Gather g(x_type, y_type, 5, cols);
        if (!takes(GetParam(), g.args())) continue;
        GetParam().run(g.args(), one_thread());
        ASSERT_EQ(check(g), "") << dtype_name(x_type) << " to " << dtype_name(y_type) << " cols " << cols;
        ++runs;
      }
  EXPECT_GE(runs, 4 * static_cast<int>(mixed_sizes().size()));
  for (const int threads : {2, 3}) {
    Gather g(DType::kBF16, DType::kF32, 200, 777);
    ThreadPool pool(threads);
    GetParam().run(g.args(), Stream(pool));
    EXPECT_EQ(check(g), "") << threads << " threads";
  }
}

// Codes and scales move as they are.
TEST_P(GatherRows, CopiesCodes) {
  SKIP_IF_CPU_LACKS(GetParam());
  std::vector<uint8_t> x(7 * 300), y(5 * 301, 0xee);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint8_t>(i * 37);
  const int32_t source[] = {6, 0, -1, 3, 3};
  for (const DType type : {DType::kE4M3, DType::kE5M2}) {
    GetParam().run({.x = {x.data(), type, 7, 299, 300}, .source = source, .y = {y.data(), type, 5, 299, 301}}, one_thread());
    for (size_t i = 0; i < y.size(); ++i) {
      const size_t r = i / 301, c = i % 301;
      const bool written = r != 2 && c < 299;
      ASSERT_EQ(y[i], written ? x[static_cast<size_t>(source[r]) * 300 + c] : 0xee) << r << " " << c;
    }
  }
}

TEST_P(GatherRows, TheCheckSeesAWrongSourceAndAWrittenAbsentRow) {
  SKIP_IF_CPU_LACKS(GetParam());
  Gather g(DType::kF32, DType::kF32, 13, 40);
  std::vector<int32_t> wrong = g.source;
  wrong[1] = 3;
  GatherRowsArgs args = g.args();
  args.source = wrong.data();
  GetParam().run(args, one_thread());
  EXPECT_NE(check(g), "");
  GetParam().run(g.args(), one_thread());
  ASSERT_EQ(check(g), "");
  ASSERT_EQ(g.source[12], -1);
  g.y.set(12, 0, 0);
  EXPECT_NE(check(g), "");
}

INSTANTIATE_TEST_SUITE_P(Rows, GatherRows, ::testing::ValuesIn(gather_rows_kernels().begin(), gather_rows_kernels().end()),
                         ::rorqual::testing::RowName());

// ---- combine

struct Combine {
  Matrix x, base, y;
  std::vector<int32_t> row, node;
  int64_t top_k;
  DType payload;
  enum class Base { kAbsent, kApart, kInPlace } use;
  Combine(DType x_type, DType y_type, DType payload_type, int64_t tokens, int64_t d, int64_t k, Base base_use)
      : x(x_type, 23, d), base(y_type, tokens, d, 1), y(y_type, tokens, d, 5), top_k(k), payload(payload_type), use(base_use) {
    x.fill_normal(4);
    base.fill_normal(5);
    if (use == Base::kInPlace) y.fill_normal(5);
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t j = 0; j < k; ++j) {
        row.push_back(static_cast<int32_t>((t * 5 + j * 3) % 23));
        node.push_back(static_cast<int32_t>(j * (1 + t % 3) / 2));  // nodes of one, two, and with gaps between numbers
      }
  }
  CombineRowsArgs args() const {
    return {.x = x,
            .row = row.data(),
            .node = node.data(),
            .top_k = top_k,
            .payload = payload,
            .base = use == Base::kAbsent  ? Tensor()
                    : use == Base::kApart ? base.tensor()
                                          : y.tensor(),
            .y = y};
  }
};

std::string check(const Combine& c) {
  Combine expected(c.x.tensor().dtype, c.y.tensor().dtype, c.payload, c.y.rows(), c.y.cols(), c.top_k, c.use);
  reference_of(combine_rows_kernels()).run(expected.args(), one_thread());
  const std::string problem = difference(expected.y, c.y);
  return problem.empty() ? c.y.written_outside() : problem;
}

class CombineRows : public ::testing::TestWithParam<KernelRow<CombineRowsArgs>> {};

TEST_P(CombineRows, EqualsTheReference) {
  SKIP_IF_CPU_LACKS(GetParam());
  int runs = 0;
  for (const DType x_type : kTypes)
    for (const DType y_type : kTypes)
      for (const DType payload : kTypes)
        for (const auto use : {Combine::Base::kAbsent, Combine::Base::kApart, Combine::Base::kInPlace})
          for (const int64_t d : mixed_sizes()) {
            if ((d + static_cast<int64_t>(x_type) + static_cast<int64_t>(payload)) % 3 != static_cast<int64_t>(use)) continue;
            Combine c(x_type, y_type, payload, 3, d, 1 + d % 8, use);
            if (!takes(GetParam(), c.args())) continue;
            GetParam().run(c.args(), one_thread());
            ASSERT_EQ(check(c), "") << dtype_name(x_type) << " to " << dtype_name(y_type) << ", d " << d;
            ++runs;
          }
  EXPECT_GE(runs, 8 * 40);
  for (const int threads : {2, 3}) {
    Combine c(DType::kBF16, DType::kF32, DType::kBF16, 60, 777, 8, Combine::Base::kInPlace);
    ThreadPool pool(threads);
    GetParam().run(c.args(), Stream(pool));
    EXPECT_EQ(check(c), "") << threads << " threads";
  }
}

TEST_P(CombineRows, TheCheckSeesALostExpertAForgottenRoundingAndAnotherOrder) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (int defect = 0; defect < 4; ++defect) {
    Combine c(DType::kF32, DType::kF32, DType::kBF16, 6, 40, 6, Combine::Base::kApart);
    CombineRowsArgs args = c.args();
    std::vector<int32_t> row = c.row, node = c.node;
    args.row = row.data();
    args.node = node.data();
    if (defect == 1) row[30] = row[31];
    if (defect == 2) args.payload = DType::kF32;
    if (defect == 3) node.assign(node.size(), 0);
    GetParam().run(args, one_thread());
    EXPECT_EQ(check(c).empty(), defect == 0) << defect;
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, CombineRows, ::testing::ValuesIn(combine_rows_kernels().begin(), combine_rows_kernels().end()),
                         ::rorqual::testing::RowName());

// Two nodes: (1 + 2^-8) rounds to 1 in bf16, (3 + 0.5) is exact; in FP32 without rounding the first stays.
TEST(CombineReference, RoundsEachNodeAndAddsThemToTheBase) {
  Matrix x(DType::kF32, 4, 1), base(DType::kF32, 1, 1), y(DType::kF32, 1, 1);
  const double values[] = {1, 0x1p-8, 3, 0.5};
  x.fill([&](int64_t r, int64_t) { return values[r]; });
  base.set(0, 0, 10);
  const int32_t row[] = {0, 1, 2, 3}, node[] = {0, 0, 2, 2};
  CombineRowsArgs args{.x = x, .row = row, .node = node, .top_k = 4, .payload = DType::kBF16, .base = base, .y = y};
  combine_rows(args, one_thread());
  EXPECT_EQ(y.at(0, 0), 14.5);
  args.payload = DType::kF32;
  combine_rows(args, one_thread());
  EXPECT_EQ(y.at(0, 0), 14.5 + 0x1p-8);
  args.base = {};
  combine_rows(args, one_thread());
  EXPECT_EQ(y.at(0, 0), 4.5 + 0x1p-8);
}

// ---- passes without a table: equal bits on every instruction set and any number of threads

std::vector<float> normals(size_t n, uint64_t seed) {
  std::vector<float> x(n);
  for (size_t i = 0; i < n; ++i) x[i] = static_cast<float>(random_normal({.seed = seed}, i));
  return x;
}

Tensor vector_of(std::vector<float>& x, size_t begin = 0) {
  return {x.data() + begin, DType::kF32, 1, static_cast<int64_t>(x.size() - begin)};
}

std::vector<Isa> isas_of_this_cpu() {
  std::vector<Isa> isas;
  for (const Isa isa : {Isa::kReference, Isa::kAvx2, Isa::kAvx512})
    if (isa <= cpu_isa()) isas.push_back(isa);
  return isas;
}

// The definition in the header, written down a second time.
double tree(std::vector<double> values) {
  while (values.size() > 1) {
    std::vector<double> next;
    for (size_t i = 0; i < values.size(); i += 2) next.push_back(i + 1 < values.size() ? values[i] + values[i + 1] : values[i]);
    values = next;
  }
  return values.empty() ? 0 : values[0];
}
double defined_squared_norm(const std::vector<float>& x) {
  std::vector<double> blocks;
  for (size_t begin = 0; begin < x.size(); begin += 4096) {
    std::vector<double> lanes(16);
    for (size_t i = begin; i < std::min(x.size(), begin + 4096); ++i)
      lanes[(i - begin) % 16] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    blocks.push_back(tree(lanes));
  }
  return tree(blocks);
}

TEST(SquaredNorm, HasTheDefinedBitsOnEveryIsaAndThreadCount) {
  std::vector<size_t> sizes = {0, 4095, 4096, 4097, 12288, 20000, 1000003};
  for (size_t n = 1; n <= 40; ++n) sizes.push_back(n);
  for (const size_t n : sizes) {
    std::vector<float> x = normals(n, n);
    const double expected = defined_squared_norm(x);
    for (const Isa isa : isas_of_this_cpu())
      for (const int threads : {1, 2, 3}) {
        const ScopedIsa scoped(isa);
        ThreadPool pool(threads);
        ASSERT_EQ(squared_norm(vector_of(x), Stream(pool)), expected) << n << " " << isa_name(isa) << " " << threads;
      }
    // A lost element, and another order of the same sum in double, would show.
    if (n > 4096) {
      const double in_order =
          std::accumulate(x.begin(), x.end(), 0.0, [](double s, float v) { return s + double{v} * double{v}; });
      EXPECT_NE(in_order, expected);
      EXPECT_NEAR(in_order, expected, static_cast<double>(n) * 0x1p-53 * expected);
    }
  }
  std::vector<double> wide = {3, 4, 12};
  EXPECT_EQ(squared_norm({wide.data(), DType::kF64, 1, 3}, one_thread()), 169);
}

TEST(Passes, ScaleAddAndEmaEqualTheScalarOperations) {
  for (const Isa isa : isas_of_this_cpu()) {
    const ScopedIsa scoped(isa);
    for (const int threads : {1, 3}) {
      ThreadPool pool(threads);
      for (const size_t n : {size_t{1}, size_t{7}, size_t{17}, size_t{40}, size_t{300001}}) {
        // Starts at an odd element; the first stays as it is.
        const std::vector<float> a = normals(n + 1, 1), b = normals(n + 1, 2);
        std::vector<float> scaled = a, added = a, ema = a, other = b;
        scale(vector_of(scaled, 1), 0.3, Stream(pool));
        add_into(vector_of(added, 1), vector_of(other, 1), Stream(pool));
        ema_update(vector_of(ema, 1), vector_of(other, 1), 0.999, Stream(pool));
        EXPECT_TRUE(other == b && scaled[0] == a[0] && added[0] == a[0] && ema[0] == a[0]);
        const float decay = 0.999f, rest = static_cast<float>(1 - 0.999);
        for (size_t i = 1; i <= n; ++i) {
          ASSERT_EQ(scaled[i], a[i] * 0.3f) << i;
          ASSERT_EQ(added[i], a[i] + b[i]) << i;
          const float kept = decay * a[i], fresh = rest * b[i];
          ASSERT_EQ(ema[i], kept + fresh) << i;
        }
      }
    }
  }
}

TEST(Passes, WorkInDouble) {
  std::vector<double> a = {1, 2}, b = {10, 20};
  const Tensor ta{a.data(), DType::kF64, 1, 2}, tb{b.data(), DType::kF64, 1, 2};
  add_into(ta, tb, one_thread());
  EXPECT_EQ(a, (std::vector<double>{11, 22}));
  scale(ta, 0.1, one_thread());
  EXPECT_EQ(a, (std::vector<double>{11 * 0.1, 22 * 0.1}));
  ema_update(tb, ta, 0.9, one_thread());
  EXPECT_EQ(b[0], 0.9 * 10 + (1 - 0.9) * a[0]);
}

TEST(ElementwiseSelection, TheBestAllowedRowIsChosenAndDoubleGoesToTheReference) {
  const Convert c(DType::kF32, DType::kBF16, 1, 4, 0, false), wide(DType::kF64, DType::kBF16, 1, 4, 0, false);
  EXPECT_EQ(select_row(convert_kernels(), c.args(), Isa::kAmx).name, "avx512");
  EXPECT_EQ(select_row(convert_kernels(), c.args(), Isa::kAvx2).name, "avx2");
  EXPECT_EQ(select_row(convert_kernels(), c.args(), Isa::kReference).name, "reference");
  EXPECT_EQ(select_row(convert_kernels(), wide.args(), Isa::kAmx).name, "reference");
  const Gather g(DType::kBF16, DType::kF64, 1, 4);
  EXPECT_EQ(select_row(gather_rows_kernels(), g.args(), Isa::kAmx).name, "reference");
  const Combine narrow(DType::kF32, DType::kF32, DType::kBF16, 1, 4, 2, Combine::Base::kAbsent);
  EXPECT_EQ(select_row(combine_rows_kernels(), narrow.args(), Isa::kAvx512).name, "avx512");
  const Combine payload(DType::kF32, DType::kF32, DType::kF64, 1, 4, 2, Combine::Base::kAbsent);
  EXPECT_EQ(select_row(combine_rows_kernels(), payload.args(), Isa::kAmx).name, "reference");
}

}  // namespace
}  // namespace rorqual
