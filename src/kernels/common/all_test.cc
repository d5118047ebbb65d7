#include "kernels/common/all.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <set>
#include <string>

#include "base/file.h"
#include "kernels/gemm/gemm.h"

namespace rorqual {
namespace {

// Tables declared in the headers of src/kernels/*/.
int64_t declared_tables() {
  int64_t tables = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator("src/kernels")) {
    if (entry.path().extension() != ".h") continue;
    const std::string text = read_file(entry.path());
    for (size_t at = text.find("\nstd::span<const KernelRow<"); at != std::string::npos;
         at = text.find("\nstd::span<const KernelRow<", at + 1))
      ++tables;
  }
  return tables;
}

TEST(AllKernels, ListEveryDeclaredTableWithTheReferenceLast) {
  std::map<std::string_view, std::vector<KernelSummary>> operations;
  for (const KernelSummary& kernel : all_kernels()) operations[kernel.operation].push_back(kernel);
  EXPECT_EQ(static_cast<int64_t>(operations.size()), declared_tables());
  for (const auto& [operation, rows] : operations) {
    std::set<std::string_view> names;
    for (const KernelSummary& row : rows) EXPECT_TRUE(names.insert(row.name).second) << operation << " " << row.name;
    EXPECT_EQ(rows.back().isa, Isa::kReference) << operation;
    for (size_t i = 1; i < rows.size(); ++i) EXPECT_LE(rows[i].isa, rows[i - 1].isa) << operation << " " << rows[i].name;
  }
}

// A call that does nothing would be taken for one that is done.
TEST(AllKernelsDeathTest, RowsOfTheTableRefuseStreamsOfAGpu) {
  const Stream stream = Stream::on_device();
  EXPECT_DEATH(linear({}, stream), "Linear on a GPU's stream");
}

}  // namespace
}  // namespace rorqual
