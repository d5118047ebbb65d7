#include "kernels/cross_entropy/sm90a.h"

#include "kernels/common/sm90a_for_tests.h"

namespace rorqual {
namespace {

using testing::difference;
using testing::Matrix;
using testing::Mirrored;
using CrossEntropySm90a = hopper::HopperTest;

constexpr double kHalfUlp = 0x1p-24;

enum class Output { kNone, kF32, kBF16, kInPlace };

struct Problem {
  Mirrored logits, coefficient;
  std::vector<int32_t> target;

  Problem(DType dtype, int64_t tokens, int64_t vocabulary, double spread = 3)
      : logits(dtype, tokens, vocabulary), coefficient(DType::kF32, 1, tokens) {
    const auto seed = static_cast<uint64_t>(vocabulary);
    // A sum of uniforms: near enough to normal, and quick for whole vocabularies.
    logits.fill([&](int64_t t, int64_t c) {
      const auto words = random_words({.seed = seed}, static_cast<uint64_t>(t * vocabulary + c));
      double sum = 0;
      for (const uint32_t word : words) sum += word * 0x1p-32 - 0.5;
      return spread * 1.7 * sum;
    });
    coefficient.fill_normal(seed + 1, 1e-2);
    for (int64_t t = 0; t < tokens; ++t)
      target.push_back(
          static_cast<int32_t>(random_below({.seed = seed + 2}, static_cast<uint64_t>(t), static_cast<uint64_t>(vocabulary))));
  }
};

struct Result {
  Mirrored nll, d;
};

Result run(const Problem& p, Output output) {
  const int64_t rows = p.logits.rows(), vocabulary = p.logits.cols();
  const bool in_place = output == Output::kInPlace;
  const DType d_type = output == Output::kBF16 ? DType::kBF16 : output == Output::kF32 ? DType::kF32 : p.logits.host().dtype;
  const Mirrored logits(p.logits), coefficient(p.coefficient);
  Result r{Mirrored(DType::kF32, 1, rows), in_place ? logits : Mirrored(d_type, rows, vocabulary)};
  const auto target = hopper::to_device(p.target);
  CrossEntropyArgs args{in_place ? r.d.device() : logits.device(), target.as<int32_t>(), coefficient.device(), r.nll.device(),
                        r.d.device()};
  if (output == Output::kNone) args.d_logits = args.coefficient = {};
  EXPECT_EQ(refuse_cross_entropy_sm90a(args), "");
  cross_entropy_sm90a(args, Stream::on_device());
  r.nll.download();
  r.d.download();
  EXPECT_EQ(r.nll.matrix().written_outside() + r.d.matrix().written_outside(), "");
  return r;
}

// Against the softmax in double.
void expect_right(const Problem& p, const Result& found, bool gradient) {
  const int64_t rows = p.logits.rows(), vocabulary = p.logits.cols();
  Matrix nll(DType::kF64, 1, rows), d(DType::kF64, rows, vocabulary), exponent(DType::kF64, rows, vocabulary);
  for (int64_t t = 0; t < rows; ++t) {
    double max = -INFINITY, sum = 0;
    for (int64_t c = 0; c < vocabulary; ++c) max = std::max(max, p.logits.at(t, c));
    for (int64_t c = 0; c < vocabulary; ++c) {
      exponent.set(t, c, p.logits.at(t, c) - max);
      const double power = std::exp(exponent.at(t, c));
      sum += power;
      d.set(t, c, power);
    }
    const int32_t target = p.target[static_cast<size_t>(t)];
    nll.set(0, t, std::log(sum) - exponent.at(t, target));
    const double coefficient = p.coefficient.at(0, t);
    for (int64_t c = 0; c < vocabulary; ++c)
      d.set(t, c, coefficient * (c == target ? std::expm1(-nll.at(0, t)) : d.at(t, c) / sum));
  }
  // The sum: 2 ulp of a power, the roundings of its exponent (below 2^5 where powers weigh), a worker's additions each with a
  // rescaling, trees over the vector, the lanes and the warps.
  const double additions = static_cast<double>(vocabulary) * 4 / 16 / 512 + 1;
  const double sum_error = (4 + 64 + 3 * additions + 3 + 3 * 9) * kHalfUlp;
  EXPECT_EQ(difference(nll, found.nll.matrix(),
                       [&](int64_t, int64_t t) { return sum_error + 4 * kHalfUlp * std::abs(nll.at(0, t)); }),
            "");
  if (!gradient) return;
  const double narrow = found.d.host().dtype == DType::kBF16 ? 0x1p-8 : 0;
  EXPECT_EQ(difference(d, found.d.matrix(),
                       [&](int64_t t, int64_t c) {
                         const double own = (8 - 3 * exponent.at(t, c)) * kHalfUlp, size = std::abs(d.at(t, c));
                         const bool target = c == p.target[static_cast<size_t>(t)];
                         return size * (sum_error + own + narrow) + 0x1p-126 +
                                (target ? std::abs(p.coefficient.at(0, t)) * (sum_error + own) : 0);
                       }),
            "");
}

TEST_F(CrossEntropySm90a, AgreesWithTheSoftmax) {
  for (const DType dtype : {DType::kF32, DType::kBF16})
    for (const int64_t vocabulary : {1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 64, 100, 255, 1000, 4095, 4096, 8197, 20011}) {
      const Problem p(dtype, vocabulary % 3 + 1, vocabulary);
      for (const Output output : {Output::kNone, Output::kF32, Output::kBF16, Output::kInPlace}) {
        SCOPED_TRACE(fmt::format("{} {}", vocabulary, dtype_name(dtype)));
        expect_right(p, run(p, output), output != Output::kNone);
      }
    }
}

// Rows that fill shared memory, registers too, and more than both.
TEST_F(CrossEntropySm90a, TakesWholeVocabularies) {
  for (const auto& [dtype, vocabulary] :
       {std::pair{DType::kBF16, 106496 + 3}, {DType::kBF16, 129280}, {DType::kBF16, 131072 + 20003}, {DType::kF32, 129280}}) {
    const Problem p(dtype, 2, vocabulary);
    SCOPED_TRACE(fmt::format("{} {}", vocabulary, dtype_name(dtype)));
    expect_right(p, run(p, Output::kInPlace), true);
  }
}

TEST_F(CrossEntropySm90a, BlocksTakeRowAfterRow) {
  const int rows = 2 * hopper::device_info().multiprocessors + 3;
  const Problem p(DType::kBF16, rows, 9000);
  for (const Output output : {Output::kInPlace, Output::kNone}) expect_right(p, run(p, output), output != Output::kNone);
}

TEST_F(CrossEntropySm90a, ARowDependsOnItselfAlone) {
  const int rows = hopper::device_info().multiprocessors + 2;
  const Problem many(DType::kF32, rows, 300);
  const Result all = run(many, Output::kF32);
  for (const int64_t t : {int64_t{0}, int64_t{1}, static_cast<int64_t>(rows - 1)}) {
    Problem one(DType::kF32, 1, 300);
    for (int64_t c = 0; c < 300; ++c) one.logits.set(0, c, many.logits.at(t, c));
    one.coefficient.set(0, 0, many.coefficient.at(0, t));
    one.target[0] = many.target[static_cast<size_t>(t)];
    const Result alone = run(one, Output::kF32);
    EXPECT_EQ(alone.nll.at(0, 0), all.nll.at(0, t));
    for (int64_t c = 0; c < 300; ++c) EXPECT_EQ(alone.d.at(0, c), all.d.at(t, c));
  }
}

TEST_F(CrossEntropySm90a, SteepRowsAndMaskedLogits) {
  Problem p(DType::kF32, 5, 500);
  for (int64_t c = 0; c < 500; ++c) {
    p.logits.set(0, c, c == 77 ? 90.0 : -90.0);  // one certain class, which is the target
    p.logits.set(1, c, static_cast<double>(c) * 100 - 20000);
    if (c % 2 == 0 || c < 40) p.logits.set(2, c, static_cast<double>(-INFINITY));
    p.logits.set(3, c, 1e30);
    p.logits.set(4, c, -1e30);
  }
  p.target = {77, 499, 41, 3, 4};
  const Result r = run(p, Output::kF32);
  Problem usual(p);
  expect_right(usual, r, true);
  EXPECT_EQ(r.d.at(2, 0), 0);
}

TEST_F(CrossEntropySm90a, NaNsAndTargetsOutsideShow) {
  Problem p(DType::kBF16, 4, 100);
  p.logits.set(0, 50, std::nan(""));
  p.logits.set(1, 99, static_cast<double>(INFINITY));
  p.target = {3, 4, 100, -1};
  const Result r = run(p, Output::kF32);
  for (int64_t t = 0; t < 4; ++t) EXPECT_TRUE(std::isnan(r.nll.at(0, t))) << t;
  for (int64_t t = 0; t < 2; ++t) EXPECT_TRUE(std::isnan(r.d.at(t, p.target[static_cast<size_t>(t)]))) << t;
  for (int64_t c = 0; c < 100; ++c) EXPECT_FALSE(std::isnan(r.d.at(2, c)) || std::isnan(r.d.at(3, c))) << c;
}

TEST_F(CrossEntropySm90a, TakesNoRows) {
  cross_entropy_sm90a({Tensor(nullptr, DType::kF32, 0, 8), nullptr, {}, Tensor(nullptr, DType::kF32, 1, 0), {}},
                      Stream::on_device());
}

TEST_F(CrossEntropySm90a, RefusesWhatItCannotDo) {
  alignas(16) static float data[64];
  const Tensor logits(data, DType::kF32, 2, 8), vector(data, DType::kF32, 1, 2);
  const auto why = [&](auto change) {
    CrossEntropyArgs args{logits, nullptr, vector, vector, logits};
    change(args);
    return refuse_cross_entropy_sm90a(args);
  };
  EXPECT_EQ(why([](auto&) {}), "");
  EXPECT_NE(why([](auto& a) { a.logits.dtype = DType::kF64; }), "");
  EXPECT_NE(why([](auto& a) { a.d_logits.dtype = DType::kF64; }), "");
  EXPECT_NE(why([](auto& a) { a.nll.dtype = DType::kF64; }), "");
  EXPECT_NE(why([](auto& a) { a.logits.stride = 9; }), "");
  EXPECT_NE(why([](auto& a) { a.d_logits.data = data + 1; }), "");
}

}  // namespace
}  // namespace rorqual
