#include "base/machine.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

namespace rorqual {
namespace {

namespace fs = std::filesystem;

class ControlGroupTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = ::testing::TempDir() + "rorqual_cgroup_XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    mount_ = name;
  }
  void TearDown() override { fs::remove_all(mount_); }
  void put(const fs::path& path, const std::string& text) {
    fs::create_directories((mount_ / path).parent_path());
    std::ofstream(mount_ / path) << text;
  }
  fs::path mount_;
};

TEST_F(ControlGroupTest, Version2TakesTheTightestOnTheWayUp) {
  put("a/memory.max", "1000000\n");
  put("a/memory.current", "400000\n");
  put("a/memory.stat", "anon 100\ninactive_file 50000\nactive_file 7\n");
  put("a/b/memory.max", "max\n");
  put("a/b/cpu.max", "150000 100000\n");
  put("a/cpu.max", "max 100000\n");
  const auto group = detail::read_control_groups(mount_, "0::/a/b\n");
  EXPECT_EQ(group.memory_limit_bytes, 1000000);
  EXPECT_EQ(group.memory_free_bytes, 650000) << "limit - current + inactive_file";
  EXPECT_EQ(group.cpu_quota, 1.5);
}

TEST_F(ControlGroupTest, Version1HasAFolderPerController) {
  put("memory/job/memory.limit_in_bytes", "2000\n");
  put("memory/job/memory.usage_in_bytes", "3000\n");
  put("memory/memory.limit_in_bytes", "9223372036854771712\n");
  put("cpu/job/cpu.cfs_quota_us", "50000\n");
  put("cpu/job/cpu.cfs_period_us", "100000\n");
  put("cpu/cpu.cfs_quota_us", "-1\n");
  put("cpu/cpu.cfs_period_us", "100000\n");
  const auto group = detail::read_control_groups(mount_, "5:cpu,cpuacct:/job\n4:memory:/job\n0::/\n");
  EXPECT_EQ(group.memory_limit_bytes, 2000);
  EXPECT_EQ(group.memory_free_bytes, 0) << "never below zero";
  EXPECT_EQ(group.cpu_quota, 0.5);
}

TEST_F(ControlGroupTest, APathOfTheHostFallsBackToTheMount) {
  put("memory.max", "5000");
  EXPECT_EQ(detail::read_control_groups(mount_, "0::/docker/0123\n").memory_limit_bytes, 5000);
}

TEST_F(ControlGroupTest, NothingThereLimitsNothing) {
  for (const char* membership : {"", "0::/\n", "nonsense", "4:memory:/x\n"}) {
    const auto group = detail::read_control_groups(mount_, membership);
    EXPECT_FALSE(group.memory_limit_bytes.has_value());
    EXPECT_EQ(group.memory_free_bytes, INT64_MAX);
    EXPECT_FALSE(group.cpu_quota.has_value());
  }
}

TEST(Machine, ParsesMeminfo) {
  const auto memory = detail::parse_meminfo("MemTotal:       24684092 kB\nMemFree: 1 kB\nMemAvailable:   24085132 kB\n");
  EXPECT_EQ(memory.total_bytes, int64_t{24684092} * 1024);
  EXPECT_EQ(memory.available_bytes, int64_t{24085132} * 1024);
}

TEST(Machine, IsPlausible) {
  const MachineMemory memory = machine_memory();
  EXPECT_GT(memory.total_bytes, 0);
  EXPECT_GT(memory.available_bytes, 0);
  EXPECT_LE(memory.available_bytes, memory.total_bytes);
  const MachineCpus cpus = machine_cpus();
  EXPECT_GE(cpus.logical, 1);
  EXPECT_GE(cpus.allowed, 1);
}

}  // namespace
}  // namespace rorqual
