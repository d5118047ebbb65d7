#include "kernels/embedding/embedding.h"

#include <gtest/gtest.h>

#include <limits>

#include "kernels/common/matrix_for_tests.h"

namespace rorqual {
namespace {

using testing::difference;
using testing::Matrix;
using testing::mixed_sizes;

std::vector<int32_t> some_tokens(int64_t tokens, int64_t vocabulary) {
  std::vector<int32_t> t(static_cast<size_t>(tokens));
  for (size_t i = 0; i < t.size(); ++i)
    t[i] = static_cast<int32_t>(random_below({.seed = 5}, i, static_cast<uint64_t>(vocabulary)));
  return t;
}

// Values whose conversion to BF16 is delicate: ties, denormals of both formats, overflow by rounding, infinities, NaN.
double delicate(int64_t i) {
  static const float values[] = {1.00390625f,   1.01171875f, -1.00390625f,  1e-40f,    -1.2e-40f, 3.4e38f,
                                 -3.39e38f,     1e-38f,      0.0f,          -0.0f,     INFINITY,  -INFINITY,
                                 std::nanf(""), 1.0000001f,  0x1.fffffep0f, 0x1p-133f, 0x1p-134f, 0x1.8p-134f};
  return static_cast<double>(values[i % 18]);
}

class EmbeddingForward : public ::testing::TestWithParam<KernelRow<EmbeddingForwardArgs>> {};
INSTANTIATE_TEST_SUITE_P(Rows, EmbeddingForward, ::testing::ValuesIn(embedding_forward_kernels()), testing::RowName());

TEST_P(EmbeddingForward, EqualsReferenceInEveryBit) {
  SKIP_IF_CPU_LACKS(GetParam());
  ThreadPool pool(2);
  const Stream stream(pool);
  int accepted = 0;
  for (DType out : {DType::kF32, DType::kBF16}) {
    for (int64_t d : mixed_sizes()) {
      const int64_t tokens = d % 5 + 1;
      Matrix table(DType::kF32, 9, d);
      table.fill_normal(1);
      for (int64_t c = 0; c < d; ++c) table.set(c % 9, c, delicate(c));
      const auto token = some_tokens(tokens, 9);
      Matrix expected(out, tokens, d), actual(out, tokens, d);
      EmbeddingForwardArgs args{table, token.data(), actual};
      if (!GetParam().refuse(args).empty()) continue;
      ++accepted;
      GetParam().run(args, stream);
      args.y = expected;
      embedding_forward_kernels().back().run(args, stream);
      ASSERT_EQ(difference(expected, actual), "") << "d " << d << " to " << dtype_name(out);
      ASSERT_EQ(actual.written_outside(), "");
    }
  }
  EXPECT_EQ(accepted, 2 * static_cast<int>(mixed_sizes().size()));
}

TEST_P(EmbeddingForward, SameBitsForEveryNumberOfThreads) {
  SKIP_IF_CPU_LACKS(GetParam());
  Matrix table(DType::kF32, 50, 700);
  table.fill_normal(2);
  const auto token = some_tokens(200, 50);
  ThreadPool one(1);
  Matrix expected(DType::kBF16, 200, 700);
  GetParam().run({table, token.data(), expected}, Stream(one));
  for (int threads : {2, 3}) {
    ThreadPool pool(threads);
    Matrix actual(DType::kBF16, 200, 700);
    GetParam().run({table, token.data(), actual}, Stream(pool));
    EXPECT_EQ(difference(expected, actual), "") << threads << " threads";
  }
}

class EmbeddingBackward : public ::testing::TestWithParam<KernelRow<EmbeddingBackwardArgs>> {};
INSTANTIATE_TEST_SUITE_P(Rows, EmbeddingBackward, ::testing::ValuesIn(embedding_backward_kernels()), testing::RowName());

TEST_P(EmbeddingBackward, EqualsReferenceInEveryBit) {
  SKIP_IF_CPU_LACKS(GetParam());
  ThreadPool pool(2);
  const Stream stream(pool);
  int accepted = 0;
  for (DType in : {DType::kF32, DType::kBF16}) {
    for (int64_t d : mixed_sizes()) {
      const int64_t tokens = 3 * (d % 5);  // more tokens than rows of the table: every row is met several times
      Matrix d_y(in, tokens, d), start(DType::kF32, 4, d);
      d_y.fill_normal(3);
      start.fill_normal(4);
      const auto token = some_tokens(tokens, 4);
      Matrix expected(start), actual(start);
      EmbeddingBackwardArgs args{token.data(), d_y, actual};
      if (!GetParam().refuse(args).empty()) continue;
      ++accepted;
      GetParam().run(args, stream);
      args.d_table = expected;
      embedding_backward_kernels().back().run(args, stream);
      ASSERT_EQ(difference(expected, actual), "") << "d " << d << " from " << dtype_name(in);
      ASSERT_EQ(actual.written_outside(), "");
    }
  }
  EXPECT_EQ(accepted, 2 * static_cast<int>(mixed_sizes().size()));
}

TEST_P(EmbeddingBackward, SameBitsForEveryNumberOfThreads) {
  SKIP_IF_CPU_LACKS(GetParam());
  Matrix d_y(DType::kF32, 300, 700), start(DType::kF32, 20, 700);
  d_y.fill_normal(5);
  start.fill_normal(6);
  const auto token = some_tokens(300, 20);
  ThreadPool one(1);
  Matrix expected(start);
  GetParam().run({token.data(), d_y, expected}, Stream(one));
  for (int threads : {2, 3}) {
    ThreadPool pool(threads);
    Matrix actual(start);
    GetParam().run({token.data(), d_y, actual}, Stream(pool));
    EXPECT_EQ(difference(expected, actual), "") << threads << " threads";
  }
}

// 1e8 + 1 loses the 1 in F32, so the sum tells in which order its addends came.
TEST_P(EmbeddingBackward, AddsInAscendingTokenOrder) {
  SKIP_IF_CPU_LACKS(GetParam());
  ThreadPool pool(2);
  for (int64_t d : {1, 15, 16, 33, 200}) {
    Matrix d_y(DType::kF32, 4, d), table(DType::kF32, 2, d);
    const double addends[] = {1e8, 1, -1e8, 2};
    d_y.fill([&](int64_t r, int64_t) { return addends[r]; });
    table.fill([](int64_t, int64_t) { return 0; });
    const int32_t token[] = {1, 1, 1, 1};
    GetParam().run({token, d_y, table}, Stream(pool));
    for (int64_t c = 0; c < d; ++c) {
      ASSERT_EQ(table.at(1, c), 2.0) << "column " << c;
      ASSERT_EQ(table.at(0, c), 0.0) << "column " << c;
    }
  }
}

// y is linear in the table, so the central difference of Σ c·y is exact but for rounding: 1e-9 is 4e6 times 2^-52.
TEST(Embedding, BackwardIsTheDerivativeInDouble) {
  ThreadPool pool(1);
  const Stream stream(pool);
  Matrix table(DType::kF64, 3, 4), y(DType::kF64, 5, 4), d_y(DType::kF64, 5, 4), d_table(DType::kF64, 3, 4);
  table.fill_normal(7);
  d_y.fill_normal(8);
  d_table.fill([](int64_t, int64_t) { return 0; });
  const int32_t token[] = {2, 0, 2, 2, 0};
  const auto loss = [&] {
    embedding_forward({table, token, y}, stream);
    double sum = 0;
    for (int64_t r = 0; r < 5; ++r)
      for (int64_t c = 0; c < 4; ++c) sum += y.at(r, c) * d_y.at(r, c);
    return sum;
  };
  embedding_backward({token, d_y, d_table}, stream);
  for (int64_t r = 0; r < 3; ++r) {
    for (int64_t c = 0; c < 4; ++c) {
      const double x = table.at(r, c), h = 0.5;
      table.set(r, c, x + h);
      const double above = loss();
      table.set(r, c, x - h);
      const double below = loss();
      table.set(r, c, x);
      EXPECT_NEAR((above - below) / (2 * h), d_table.at(r, c), 1e-9) << r << ", " << c;
    }
  }
}

TEST(Embedding, ForwardByHand) {
  ThreadPool pool(1);
  Matrix table(DType::kF32, 3, 2), y(DType::kBF16, 3, 2);
  table.fill([](int64_t r, int64_t c) { return static_cast<double>(10 * r + c) + 1.0 / 1024; });  // rounded away in BF16
  const int32_t token[] = {2, 0, 2};
  embedding_forward({table, token, y}, Stream(pool));
  EXPECT_EQ(y.at(0, 0), 20);
  EXPECT_EQ(y.at(0, 1), 21);
  EXPECT_EQ(y.at(1, 1), 1);
  EXPECT_EQ(y.at(2, 1), 21);
}

// The comparison that the tests above rest on sees a tile that was dropped and a token that went to the wrong row.
TEST(Embedding, PlantedDefectsAreSeen) {
  ThreadPool pool(1);
  const Stream stream(pool);
  Matrix table(DType::kF32, 6, 40), good(DType::kF32, 3, 40), bad(DType::kF32, 3, 40);
  table.fill_normal(9);
  const int32_t token[] = {1, 5, 3}, wrong[] = {1, 4, 3};
  embedding_forward({table, token, good}, stream);
  embedding_forward({table, wrong, bad}, stream);
  EXPECT_NE(difference(good, bad), "");
  Matrix dropped(good);
  for (int64_t c = 32; c < 40; ++c) dropped.set(2, c, 0);
  EXPECT_NE(difference(good, dropped), "");
  good.tensor().row<float>(0)[-1] = 1;
  EXPECT_NE(good.written_outside(), "");
}

TEST(Embedding, SelectsTheBestRowThatAccepts) {
  Matrix f32(DType::kF32, 1, 4), bf16(DType::kBF16, 1, 4), f64(DType::kF64, 1, 4);
  const auto forward = [](const Matrix& table, const Matrix& y, Isa isa) {
    return select_row(embedding_forward_kernels(), EmbeddingForwardArgs{table, nullptr, y}, isa).isa;
  };
  const auto backward = [](const Matrix& d_y, const Matrix& table, Isa isa) {
    return select_row(embedding_backward_kernels(), EmbeddingBackwardArgs{nullptr, d_y, table}, isa).isa;
  };
  for (Isa isa : {Isa::kReference, Isa::kAvx2, Isa::kAvx512}) {
    EXPECT_EQ(forward(f32, bf16, isa), isa);
    EXPECT_EQ(forward(f32, f32, isa), isa);
    EXPECT_EQ(backward(bf16, f32, isa), isa);
    EXPECT_EQ(backward(f32, f32, isa), isa);
  }
  EXPECT_EQ(forward(f32, bf16, Isa::kAmx), Isa::kAvx512);
  EXPECT_EQ(forward(f64, f64, Isa::kAmx), Isa::kReference);
  EXPECT_EQ(backward(f64, f64, Isa::kAmx), Isa::kReference);
}

TEST(EmbeddingDeathTest, TokenOutOfRange) {
  ThreadPool pool(1);
  const Stream stream(pool);
  Matrix table(DType::kF32, 3, 4), y(DType::kF32, 2, 4);
  const int32_t high[] = {0, 3}, low[] = {-1, 0};
  EXPECT_DEATH(embedding_forward({table, high, y}, stream), "token\\[1\\] is 3, the table has 3 rows");
  EXPECT_DEATH(embedding_backward({low, y, table}, stream), "token\\[0\\] is -1");
}

}  // namespace
}  // namespace rorqual
