// A cluster as the planner and the simulator see it: what its devices and links could do, and what share of that kernels
// reach. Every constant stands in a file of recipes/clusters/ with its source.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace rorqual {

// Bytes per second of a link are of one direction.
struct Cluster {
  std::string name, description;
  int64_t ranks = 1;  // devices there are
  int64_t ranks_per_node = 1;

  struct Device {
    std::string name;
    int64_t memory_bytes = 0;
    int64_t processors = 1;            // streaming multiprocessors, or cores
    double bf16_flops_per_second = 0;  // dense products, FP32 sums
    double fp8_flops_per_second = 0;
    double memory_bytes_per_second = 0;
  } device;

  struct Link {
    double bytes_per_second = 0;
    double latency_seconds = 0;
  };
  Link nvlink;   // of a device, to all others of its node together
  Link network;  // of one adapter
  int64_t adapters_per_node = 1;
  Link host;                      // device to host memory
  int64_t host_memory_bytes = 0;  // of a node

  // Shares are of the peaks above. A product [m, k]·[k, n] with many rows runs at
  //   product_share · k / (k + product_half_k)
  // of its type's peak: the sum over k is what fills the pipeline.
  struct Efficiency {
    double product_share = 1;
    double product_half_k = 0;
    double grouped_share = 1;                                          // of that, where every expert has a product of its own
    double attention_forward_share = 1, attention_backward_share = 1;  // of the BF16 peak
    double memory_share = 1;
    double nvlink_share = 1, network_share = 1;  // of dispatch and combine
    // Rows that the kernels of the two hops take in, one for each node that a token reaches, its own among them: a row for the
    // own node is taken to pass the same buffers without loading the network. 0: as fast as the links.
    double exchange_bytes_per_second = 0;
    double launch_seconds = 0;             // of a kernel, whatever its size
    int64_t communication_processors = 0;  // taken from compute while rows travel
  } efficiency;

  int64_t nodes() const { return (ranks + ranks_per_node - 1) / ranks_per_node; }
};

// Calls visit(key, reference, meaning) for every key, tables with a dot.
template <class C, class Visit>
void visit_cluster_keys(C& c, Visit&& visit) {
  visit("description", c.description, "in words");
  visit("ranks", c.ranks, "devices");
  visit("ranks_per_node", c.ranks_per_node, "devices of a node");
  visit("device.name", c.device.name, "of one device");
  visit("device.memory_bytes", c.device.memory_bytes, "of a device");
  visit("device.processors", c.device.processors, "streaming multiprocessors, or cores");
  visit("device.bf16_flops_per_second", c.device.bf16_flops_per_second, "peak of dense BF16 products");
  visit("device.fp8_flops_per_second", c.device.fp8_flops_per_second, "peak of dense FP8 products");
  visit("device.memory_bytes_per_second", c.device.memory_bytes_per_second, "peak of the device's memory");
  visit("nvlink.bytes_per_second", c.nvlink.bytes_per_second, "of a device, one direction, to the devices of its node");
  visit("nvlink.latency_seconds", c.nvlink.latency_seconds, "of a message");
  visit("network.bytes_per_second", c.network.bytes_per_second, "of an adapter, one direction");
  visit("network.latency_seconds", c.network.latency_seconds, "of a message");
  visit("network.adapters_per_node", c.adapters_per_node, "adapters of a node");
  visit("host.bytes_per_second", c.host.bytes_per_second, "of a device, one direction, to the host's memory");
  visit("host.latency_seconds", c.host.latency_seconds, "of a copy");
  visit("host.memory_bytes", c.host_memory_bytes, "of a node");
  auto& e = c.efficiency;
  visit("efficiency.product_share", e.product_share, "share of the peak that products reach at large k");
  visit("efficiency.product_half_k", e.product_half_k, "k at which a product reaches half of that");
  visit("efficiency.grouped_share", e.grouped_share, "of that, for the products of many experts");
  visit("efficiency.attention_forward_share", e.attention_forward_share, "share of the BF16 peak");
  visit("efficiency.attention_backward_share", e.attention_backward_share, "share of the BF16 peak");
  visit("efficiency.memory_share", e.memory_share, "share of the memory's peak");
  visit("efficiency.nvlink_share", e.nvlink_share, "share of nvlink.bytes_per_second that dispatch and combine reach");
  visit("efficiency.network_share", e.network_share, "share of network.bytes_per_second that dispatch and combine reach");
  visit("efficiency.exchange_bytes_per_second", e.exchange_bytes_per_second,
        "rows that the kernels of two hops take in, one for each node that a token reaches; 0: as the links");
  visit("efficiency.launch_seconds", e.launch_seconds, "of a kernel, whatever its size");
  visit("efficiency.communication_processors", e.communication_processors, "processors that move rows instead of computing");
}

// The cluster of a file, or of a name in a folder recipes/clusters. Error (usage) as in base/config_file.h, and for values
// that cannot be.
Cluster load_cluster(const std::string& name_or_path);
Cluster parse_cluster(std::string_view toml, const std::string& where);

}  // namespace rorqual
