// How long phases take on a cluster's devices and links: operations over the rate that kernels reach at their size, or bytes
// over bandwidth where that is longer, and a fixed cost of each kernel.
#pragma once

#include <cstdint>
#include <vector>

#include "plan/cluster.h"
#include "plan/mesh.h"
#include "sim/routing.h"
#include "sim/simulated_model.h"

namespace rorqual {

// Seconds.
struct PhaseSeconds {
  double forward = 0, input_gradient = 0, weight_gradient = 0;
  double backward() const { return input_gradient + weight_gradient; }
};

// A device's share of its processors computes; memory passes at full speed.
class CostModel {
 public:
  CostModel(const Cluster& cluster, double processors_share) : cluster_(cluster), share_(processors_share) {}

  // [rows, k]·[k, n] of each of `rows` (one product of a list of them, where `grouped`), BF16 result of output_bytes an
  // element.
  double product(const std::vector<double>& rows, int64_t n, int64_t k, bool fp8, bool grouped) const;
  // [n, rows]·[rows, k] for each of them, summed into FP32.
  double weight_product(const std::vector<double>& rows, int64_t n, int64_t k, bool fp8, bool grouped) const;
  // `passes` of a phase with `tokens` tokens and `rows` routed rows.
  double passes(const SimulatedPasses& passes, double tokens, double rows) const;
  double memory(double bytes) const;

  // tokens of a micro-batch in sequences of `sequence_length`; rows: of each of this rank's experts, where the phase is routed.
  PhaseSeconds phase(const SimulatedPhase& phase, double tokens, double sequence_length, const std::vector<double>& rows) const;

 private:
  double rate(bool fp8, double contraction, double half, bool grouped) const;

  const Cluster& cluster_;
  double share_;
};

// Of a rank to all others, at once. Two hops, which overlap: the slower one counts.
struct ExchangeSeconds {
  double dispatch = 0, combine = 0;  // a gradient's take as long
};
ExchangeSeconds exchange_seconds(const SimulatedModel& model, const Cluster& cluster, const Mesh& mesh,
                                 const ExchangeLoad& load, double tokens);

// Bytes per second of a rank to other nodes: its part of the node's adapters. With `reached`, what dispatch and combine reach.
double network_bytes_per_second(const Cluster& cluster, bool reached);

}  // namespace rorqual
