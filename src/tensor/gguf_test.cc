#include "tensor/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "base/error.h"
#include "base/rng.h"
#include "numerics/bf16.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

class Gguf : public testing::Test {
 protected:
  ~Gguf() override {
    std::error_code error;
    fs::remove(path_, error);
  }
  // A file with one value of each kind and three tensors.
  void write() const {
    const GgufMetadata metadata = {{"general.architecture", GgufValue::of_string("deepseek2")},
                                   {"a.count", GgufValue::of_u32(7)},
                                   {"a.tokens", GgufValue::of_u64(int64_t{1} << 40)},
                                   {"a.eps", GgufValue::of_f32(1e-6)},
                                   {"a.loss", GgufValue::of_f64(2.1)},
                                   {"a.norm", GgufValue::of_bool(true)},
                                   {"a.words", GgufValue::of_strings({"x", "", "wörd"})},
                                   {"a.types", GgufValue::of_i32s({1, -2})}};
    GgufWriter writer(path_, metadata, {{"f", kGgmlF32, {3, 5}}, {"b", kGgmlBf16, {7}}, {"q", kGgmlQ8, {2, 2, 32}}});
    writer.write(values_.data(), 10);
    writer.write(values_.data() + 10, 5);
    writer.write(values_.data(), 7);
    writer.write(values_.data(), 128);
    writer.commit();
  }
  static std::string error_of(const std::function<void()>& body) {
    try {
      body();
    } catch (const Error& error) {
      return error.what();
    }
    return "no Error";
  }
  std::vector<float> decoded(const GgufFile& file, size_t i) const {
    const GgufTensor& t = file.header().tensors[i];
    std::vector<float> values(static_cast<size_t>(t.count()));
    decode_ggml(t.type, file.bytes(t).data(), t.count(), values.data());
    return values;
  }

  const fs::path path_ = fs::temp_directory_path() / ("rorqual-gguf-" + std::to_string(::getpid()));
  std::vector<float> values_ = [] {
    std::vector<float> v;
    for (uint64_t i = 0; i < 128; ++i) v.push_back(static_cast<float>(random_normal({1, RandomPurpose::kTest, 0, 0}, i)));
    return v;
  }();
};

TEST_F(Gguf, GivesBackWhatWasWritten) {
  write();
  const GgufFile file(path_);
  const GgufHeader& h = file.header();
  EXPECT_EQ(h.version, 3u);
  EXPECT_EQ(h.data_begin % 32, 0);
  ASSERT_EQ(h.metadata.size(), 8u);
  EXPECT_EQ(std::get<std::string>(h.find("general.architecture")->value), "deepseek2");
  EXPECT_EQ(std::get<uint64_t>(h.find("a.count")->value), 7u);
  EXPECT_EQ(std::get<uint64_t>(h.find("a.tokens")->value), uint64_t{1} << 40);
  EXPECT_EQ(std::get<double>(h.find("a.eps")->value), static_cast<double>(1e-6f));
  EXPECT_EQ(std::get<double>(h.find("a.loss")->value), 2.1);
  EXPECT_TRUE(std::get<bool>(h.find("a.norm")->value));
  const auto& words = std::get<std::vector<GgufValue>>(h.find("a.words")->value);
  ASSERT_EQ(words.size(), 3u);
  EXPECT_EQ(std::get<std::string>(words[2].value), "wörd");
  EXPECT_EQ(std::get<int64_t>(std::get<std::vector<GgufValue>>(h.find("a.types")->value)[1].value), -2);
  EXPECT_EQ(h.find("nothing"), nullptr);
  ASSERT_EQ(h.tensors.size(), 3u);
  EXPECT_THAT(h.tensors[2].shape, ElementsAre(2, 2, 32));
  EXPECT_EQ(h.tensors[2].bytes(), 4 * 34);
  EXPECT_EQ(decoded(file, 0), std::vector<float>(values_.begin(), values_.begin() + 15));
  const std::vector<float> b = decoded(file, 1);
  for (size_t i = 0; i < b.size(); ++i) EXPECT_EQ(b[i], static_cast<float>(Bf16(values_[i])));
}

// Half a step of a block is amax / 254; its scale is rounded to 11 bits, which moves 127 steps by at most 127 · 2^-11 of one.
TEST_F(Gguf, Q8IsWithinHalfAStep) {
  write();
  const std::vector<float> q = decoded(GgufFile(path_), 2);
  for (size_t block = 0; block < 4; ++block) {
    float amax = 0;
    for (size_t i = 32 * block; i < 32 * (block + 1); ++i) amax = std::max(amax, std::abs(values_[i]));
    for (size_t i = 32 * block; i < 32 * (block + 1); ++i)
      EXPECT_NEAR(q[i], values_[i], amax / 127 * (0.5f + 127.0f / 2048)) << i;
  }
}

TEST_F(Gguf, Q8ScalesAreFp16) {
  // The largest value of the block gives the scale: normal, subnormal, the smallest one, below it, too large, not a number.
  const float infinity = std::numeric_limits<float>::infinity();
  for (const auto& [amax, expected] : {std::pair{127.0f, 127.0f},
                                       {127 * 65504.0f, 127 * 65504.0f},
                                       {127 * 0x1p-20f, 127 * 0x1p-20f},
                                       {127 * 0x1p-24f, 127 * 0x1p-24f},
                                       {127 * 0x1p-26f, 0.0f},
                                       {0.0f, 0.0f},
                                       {127 * 1.00048828125f, 127.0f},  // halfway to the next FP16: to even
                                       {1e38f, infinity},
                                       {std::nanf(""), std::nanf("")}}) {
    std::vector<float> x(32, 0.0f), y(32);
    x[3] = amax;
    std::vector<std::byte> bytes(34);
    encode_ggml(kGgmlQ8, x.data(), 32, bytes.data());
    decode_ggml(kGgmlQ8, bytes.data(), 32, y.data());
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(y[3]));
    } else {
      EXPECT_EQ(y[3], expected) << amax;
    }
  }
}

TEST_F(Gguf, TruncatedFilesAreRefusedEverywhere) {
  write();
  const std::string bytes = read_file(path_);
  const auto data = static_cast<size_t>(GgufFile(path_).header().data_begin);
  for (size_t kept = 0; kept < bytes.size() - 24; kept += kept < data ? 1 : 37) {  // 24: what pads the last tensor
    const std::string_view part = std::string_view(bytes).substr(0, kept);
    EXPECT_THAT(error_of([&] { parse_gguf(part, static_cast<int64_t>(kept), "here"); }), HasSubstr("here: ")) << kept;
  }
}

TEST_F(Gguf, DamageIsNamed) {
  write();
  const std::string whole = read_file(path_);
  const auto damaged = [&](std::string_view at, size_t behind, std::string_view bytes) {
    std::string text = whole;
    const size_t place = text.find(at) + at.size() + behind;
    text.replace(place, bytes.size(), bytes);
    return error_of([&] { parse_gguf(text, static_cast<int64_t>(text.size()), "here"); });
  };
  EXPECT_THAT(damaged("", 0, "GGML"), HasSubstr("not a GGUF file"));
  EXPECT_THAT(damaged("GGUF", 0, "\x09"), HasSubstr("version 9"));
  EXPECT_THAT(damaged("a.count", 0, "\x0d"), AllOf(HasSubstr("'a.count'"), HasSubstr("unknown type 13")));
  EXPECT_THAT(damaged("a.words", 4, "\x09"), HasSubstr("array of arrays"));
  EXPECT_THAT(damaged("a.words", 8, "\xff\xff\xff\xff"), HasSubstr("claims 4294967295 elements"));
  EXPECT_THAT(damaged("a.words", 8, std::string(8, '\xff')), HasSubstr("claims"));
  EXPECT_THAT(damaged("a.eps", 0, std::string("\x08\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", 12)), HasSubstr("truncated"));
  // Tensor "q": its dimensions, their number, its type and its place.
  const std::string q = std::string("\x01\0\0\0\0\0\0\0q", 9);
  EXPECT_THAT(damaged(q, 0, "\x05"), HasSubstr("'q' has 5 dimensions"));
  EXPECT_THAT(damaged(q, 4, std::string(8, '\xff')), HasSubstr("'q' is too large"));
  EXPECT_THAT(damaged(q, 4, std::string(8, '\0')),
              HasSubstr("'q' is empty"));  // found by fuzzing, before dimensions that overflow
  EXPECT_THAT(damaged(q, 4, "\x21"), HasSubstr("rows of 33 elements"));
  EXPECT_THAT(damaged(q, 28, "\x63"), HasSubstr("'q' has the unknown type 99"));
  EXPECT_THAT(damaged(q, 32, "\x01"), HasSubstr("'q' begins at byte"));
  EXPECT_THAT(damaged(q, -1, "f"), HasSubstr("'f' is there twice"));
}

}  // namespace
}  // namespace rorqual
