#include "plan/cluster.h"

#include "base/config_file.h"
#include "base/error.h"
#include "base/file.h"

namespace rorqual {
namespace {

void check_positive(const std::string& where, const std::string& key, double value) {
  if (!(value > 0)) fail_usage("{}: {} = {} must be positive", where, key, value);
}

void check_cluster(const Cluster& c, const std::string& where) {
  const Cluster::Device& d = c.device;
  const Cluster::Efficiency& e = c.efficiency;
  for (const auto& [key, value] : {std::pair{"ranks", c.ranks},
                                   {"ranks_per_node", c.ranks_per_node},
                                   {"device.memory_bytes", d.memory_bytes},
                                   {"device.processors", d.processors},
                                   {"network.adapters_per_node", c.adapters_per_node}})
    check_positive(where, key, static_cast<double>(value));
  for (const auto& [key, value] : {std::pair{"device.bf16_flops_per_second", d.bf16_flops_per_second},
                                   {"device.fp8_flops_per_second", d.fp8_flops_per_second},
                                   {"device.memory_bytes_per_second", d.memory_bytes_per_second},
                                   {"nvlink.bytes_per_second", c.nvlink.bytes_per_second},
                                   {"network.bytes_per_second", c.network.bytes_per_second},
                                   {"host.bytes_per_second", c.host.bytes_per_second}})
    check_positive(where, key, value);
  for (const auto& [key, value] : {std::pair{"efficiency.product_share", e.product_share},
                                   {"efficiency.grouped_share", e.grouped_share},
                                   {"efficiency.attention_forward_share", e.attention_forward_share},
                                   {"efficiency.attention_backward_share", e.attention_backward_share},
                                   {"efficiency.memory_share", e.memory_share},
                                   {"efficiency.nvlink_share", e.nvlink_share},
                                   {"efficiency.network_share", e.network_share}})
    if (!(value > 0 && value <= 1)) fail_usage("{}: {} = {} must lie in (0, 1]", where, key, value);
  for (const auto& [key, value] : {std::pair{"nvlink.latency_seconds", c.nvlink.latency_seconds},
                                   {"network.latency_seconds", c.network.latency_seconds},
                                   {"host.latency_seconds", c.host.latency_seconds},
                                   {"host.memory_bytes", static_cast<double>(c.host_memory_bytes)},
                                   {"efficiency.product_half_k", e.product_half_k},
                                   {"efficiency.exchange_bytes_per_second", e.exchange_bytes_per_second},
                                   {"efficiency.launch_seconds", e.launch_seconds}})
    if (!(value >= 0)) fail_usage("{}: {} = {} must not be negative", where, key, value);
  if (e.communication_processors < 0 || e.communication_processors >= d.processors)
    fail_usage("{}: efficiency.communication_processors = {} must lie in 0 … {}, below device.processors", where,
               e.communication_processors, d.processors - 1);
  if (c.ranks > c.ranks_per_node && c.ranks % c.ranks_per_node != 0)
    fail_usage("{}: ranks = {} must be whole nodes of ranks_per_node = {}", where, c.ranks, c.ranks_per_node);
}

}  // namespace

Cluster parse_cluster(std::string_view toml, const std::string& where) {
  Cluster cluster;
  const ConfigKeys keys = config_keys(cluster, [](Cluster& c, auto&& visit) { visit_cluster_keys(c, visit); });
  read_config(toml, where, keys, "src/plan/cluster.h lists all");
  check_cluster(cluster, where);
  return cluster;
}

Cluster load_cluster(const std::string& name_or_path) {
  const std::filesystem::path file = find_config("cluster", "recipes/clusters", name_or_path);
  Cluster cluster = parse_cluster(read_file(file), file.string());
  cluster.name = file.stem().string();
  return cluster;
}

}  // namespace rorqual
