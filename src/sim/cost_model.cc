#include "sim/cost_model.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace rorqual {
namespace {

// Weight gradients are read, added to and written as FP32: 8 bytes for each element, where other products write 2. What a
// product loses at small k is the time to write its result, so it grows in proportion.
constexpr double kGradientOutputs = 4;
constexpr double kSegment = 128;  // rows of an expert are padded to (spec 2.4)

double sum_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

std::vector<double> padded(std::vector<double> rows) {
  for (double& r : rows) r = std::ceil(r / kSegment) * kSegment;
  return rows;
}

}  // namespace

double CostModel::rate(bool fp8, double contraction, double half, bool grouped) const {
  const Cluster::Efficiency& e = cluster_.efficiency;
  const double peak = fp8 ? cluster_.device.fp8_flops_per_second : cluster_.device.bf16_flops_per_second;
  return peak * share_ * e.product_share * (grouped ? e.grouped_share : 1) * contraction / (contraction + half);
}

double CostModel::memory(double bytes) const {
  return bytes / (cluster_.device.memory_bytes_per_second * cluster_.efficiency.memory_share);
}

double CostModel::product(const std::vector<double>& rows, int64_t n, int64_t k, bool fp8, bool grouped) const {
  const auto out = static_cast<double>(n), in = static_cast<double>(k);
  const double all = sum_of(rows), operand = fp8 ? 1 : 2;
  if (all <= 0) return 0;
  const double compute = 2 * all * out * in / rate(fp8, in, cluster_.efficiency.product_half_k, grouped);
  const double bytes = all * (in * operand + 2 * out) + static_cast<double>(rows.size()) * out * in * operand;
  return std::max(compute, memory(bytes)) + cluster_.efficiency.launch_seconds;
}

double CostModel::weight_product(const std::vector<double>& rows, int64_t n, int64_t k, bool fp8, bool grouped) const {
  const auto out = static_cast<double>(n), in = static_cast<double>(k);
  const double operand = fp8 ? 1 : 2;
  double compute = 0, bytes = 0;
  for (const double r : rows) {
    if (r <= 0) continue;
    compute += 2 * r * out * in / rate(fp8, r, kGradientOutputs * cluster_.efficiency.product_half_k, grouped);
    bytes += r * (in + out) * operand + 8 * out * in;
  }
  if (compute <= 0) return 0;
  return std::max(compute, memory(bytes)) + cluster_.efficiency.launch_seconds;
}

double CostModel::passes(const SimulatedPasses& passes, double tokens, double rows) const {
  return memory(passes.per_token * tokens + passes.per_row * rows) + passes.kernels * cluster_.efficiency.launch_seconds;
}

PhaseSeconds CostModel::phase(const SimulatedPhase& phase, double tokens, double sequence_length,
                              const std::vector<double>& rows) const {
  const Cluster::Efficiency& e = cluster_.efficiency;
  const double all_rows = sum_of(rows);
  const std::vector<double> dense = {tokens}, segments = padded(rows);
  PhaseSeconds seconds;
  for (const SimulatedProduct& p : phase.products) {
    const std::vector<double>& m = p.routed ? segments : dense;
    seconds.forward += product(m, p.n, p.k, p.fp8, p.routed);
    seconds.input_gradient += product(m, p.k, p.n, p.fp8, p.routed);
    seconds.weight_gradient += weight_product(m, p.n, p.k, p.fp8, p.routed);
  }
  for (const SimulatedProduct& p : phase.recomputed)
    seconds.input_gradient += product(p.routed ? segments : dense, p.n, p.k, p.fp8, p.routed);
  if (phase.attention_forward_per_key > 0) {
    const double keys = tokens * (sequence_length + 1) / 2, peak = cluster_.device.bf16_flops_per_second * share_;
    seconds.forward += keys * phase.attention_forward_per_key / (peak * e.attention_forward_share) + e.launch_seconds;
    seconds.input_gradient += keys * phase.attention_backward_per_key / (peak * e.attention_backward_share) + e.launch_seconds;
  }
  seconds.forward += passes(phase.forward, tokens, all_rows);
  seconds.input_gradient += passes(phase.input_gradient, tokens, all_rows);
  seconds.weight_gradient += passes(phase.weight_gradient, tokens, all_rows);
  return seconds;
}

double network_bytes_per_second(const Cluster& cluster, bool reached) {
  return cluster.network.bytes_per_second * static_cast<double>(cluster.adapters_per_node) /
         static_cast<double>(cluster.ranks_per_node) * (reached ? cluster.efficiency.network_share : 1);
}

ExchangeSeconds exchange_seconds(const SimulatedModel& model, const Cluster& cluster, const Mesh& mesh,
                                 const ExchangeLoad& load, double tokens) {
  if (mesh.ep == 1) return {};
  const bool nodes = mesh.ep > mesh.ranks_per_node;
  const auto seconds = [&](const RowBytes& row) {
    const double bytes = tokens * static_cast<double>(row.total());
    double network = nodes ? load.network_worst * bytes / network_bytes_per_second(cluster, true) : 0;
    if (const double taken_in = cluster.efficiency.exchange_bytes_per_second; nodes && taken_in > 0)
      network = std::max(network, (load.network_worst + load.network_own_node) * bytes / taken_in);
    const double nvlink = load.nvlink_worst * bytes / (cluster.nvlink.bytes_per_second * cluster.efficiency.nvlink_share);
    return std::max(network, nvlink) + cluster.nvlink.latency_seconds + (nodes ? cluster.network.latency_seconds : 0);
  };
  return {.dispatch = seconds(model.dispatch_row), .combine = seconds(model.combine_row)};
}

}  // namespace rorqual
