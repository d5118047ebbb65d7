#include "tests/structure.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <set>

namespace rorqual {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<std::string> broken(std::string_view rule, const std::string& path, const std::string& text) {
  for (const StructureRule& r : structure_rules())
    if (r.name == rule) return r.check({path, text});
  ADD_FAILURE() << "no rule " << rule;
  return {};
}

// The rule finds exactly one place in the text, and its message starts with the place and holds `words`.
void expect_broken(std::string_view rule, const std::string& path, const std::string& text, const std::string& words) {
  const auto wrong = broken(rule, path, text);
  ASSERT_EQ(wrong.size(), 1u) << rule << ": " << path << ": " << text;
  EXPECT_THAT(wrong[0], ::testing::StartsWith(path + ":"));
  EXPECT_THAT(wrong[0], HasSubstr(words));
}

TEST(Structure, SourcesKeepEveryRule) {
  const auto files = read_source_files();
  ASSERT_GT(files.size(), 20u) << "tests run in the repository's root";
  for (const SourceFile& file : files)
    for (const StructureRule& rule : structure_rules())
      for (const std::string& wrong : rule.check(file)) ADD_FAILURE() << rule.name << ": " << wrong;
}

TEST(Structure, FolderIncludesLowerFloorsOnly) {
  const std::string own = "#include \"base/error.h\"\n";
  EXPECT_THAT(broken("floors", "src/base/file.cc", own), IsEmpty());
  EXPECT_THAT(broken("floors", "src/cli/train.cc", own + "#include \"train/trainer.h\"\n#include <vector>\n"), IsEmpty());
  expect_broken("floors", "src/base/file.cc", "\n#include \"tensor/tensor.h\"\n",
                "file.cc:2: includes \"tensor/tensor.h\": tensor/ stands above");
  expect_broken("floors", "src/train/a.cc", "#include \"serve/b.h\"\n", "neighbour");
  expect_broken("floors", "src/train/a_test.cc", "  #include \"cli/b.h\"\n", "above");
  expect_broken("floors", "src/data/a.cc", "#include \"numerics/bf16.h\"\n", "neighbour");
  expect_broken("floors", "src/base/a.cc", "#include \"attic/b.h\"\n", "no folder 'attic'");
  expect_broken("floors", "src/attic/a.cc", "#include \"base/b.h\"\n", "give it a floor");
  expect_broken("floors", "src/base/a.cc", "#include \"b.h\"\n", "path from src/");
  expect_broken("floors", "src/base/a.cc", "#include \"../tensor/b.h\"\n", "no folder '..'");
  EXPECT_THAT(broken("floors", "src/train/a_test.cc", "#include \"serve/b.h\"\n"), IsEmpty()) << "tests may include neighbours";
}

TEST(Structure, KernelsKnowTheirOwnOperationOnly) {
  EXPECT_THAT(broken("floors", "src/kernels/gemm/avx2.cc",
                     "#include \"kernels/gemm/gemm.h\"\n#include \"kernels/common/registry.h\"\n"),
              IsEmpty());
  EXPECT_THAT(broken("floors", "src/kernels/gemm/gemm_test.cc", "#include \"kernels/rope/rope.h\"\n"), IsEmpty());
  expect_broken("floors", "src/kernels/gemm/select.cc", "#include \"kernels/rope/rope.h\"\n", "another operation");
  expect_broken("floors", "src/kernels/common/a.h", "#include \"kernels/rope/rope.h\"\n", "another operation");
  EXPECT_THAT(broken("floors", "src/kernels/common/all.cc", "#include \"kernels/rope/rope.h\"\n"), IsEmpty());
  expect_broken("floors", "src/kernels/gemm/select.cc", "#include \"plan/mesh.h\"\n", "tensors and numbers");
  expect_broken("floors", "src/kernels/gemm/select.cc", "#include \"hopper/device.h\"\n", "tensors and numbers");
  EXPECT_THAT(broken("floors", "src/kernels/gemm/sm90a.cu", "#include \"hopper/device.h\"\n"), IsEmpty());
}

TEST(Structure, OnlySelectNamesInstructionSets) {
  for (const char* line : {"return gemm_avx2(args);", "avx512::gemm(args);", "  {&rope_amx, 1},"}) {
    expect_broken("isa symbols", "src/kernels/gemm/reference.cc", line, "only select.cc");
    expect_broken("isa symbols", "src/model/mla.cc", line, "only select.cc");
    EXPECT_THAT(broken("isa symbols", "src/kernels/gemm/select.cc", line), IsEmpty());
    EXPECT_THAT(broken("isa symbols", "src/kernels/gemm/avx512.cc", line), IsEmpty());
  }
  for (const char* line :
       {"Isa::kAvx2", "\"avx2\"", "// as gemm_avx2 does", "#include \"kernels/gemm/gemm_avx2.h\"", "ramx::x", "gemm_avx2x"})
    EXPECT_THAT(broken("isa symbols", "src/kernels/gemm/reference.cc", line), IsEmpty()) << line;
}

TEST(Structure, IsaFilesIncludeLittle) {
  const std::string path = "src/kernels/gemm/avx2.cc";
  EXPECT_THAT(broken("isa includes", path, "#include \"kernels/gemm/gemm.h\"\n#include <immintrin.h>\n#include <cstdint>\n"),
              IsEmpty());
  expect_broken("isa includes", path, "#include <vector>\n", "not vector");
  expect_broken("isa includes", path, "#include \"base/log.h\"\n", "not base/log.h");
  expect_broken("isa includes", "src/kernels/gemm/pack_avx512.cc", "#include <algorithm>\n", "not algorithm");
  EXPECT_THAT(broken("isa includes", "src/kernels/gemm/reference.cc", "#include <vector>\n"), IsEmpty());
}

TEST(Structure, DeviceCodeKeepsToItsOwnFunctions) {
  const std::string path = "src/kernels/gemm/sm90a.cu";
  EXPECT_THAT(
      broken("device code", path,
             "#include \"hopper/device.h\"\n#include \"kernels/gemm/sm90a_job.h\"\n#include \"kernels/common/sm90a_x.h\"\n"
             "#include \"numerics/fp8.h\"\n#include <cstdint>\nint i = thread_index();  // threadIdx.x\n"),
      IsEmpty());
  for (const char* line : {"int i = threadIdx.x;", "__syncthreads();", "kernel<<<1, 2>>>();", "asm(\"\");"})
    expect_broken("device code", path, line, "hopper/device.h");
  expect_broken("device code", path, "#include \"base/error.h\"\n", "not base/error.h");
  expect_broken("device code", path, "#include <vector>\n", "not vector");
  EXPECT_THAT(broken("device code", "src/hopper/ptx/thread.h", "threadIdx.x"), IsEmpty());
}

TEST(Structure, FilesStayShort) {
  std::string text;
  for (int i = 0; i < 600; ++i) text += "int x;\n";
  EXPECT_THAT(broken("length", "src/base/a.cc", text), IsEmpty());
  expect_broken("length", "src/base/a.cc", text + "int y;\n", "601 lines");
  EXPECT_THAT(broken("length", "src/base/a.cc", "// Generated by tools/x.py\n" + text), IsEmpty());
}

TEST(Structure, BannedWordsAreFound) {
  for (const std::string text : {"#pragma "
                                 "omp parallel for",
                                 "using namespace "
                                 "std;",
                                 "// TO"
                                 "DO: later",
                                 "// FIX"
                                 "ME",
                                 "// XX"
                                 "X: odd"}) {
    expect_broken("bans", "src/base/a.cc", text, "'");
    expect_broken("bans", "src/base/a_test.cc", text, "'");
    expect_broken("bans", "tests/a.cc", text, "'");
  }
  expect_broken("bans", "src/data/a.cc", "std::mt19937 g;", "base/rng.h");
  EXPECT_THAT(broken("bans", "src/data/a_test.cc", "std::mt19937 g;"), IsEmpty());
}

// A header that nothing includes, and a test or bench beside no source, are dead.
std::vector<std::string> dead_headers(const std::vector<SourceFile>& files) {
  std::set<std::string> dead;
  for (const SourceFile& file : files)
    if (file.path.ends_with(".h")) dead.insert(file.path.starts_with("src/") ? file.path.substr(4) : file.path);
  std::vector<std::string> found;
  for (const std::string& header : dead) {
    const std::string include = "#include \"" + header + "\"";
    const bool used = std::any_of(files.begin(), files.end(),
                                  [&](const SourceFile& file) { return file.text.find(include) != std::string::npos; });
    if (!used) found.push_back(header);
  }
  return found;
}

TEST(Structure, EveryHeaderIsIncluded) {
  EXPECT_THAT(dead_headers(read_source_files()), IsEmpty());
  EXPECT_THAT(dead_headers({{"src/base/a.h", ""}, {"src/base/b.h", "#include \"base/a.h\"\n"}}),
              ::testing::ElementsAre("base/b.h"));
}

}  // namespace
}  // namespace rorqual
