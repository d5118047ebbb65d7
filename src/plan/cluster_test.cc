#include "plan/cluster.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace rorqual {
namespace {

TEST(Cluster, ThoseThatComeWithTheProgramLoad) {
  const Cluster h800 = load_cluster("h800");
  EXPECT_EQ(h800.name, "h800");
  EXPECT_EQ(h800.ranks, 2048);
  EXPECT_EQ(h800.nodes(), 256);
  EXPECT_EQ(h800.adapters_per_node, 8);
  EXPECT_EQ(h800.device.bf16_flops_per_second, 989.4e12);
  EXPECT_EQ(h800.efficiency.communication_processors, 20);
  EXPECT_GT(load_cluster("h100").nvlink.bytes_per_second, h800.nvlink.bytes_per_second);
  EXPECT_LT(h800.efficiency.product_share, load_cluster("h800-2025").efficiency.product_share);
  EXPECT_EQ(load_cluster("h200").device.memory_bytes, int64_t{143771} << 20);
  EXPECT_EQ(load_cluster("local").ranks, 1);
  EXPECT_EQ(load_cluster("recipes/clusters/h800.toml").name, "h800");
}

std::string message_of(const std::string& from, const std::string& to) {
  std::string text =
      "ranks = 16\nranks_per_node = 8\n[device]\nmemory_bytes = 1000\nprocessors = 4\nbf16_flops_per_second = 1.0\n"
      "fp8_flops_per_second = 1.0\nmemory_bytes_per_second = 1.0\n[nvlink]\nbytes_per_second = 1.0\n[network]\n"
      "bytes_per_second = 1.0\n[host]\nbytes_per_second = 1.0\n[efficiency]\nmemory_share = 0.5\n";
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  text.replace(at, from.size(), to);
  try {
    parse_cluster(text, "c.toml");
    return "accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.exit_code(), 2);
    return e.what();
  }
}

TEST(Cluster, MistakesAreNamed) {
  EXPECT_EQ(message_of("ranks = 16", "ranks = 16"), "accepted");
  EXPECT_EQ(message_of("processors", "procesors"),
            "c.toml:5: unknown key 'device.procesors'; did you mean 'device.processors'? src/plan/cluster.h lists all");
  EXPECT_EQ(message_of("ranks = 16", "ranks = \"16\""), "c.toml:1: key 'ranks' takes an integer");
  EXPECT_EQ(message_of("ranks = 16", "ranks = 12"), "c.toml: ranks = 12 must be whole nodes of ranks_per_node = 8");
  EXPECT_EQ(message_of("memory_share = 0.5", "memory_share = 1.5"), "c.toml: efficiency.memory_share = 1.5 must lie in (0, 1]");
  EXPECT_EQ(message_of("memory_bytes = 1000", ""), "c.toml: device.memory_bytes = 0 must be positive");
  EXPECT_EQ(message_of("memory_share = 0.5", "communication_processors = 4"),
            "c.toml: efficiency.communication_processors = 4 must lie in 0 … 3, below device.processors");
  try {
    load_cluster("h900");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.exit_code(), 2);
    EXPECT_NE(std::string(e.what()).find("there is no cluster 'h900'; known: h100, h200, h800, h800-2025, local"),
              std::string::npos)
        << e.what();
  }
}

}  // namespace
}  // namespace rorqual
