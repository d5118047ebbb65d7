// Every row of RoPE's table against the rotation in double; the inverse undoes it.
#include "kernels/rope/rope.h"

#include <gtest/gtest.h>

#include <complex>

#include "kernels/common/matrix_for_tests.h"

namespace rorqual {
namespace {

using ::rorqual::testing::difference;
using ::rorqual::testing::Matrix;

Stream one_thread() {
  static ThreadPool pool(1);
  return Stream(pool);
}

struct Case {
  int64_t rows, heads, offset, dim, after;
  bool interleaved, inverse;
};

struct Problem {
  Case shape;
  Matrix x, before, table;
  std::vector<int32_t> position;
  Problem(DType type, Case c, uint64_t seed)
      : shape(c),
        x(type, c.rows, c.heads * (c.offset + c.dim + c.after), 3),
        before(type, c.rows, x.cols()),
        table(type == DType::kF64 ? DType::kF64 : DType::kF32, 9, c.dim, 2) {
    x.fill_normal(seed);
    before.fill_normal(seed);
    table.fill([&](int64_t p, int64_t i) {
      const double angle = static_cast<double>(p) * std::pow(0.7, static_cast<double>(i % (c.dim / 2)));
      return i < c.dim / 2 ? std::cos(angle) : std::sin(angle);
    });
    for (int64_t t = 0; t < c.rows; ++t) position.push_back(static_cast<int32_t>((t * 5 + 1) % 9));
  }
  RopeArgs args() const {
    return {.x = x,
            .heads = shape.heads,
            .head_stride = shape.offset + shape.dim + shape.after,
            .offset = shape.offset,
            .dim = shape.dim,
            .table = table,
            .position = position.data(),
            .interleaved = shape.interleaved,
            .inverse = shape.inverse};
  }
};

// Two products and a sum, each rounded or fused: 2 units of the sum of magnitudes; then the output's rounding. What is not
// rotated keeps its bits.
std::string check(const Problem& p) {
  const Case& c = p.shape;
  const int64_t half = c.dim / 2, stride = c.offset + c.dim + c.after;
  Matrix truth(DType::kF64, c.rows, p.x.cols()), bound(DType::kF64, c.rows, p.x.cols()), found(DType::kF64, c.rows, p.x.cols());
  found.fill([&](int64_t r, int64_t i) { return p.x.at(r, i); });
  truth.fill([&](int64_t r, int64_t i) { return p.before.at(r, i); });
  bound.fill([](int64_t, int64_t) { return 0; });
  const double unit = p.x.tensor().dtype == DType::kBF16 ? 0x1p-8 : 0x1p-24;
  for (int64_t r = 0; r < c.rows; ++r)
    for (int64_t h = 0; h < c.heads; ++h)
      for (int64_t i = 0; i < half; ++i) {
        const int64_t start = h * stride + c.offset;
        const int64_t first = start + (c.interleaved ? 2 * i : i), second = c.interleaved ? first + 1 : first + half;
        const int64_t at = p.position[static_cast<size_t>(r)];
        const std::complex<double> turn(p.table.at(at, i), p.table.at(at, half + i));
        const std::complex<double> value(p.before.at(r, first), p.before.at(r, second));
        const std::complex<double> turned = value * (c.inverse ? std::conj(turn) : turn);
        const double size = 2 * 0x1p-24 * (std::abs(value.real()) + std::abs(value.imag()));
        truth.set(r, first, turned.real());
        truth.set(r, second, turned.imag());
        bound.set(r, first, size + 1.01 * unit * std::abs(turned.real()));
        bound.set(r, second, size + 1.01 * unit * std::abs(turned.imag()));
      }
  const std::string problem = difference(truth, found, [&](int64_t r, int64_t i) { return bound.at(r, i); });
  return problem.empty() ? p.x.written_outside() : problem;
}

class Rope : public ::testing::TestWithParam<KernelRow<RopeArgs>> {};

TEST_P(Rope, AgreesWithTheComplexProduct) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (const DType type : {DType::kF32, DType::kBF16})
    for (const bool interleaved : {true, false})
      for (const bool inverse : {true, false})
        for (int64_t dim = 2; dim <= 80; dim += 2)
          for (const int64_t heads : {1, 3}) {
            Problem p(type,
                      {.rows = 4,
                       .heads = heads,
                       .offset = dim % 3,
                       .dim = dim,
                       .after = dim % 5,
                       .interleaved = interleaved,
                       .inverse = inverse},
                      static_cast<uint64_t>(dim));
            GetParam().run(p.args(), one_thread());
            ASSERT_EQ(check(p), "") << dtype_name(type) << " dim " << dim << " interleaved " << interleaved << " inverse "
                                    << inverse;
          }
}

TEST_P(Rope, TheCheckSeesTheWrongDirectionLayoutAndPosition) {
  SKIP_IF_CPU_LACKS(GetParam());
  for (int defect = 0; defect < 3; ++defect) {
    Problem p(DType::kBF16, {.rows = 3, .heads = 2, .offset = 4, .dim = 64, .after = 0, .interleaved = true, .inverse = false},
              3);
    RopeArgs args = p.args();
    std::vector<int32_t> position = p.position;
    position[2] += 1;
    if (defect == 0) args.inverse = true;
    if (defect == 1) args.interleaved = false;
    if (defect == 2) args.position = position.data();
    GetParam().run(args, one_thread());
    EXPECT_NE(check(p), "") << defect;
  }
}

TEST_P(Rope, DoesNotDependOnThreads) {
  SKIP_IF_CPU_LACKS(GetParam());
  const Case c{.rows = 80, .heads = 16, .offset = 128, .dim = 64, .after = 0, .interleaved = true, .inverse = false};
  Problem p(DType::kF32, c, 5);
  GetParam().run(p.args(), one_thread());
  for (const int threads : {2, 3}) {
    Problem again(DType::kF32, c, 5);
    ThreadPool pool(threads);
    GetParam().run(again.args(), Stream(pool));
    EXPECT_EQ(difference(p.x, again.x), "") << threads << " threads";
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, Rope, ::testing::ValuesIn(rope_kernels().begin(), rope_kernels().end()),
                         ::rorqual::testing::RowName());

TEST(RopeBits, BothVectorRowsAgree) {
  if (cpu_isa() < Isa::kAvx512) GTEST_SKIP() << "this CPU lacks avx512";
  for (const bool interleaved : {true, false}) {
    const Case c{.rows = 5, .heads = 2, .offset = 3, .dim = 46, .after = 1, .interleaved = interleaved, .inverse = true};
    Problem wide(DType::kF32, c, 5), narrow(DType::kF32, c, 5);
    select_row(rope_kernels(), wide.args(), Isa::kAvx512).run(wide.args(), one_thread());
    select_row(rope_kernels(), narrow.args(), Isa::kAvx2).run(narrow.args(), one_thread());
    EXPECT_EQ(difference(wide.x, narrow.x), "");
  }
}

// A rotation is orthogonal: the inverse is its transpose, which is the gradient, and undoes it (4 roundings in double).
TEST(RopeInverse, UndoesTheRotationAndIsItsTranspose) {
  for (const bool interleaved : {true, false}) {
    Case c{.rows = 3, .heads = 2, .offset = 1, .dim = 6, .after = 2, .interleaved = interleaved, .inverse = false};
    Problem forward(DType::kF64, c, 17), other(DType::kF64, c, 23);
    rope(forward.args(), one_thread());
    c.inverse = true;
    Problem back(DType::kF64, c, 23);
    rope(back.args(), one_thread());
    double forward_dot = 0, back_dot = 0;  // <R x, y> = <x, Rᵀ y>
    for (int64_t r = 0; r < 3; ++r)
      for (int64_t i = 0; i < forward.x.cols(); ++i) {
        forward_dot += forward.x.at(r, i) * other.x.at(r, i);
        back_dot += forward.before.at(r, i) * back.x.at(r, i);
      }
    EXPECT_NEAR(forward_dot, back_dot, 1e-13);
    RopeArgs undo = forward.args();
    undo.inverse = true;
    rope(undo, one_thread());
    for (int64_t r = 0; r < 3; ++r)
      for (int64_t i = 0; i < forward.x.cols(); ++i) EXPECT_NEAR(forward.x.at(r, i), forward.before.at(r, i), 1e-14);
  }
}

TEST(RopeSelection, TheBestAllowedRowIsChosenAndDoubleGoesToTheReference) {
  const Case c{.rows = 1, .heads = 1, .offset = 0, .dim = 4, .after = 0, .interleaved = true, .inverse = false};
  const Problem p(DType::kBF16, c, 1), wide(DType::kF64, c, 1);
  EXPECT_EQ(select_row(rope_kernels(), p.args(), Isa::kAmx).name, "avx512");
  EXPECT_EQ(select_row(rope_kernels(), p.args(), Isa::kAvx2).name, "avx2");
  EXPECT_EQ(select_row(rope_kernels(), p.args(), Isa::kReference).name, "reference");
  EXPECT_EQ(select_row(rope_kernels(), wide.args(), Isa::kAmx).name, "reference");
}

}  // namespace
}  // namespace rorqual
