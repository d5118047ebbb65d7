#include "kernels/rope/sm90a.h"

#include "kernels/common/sm90a_for_tests.h"

namespace rorqual {
namespace {

using testing::difference;
using testing::Matrix;
using testing::Mirrored;
using RopeSm90a = hopper::HopperTest;

// A gap that keeps rows at multiples of 16 bytes.
constexpr int64_t kWhole = -1;

struct Case {
  int64_t rows, heads, head_stride, offset, dim;
  int64_t gap = kWhole, before = 8;  // elements between rows, and before the first
};

Matrix table_of(int64_t positions, int64_t dim, int64_t gap) {
  Matrix table(DType::kF32, positions, dim, gap, 4);
  table.fill([&](int64_t r, int64_t c) {
    const double angle = static_cast<double>(r) * std::pow(10.0, -static_cast<double>(c % (dim / 2)) / 7);
    return c < dim / 2 ? std::cos(angle) : std::sin(angle);
  });
  return table;
}

// The kernel against the scalar truth, every bit.
void expect_equal(const Case& c, DType dtype, bool interleaved, bool inverse) {
  constexpr int64_t kPositions = 40;
  const int64_t cols = (c.heads - 1) * c.head_stride + c.offset + c.dim + 3;
  const int64_t gap = c.gap == kWhole ? 8 + (8 - cols % 8) % 8 : c.gap;
  Matrix expected(dtype, c.rows, cols, gap, c.before), actual(dtype, c.rows, cols, gap, c.before);
  expected.fill_normal(static_cast<uint64_t>(cols));
  actual.fill_normal(static_cast<uint64_t>(cols));
  const Matrix table = table_of(kPositions, c.dim, 4);
  std::vector<int32_t> position(static_cast<size_t>(c.rows));
  for (size_t i = 0; i < position.size(); ++i)
    position[i] = static_cast<int32_t>(random_below({.seed = 5}, i, static_cast<uint64_t>(kPositions)));
  RopeArgs args{.x = expected,
                .heads = c.heads,
                .head_stride = c.head_stride,
                .offset = c.offset,
                .dim = c.dim,
                .table = table,
                .position = position.data(),
                .interleaved = interleaved,
                .inverse = inverse};
  rope_kernels().back().run(args, testing::one_thread());

  const Mirrored x(actual), angles(table);
  const auto positions = hopper::to_device(position);
  args.x = x.device();
  args.table = angles.device();
  args.position = positions.as<int32_t>();
  ASSERT_EQ(refuse_rope_sm90a(args), "");
  rope_sm90a(args, Stream::on_device());
  x.fetch(actual);
  EXPECT_EQ(difference(expected, actual), "");
  EXPECT_EQ(actual.written_outside(), "");
}

TEST_F(RopeSm90a, EqualsTheScalarTruthInEveryBit) {
  const std::vector<Case> cases = {
      {5, 9, 192, 128, 64},      // queries: part of each head
      {7, 1, 0, 512, 64},        // the one key
      {3, 4, 64, 0, 64},         // whole heads
      {2, 5, 40, 8, 32},         //
      {1, 1, 16, 0, 16},         //
      {4, 3, 48, 16, 16},        //
      {3, 3, 11, 1, 6},          // pairs that no piece of 16 bytes holds
      {2, 2, 2, 0, 2, 1, 1},     //
      {3, 2, 64, 0, 64, 3, 1},   // rows that begin anywhere
      {2, 17, 192, 128, 64, 5},  //
  };
  for (const Case& c : cases)
    for (const DType dtype : {DType::kF32, DType::kBF16})
      for (const bool interleaved : {true, false})
        for (const bool inverse : {false, true}) {
          SCOPED_TRACE(fmt::format("{} heads of {} in {}, {}, interleaved {}, inverse {}", c.heads, c.dim, c.head_stride,
                                   dtype_name(dtype), interleaved, inverse));
          expect_equal(c, dtype, interleaved, inverse);
        }
}

TEST_F(RopeSm90a, TakesNoRows) {
  const Matrix table = table_of(2, 16, 0);
  RopeArgs args;
  args.x = Tensor(nullptr, DType::kBF16, 0, 16);
  args.dim = 16;
  args.table = table;
  rope_sm90a(args, Stream::on_device());
}

TEST_F(RopeSm90a, RefusesDoubleAndTooManyPairs) {
  RopeArgs args;
  args.x = Tensor(nullptr, DType::kF64, 1, 16);
  EXPECT_NE(refuse_rope_sm90a(args), "");
  args.x = Tensor(nullptr, DType::kBF16, int64_t{1} << 28, 16);
  args.dim = 16;
  EXPECT_NE(refuse_rope_sm90a(args), "");
}

}  // namespace
}  // namespace rorqual
