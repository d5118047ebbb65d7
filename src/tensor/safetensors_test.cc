#include "tensor/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "base/error.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return "";
}

std::string framed(const std::string& header, const std::string& data) {
  std::string text(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(text.data(), &length, 8);
  return text + header + data;
}

class Safetensors : public testing::Test {
 protected:
  ~Safetensors() override { fs::remove(path_); }
  std::string open_error(const std::string& bytes) const {
    write_file_atomically(path_, bytes);
    return error_of([&] { SafetensorsFile{path_}; });
  }
  const fs::path path_ = fs::temp_directory_path() / fmt::format("rorqual-safetensors-{}.safetensors", ::getpid());
};

TEST_F(Safetensors, RoundTripKeepsNamesShapesAndBits) {
  std::vector<float> a = {1.5f, -0.0f, INFINITY, 3e-45f, 7, 8};
  std::vector<double> b = {0.1, 1e300};
  std::vector<int64_t> c = {-5};
  std::vector<SafetensorsWriter::Declaration> declarations = {
      {"a \"quoted\"", DType::kF32, {2, 3}}, {"b", DType::kF64, {2}}, {"c", DType::kI64, {}}, {"none", DType::kF32, {0, 4}}};
  SafetensorsWriter writer(path_, declarations, {{"format", "pt"}});
  writer.write(Tensor(a.data(), DType::kF32, 2, 3));
  writer.write(Tensor(b.data(), DType::kF64, 1, 2));
  writer.write(Tensor(c.data(), DType::kI64, 1, 1));
  writer.write(Tensor(nullptr, DType::kF32, 0, 4));
  writer.commit();
  const SafetensorsFile file(path_);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  ASSERT_EQ(file.entries().size(), 4u);
  EXPECT_THAT(file.find("a \"quoted\"")->shape, ElementsAre(2, 3));
  const Tensor t = file.tensor("a \"quoted\"");
  EXPECT_EQ(std::memcmp(t.data, a.data(), sizeof(float) * a.size()), 0);
  EXPECT_EQ(file.tensor("b").ptr<double>()[1], 1e300);
  EXPECT_EQ(file.tensor("c").ptr<int64_t>()[0], -5);
  EXPECT_EQ(file.tensor("none").count(), 0);
  EXPECT_EQ(file.find("d"), nullptr);
  EXPECT_THAT(error_of([&] { file.tensor("d"); }), HasSubstr("no tensor 'd'"));
}

TEST_F(Safetensors, ConvertsWhatIsDeclaredOtherwise) {
  std::vector<double> values = {1.00390625, -2, 1e-3};  // the first lies between two bf16: a tie, to even
  SafetensorsWriter writer(path_, {{"x", DType::kBF16, {3}}, {"y", DType::kF32, {3}}}, {});
  writer.write(Tensor(values.data(), DType::kF64, 1, 3));
  writer.write(Tensor(values.data(), DType::kF64, 1, 3));
  writer.commit();
  const SafetensorsFile file(path_);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(file.tensor("x").ptr<Bf16>()[i], Bf16(values[i]));
    EXPECT_EQ(file.tensor("y").ptr<float>()[i], static_cast<float>(values[i]));
  }
  EXPECT_EQ(static_cast<float>(file.tensor("x").ptr<Bf16>()[0]), 1.0f);
}

TEST_F(Safetensors, WithoutCommitNothingIsLeft) {
  { SafetensorsWriter writer(path_, {{"x", DType::kF32, {3}}}, {}); }
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(Safetensors, UnknownDtypesAreListedNotRead) {
  write_file_atomically(path_, framed(R"({"w":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}})", "abcd"));
  const SafetensorsFile file(path_);
  EXPECT_EQ(file.find("w")->dtype, "F8_E4M3");
  EXPECT_EQ(file.bytes(*file.find("w")).size(), 4u);
  EXPECT_THAT(error_of([&] { file.tensor("w"); }), HasSubstr("F8_E4M3"));
}

TEST_F(Safetensors, EveryDefectIsNamed) {
  const auto one = [](const std::string& fields) { return framed("{\"w\":{" + fields + "}}", "abcd"); };
  EXPECT_THAT(open_error(""), HasSubstr("too few"));
  EXPECT_THAT(open_error("1234567"), HasSubstr("too few"));
  EXPECT_THAT(open_error(std::string(8, '\xff')), HasSubstr("header claims"));
  EXPECT_THAT(open_error(framed("[]", "")), HasSubstr("not a JSON object"));
  EXPECT_THAT(open_error(framed("{", "")), HasSubstr("not a JSON object"));
  EXPECT_THAT(open_error(framed("{\"w\":3}", "")), HasSubstr("lacks dtype"));
  EXPECT_THAT(open_error(one(R"("dtype":"F7","shape":[1],"data_offsets":[0,4])")), HasSubstr("unknown dtype 'F7'"));
  EXPECT_THAT(open_error(one(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])")), HasSubstr("natural number"));
  EXPECT_THAT(open_error(one(R"("dtype":"F32","shape":[1.0],"data_offsets":[0,4])")), HasSubstr("natural number"));
  EXPECT_THAT(open_error(one(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])")), HasSubstr("its shape asks for 8"));
  EXPECT_THAT(open_error(one(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])")), HasSubstr("'w'"));
  EXPECT_THAT(open_error(one(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])")), HasSubstr("truncated"));
  EXPECT_THAT(open_error(one(R"("dtype":"U8","shape":[3],"data_offsets":[1,4])")), HasSubstr("gaps and overlaps"));
  EXPECT_THAT(open_error(one(R"("dtype":"U8","shape":[3],"data_offsets":[0,3])")), HasSubstr("the file holds 4"));
  EXPECT_THAT(open_error(one(R"("dtype":"F64","shape":[4611686018427387904,4611686018427387904],"data_offsets":[0,4])")),
              HasSubstr("too large"));
  EXPECT_THAT(open_error(one(R"("dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0])")), HasSubstr("'w'"));
}

}  // namespace
}  // namespace rorqual
