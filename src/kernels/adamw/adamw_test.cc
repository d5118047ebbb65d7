#include "kernels/adamw/adamw.h"

#include <gtest/gtest.h>

#include <deque>

#include "kernels/adamw/kernels.h"
#include "kernels/common/matrix_for_tests.h"

namespace rorqual {
namespace {

using testing::difference;
using testing::Matrix;
using testing::mixed_sizes;

// Tensors of one parameter list with their memory.
struct Parameters {
  struct Entry {
    Matrix w, g, m, v;
    double decay;
  };
  std::deque<Entry> entries;

  void add(int64_t count, DType weights, DType m, DType v, double decay, uint64_t seed) {
    Entry e{Matrix(weights, 1, count), Matrix(weights, 1, count), Matrix(m, 1, count), Matrix(v, 1, count), decay};
    e.w.fill_normal(seed);
    e.m.fill_normal(seed + 2, 1e-3);
    e.v.fill([&](int64_t, int64_t c) { return 1e-6 * random_uniform({.seed = seed + 3}, static_cast<uint64_t>(c)); });
    entries.push_back(std::move(e));
    new_gradients(seed + 1);
  }
  // From tiny (its square underflows) to large, with exact zeros.
  void new_gradients(uint64_t seed) {
    for (Entry& e : entries)
      e.g.fill([&](int64_t, int64_t c) {
        const auto words = random_words({.seed = seed}, static_cast<uint64_t>(c));
        const double x = std::ldexp(2.0 * words[0] - 0x1p32, -32 - 80 + static_cast<int>(words[1] % 88));
        return c % 11 == 5 ? 0.0 : x;
      });
  }
  std::vector<AdamWTensor> list() const {
    std::vector<AdamWTensor> out;
    for (const Entry& e : entries) out.push_back({e.w, e.g, e.m, e.v, e.decay});
    return out;
  }
};

std::string first_difference(const Parameters& expected, const Parameters& actual) {
  for (size_t i = 0; i < expected.entries.size(); ++i) {
    const auto &e = expected.entries[i], &a = actual.entries[i];
    for (auto [name, x, y] : {std::tuple{"w", &e.w, &a.w}, {"g", &e.g, &a.g}, {"m", &e.m, &a.m}, {"v", &e.v, &a.v}}) {
      if (const std::string d = difference(*x, *y); !d.empty()) return fmt::format("tensor {} {}: {}", i, name, d);
      if (const std::string d = y->written_outside(); !d.empty()) return fmt::format("tensor {} {}: {}", i, name, d);
    }
  }
  return {};
}

AdamWArgs settings(const std::vector<AdamWTensor>& list, int64_t step = 3) {
  return {.tensors = list, .lr = 2.2e-4, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .grad_scale = 0.37, .step = step};
}

class AdamW : public ::testing::TestWithParam<KernelRow<AdamWArgs>> {};
INSTANTIATE_TEST_SUITE_P(Rows, AdamW, ::testing::ValuesIn(adamw_kernels()), testing::RowName());

// All instruction sets do the same operations in the same order and fuse none.
TEST_P(AdamW, EqualsReferenceInEveryBit) {
  SKIP_IF_CPU_LACKS(GetParam());
  ThreadPool pool(2);
  const Stream stream(pool);
  for (DType m : {DType::kF32, DType::kBF16}) {
    for (DType v : {DType::kF32, DType::kBF16}) {
      Parameters expected;
      for (int64_t n : mixed_sizes()) expected.add(n, DType::kF32, m, v, n % 2 ? 0.1 : 0.0, static_cast<uint64_t>(n));
      for (int64_t n : {16383, 16385, 33000}) expected.add(n, DType::kF32, m, v, 0.1, static_cast<uint64_t>(n));
      Parameters actual(expected);
      for (int64_t step = 1; step <= 3; ++step) {
        expected.new_gradients(static_cast<uint64_t>(step));
        actual.new_gradients(static_cast<uint64_t>(step));
        const auto expected_list = expected.list(), actual_list = actual.list();
        const AdamWArgs args = settings(actual_list, step);
        ASSERT_EQ(GetParam().refuse(args), "");
        GetParam().run(args, stream);
        adamw_kernels().back().run(settings(expected_list, step), stream);
        ASSERT_EQ(first_difference(expected, actual), "") << "step " << step;
      }
    }
  }
}

TEST_P(AdamW, SpecialValuesEqualReference) {
  SKIP_IF_CPU_LACKS(GetParam());
  ThreadPool pool(1);
  const Stream stream(pool);
  for (DType moment : {DType::kF32, DType::kBF16}) {
    Parameters expected;
    expected.add(45, DType::kF32, moment, moment, 0.1, 1);
    const double special[] = {0.0, -0.0, 1e-40, INFINITY, -INFINITY, std::nan(""), 3e38, -1e30, 1e-20};
    auto& e = expected.entries[0];
    for (int64_t i = 0; i < 45; ++i) {
      e.g.set(0, i, special[i % 9]);
      if (i >= 9) e.v.set(0, i, i % 2 ? 0.0 : 1e-41);
      if (i >= 18) e.m.set(0, i, special[i / 9]);
    }
    Parameters actual(expected);
    const auto expected_list = expected.list(), actual_list = actual.list();
    GetParam().run(settings(actual_list), stream);
    adamw_kernels().back().run(settings(expected_list), stream);
    EXPECT_EQ(first_difference(expected, actual), "");
  }
}

TEST_P(AdamW, SameBitsForEveryNumberOfThreads) {
  SKIP_IF_CPU_LACKS(GetParam());
  Parameters start;
  for (int64_t n : {50000, 7, 20000}) start.add(n, DType::kF32, DType::kBF16, DType::kBF16, 0.1, static_cast<uint64_t>(n));
  Parameters expected(start);
  ThreadPool one(1);
  const auto expected_list = expected.list();
  GetParam().run(settings(expected_list), Stream(one));
  for (int threads : {2, 3}) {
    Parameters actual(start);
    ThreadPool pool(threads);
    const auto actual_list = actual.list();
    GetParam().run(settings(actual_list), Stream(pool));
    EXPECT_EQ(first_difference(expected, actual), "") << threads << " threads";
  }
}

// The formula as torch.optim.AdamW writes it (lerp, bias corrections by division), in long double. Ten steps of about ten
// roundings each stay below 100 · 2^-53 · the largest weight (4) ≈ 5e-14.
TEST(AdamWReference, EqualsTorchFormulaInDouble) {
  ThreadPool pool(1);
  const int64_t n = 50;
  Parameters p;
  p.add(n, DType::kF64, DType::kF64, DType::kF64, 0.1, 3);
  auto& e = p.entries[0];
  std::vector<long double> w(n), m(n), v(n);
  for (int64_t i = 0; i < n; ++i) {
    w[i] = e.w.at(0, i);
    m[i] = e.m.at(0, i);
    v[i] = e.v.at(0, i);
  }
  for (int64_t step = 1; step <= 10; ++step) {
    e.g.fill_normal(static_cast<uint64_t>(100 + step), 0.1);
    const auto list = p.list();
    adamw(settings(list, step), Stream(pool));
    for (int64_t i = 0; i < n; ++i) {
      const long double g = static_cast<long double>(e.g.at(0, i)) * 0.37, lr = 2.2e-4, b1 = 0.9, b2 = 0.95, eps = 1e-8;
      w[i] *= 1 - lr * 0.1;
      m[i] += (g - m[i]) * (1 - b1);
      v[i] = v[i] * b2 + (1 - b2) * g * g;
      const long double denominator = std::sqrt(v[i]) / std::sqrt(1 - std::pow(b2, step)) + eps;
      w[i] -= lr / (1 - std::pow(b1, step)) * m[i] / denominator;
      EXPECT_NEAR(e.w.at(0, i), static_cast<double>(w[i]), 5e-14) << "step " << step << " element " << i;
      EXPECT_NEAR(e.m.at(0, i), static_cast<double>(m[i]), 5e-15);
      EXPECT_NEAR(e.v.at(0, i), static_cast<double>(v[i]), 5e-15);
    }
  }
}

// First step from zero moments: m/(1-β1) = g, v/(1-β2) = g², so the weight moves by lr · sign(g) whatever the size of g.
TEST(AdamWReference, FirstStepByHand) {
  ThreadPool pool(1);
  Parameters p;
  p.add(2, DType::kF32, DType::kBF16, DType::kBF16, 0.5, 1);
  auto& e = p.entries[0];
  e.w.fill([](int64_t, int64_t) { return 2; });
  e.m.fill([](int64_t, int64_t) { return 0; });
  e.v.fill([](int64_t, int64_t) { return 0; });
  e.g.set(0, 0, 3);
  e.g.set(0, 1, -0.03);
  const auto list = p.list();
  adamw({.tensors = list, .lr = 0.01, .beta1 = 0.9, .beta2 = 0.95, .eps = 0, .grad_scale = 2, .step = 1}, Stream(pool));
  // Six roundings of 2^-24 on values up to 2.
  EXPECT_NEAR(e.w.at(0, 0), 2 * (1 - 0.005) - 0.01, 6 * 0x1p-23);
  EXPECT_NEAR(e.w.at(0, 1), 2 * (1 - 0.005) + 0.01, 6 * 0x1p-23);
  // The moments are those of 6 and -0.06, rounded to nearest even.
  EXPECT_EQ(e.m.at(0, 0), static_cast<double>(Bf16(static_cast<float>(1 - 0.9) * 6.0f)));
  EXPECT_EQ(e.v.at(0, 0), static_cast<double>(Bf16(static_cast<float>(1 - 0.95) * 36.0f)));
  EXPECT_EQ(e.m.at(0, 1), static_cast<double>(Bf16(static_cast<float>(1 - 0.9) * (-0.03f * 2.0f))));
}

// Every element once, in order, small tensors together.
TEST(AdamWPartition, CoversEveryElementOnce) {
  std::vector<AdamWTensor> list;
  const int64_t counts[] = {5, 0, 16384, 16385, 100, 200, 40000, 0, 7};
  for (int64_t n : counts) {
    AdamWTensor t;
    t.w = Tensor(nullptr, DType::kF32, 1, n);
    list.push_back(t);
  }
  const adamw_detail::Partition p = adamw_detail::cut_work(settings(list));
  ASSERT_EQ(p.task_begin.front(), 0);
  ASSERT_EQ(p.task_begin.back(), static_cast<int64_t>(p.blocks.size()));
  std::vector<int64_t> covered(std::size(counts));
  for (int64_t task = 0; task < p.tasks(); ++task) {
    int64_t elements = 0;
    for (int64_t i = p.task_begin[task]; i < p.task_begin[task + 1]; ++i) {
      EXPECT_EQ(p.blocks[i].begin, covered[p.blocks[i].tensor]);
      covered[p.blocks[i].tensor] += p.blocks[i].count;
      elements += p.blocks[i].count;
    }
    EXPECT_GT(elements, 0);
    EXPECT_LE(elements, adamw_detail::kBlockElements);
  }
  for (size_t i = 0; i < std::size(counts); ++i) EXPECT_EQ(covered[i], counts[i]);
  // [5] [16384] [16384] [1 + 100 + 200] [16384] [16384] [7232 + 7]
  EXPECT_EQ(p.tasks(), 7);
  EXPECT_EQ(adamw_detail::cut_work(settings({})).tasks(), 0);
}

TEST(AdamWReference, PlantedDefectsAreSeen) {
  ThreadPool pool(1);
  Parameters good;
  good.add(100, DType::kF32, DType::kBF16, DType::kBF16, 0.1, 1);
  Parameters bad(good), dropped(good);
  const auto good_list = good.list();
  auto bad_list = bad.list(), dropped_list = dropped.list();
  bad_list[0].decay = 0;  // decay forgotten
  for (Tensor* x : {&dropped_list[0].w, &dropped_list[0].g, &dropped_list[0].m, &dropped_list[0].v})
    *x = x->col_range(0, 96);  // the tail not updated
  adamw(settings(good_list), Stream(pool));
  adamw(settings(bad_list), Stream(pool));
  adamw(settings(dropped_list), Stream(pool));
  EXPECT_NE(first_difference(good, bad), "");
  EXPECT_NE(first_difference(good, dropped), "");
}

TEST(AdamWReference, SelectsTheBestRowThatAccepts) {
  Parameters f32, f64;
  f32.add(3, DType::kF32, DType::kBF16, DType::kF32, 0, 1);
  f64.add(3, DType::kF64, DType::kF64, DType::kF64, 0, 1);
  const auto f32_list = f32.list(), f64_list = f64.list();
  for (Isa isa : {Isa::kReference, Isa::kAvx2, Isa::kAvx512})
    EXPECT_EQ(select_row(adamw_kernels(), settings(f32_list), isa).isa, isa);
  EXPECT_EQ(select_row(adamw_kernels(), settings(f32_list), Isa::kAmx).isa, Isa::kAvx512);
  EXPECT_EQ(select_row(adamw_kernels(), settings(f64_list), Isa::kAmx).isa, Isa::kReference);
}

TEST(AdamWDeathTest, WrongArguments) {
  ThreadPool pool(1);
  Parameters p;
  p.add(3, DType::kF32, DType::kF64, DType::kF32, 0, 1);
  const auto list = p.list();
  EXPECT_DEATH(adamw(settings(list), Stream(pool)), "F32 weights and F64 moments");
  EXPECT_DEATH(adamw(settings({}, 0), Stream(pool)), "step 0");
  Parameters coded;
  coded.add(4, DType::kF32, DType::kF32, DType::kF32, 0, 1);
  auto copied = coded.list();
  uint8_t codes[4];
  copied[0].copy = Tensor(codes, DType::kE4M3, 1, 4);
  EXPECT_DEATH(adamw(settings(copied), Stream(pool)), "a coded copy of tensor 0");
}

}  // namespace
}  // namespace rorqual
