// Answers on a cluster, predicted: a unit of ranks that reads prompts, and one that decodes, as DeepSeek runs them (spec 6).
// Attention is data-parallel, experts are spread over all ranks of the unit with evenly loaded copies, and two micro-batches
// take turns: one computes while the rows of the other travel.
#pragma once

#include <cstdint>

#include "plan/cluster.h"

namespace rorqual {

struct ModelConfig;

struct ServingUnit {
  int64_t ranks = 1;
  int64_t slots_per_rank = 1;  // of a layer's experts and their copies
};

struct ServingEstimate {
  double pass_seconds = 0;                // of both micro-batches through the model
  double compute_seconds = 0;             // of that, what a rank computes
  double communication_seconds = 0;       // what rows travel
  double tokens_per_second_per_node = 0;  // that are computed: read from prompts, or decoded
};

// tokens_per_rank: of both micro-batches, in prompts of prompt_tokens. Rows travel by the kernels that training uses, which
// take processors away.
ServingEstimate simulate_prefill(const ModelConfig& config, const Cluster& cluster, const ServingUnit& unit,
                                 int64_t tokens_per_rank, int64_t prompt_tokens);

// requests_per_rank: of both micro-batches, each with cached_tokens and one token to decode. Absorbed attention (spec 1.3) on a
// BF16 cache; every row goes straight to its expert over the network, and no processor is taken away (spec 5.3).
ServingEstimate simulate_decode(const ModelConfig& config, const Cluster& cluster, const ServingUnit& unit,
                                int64_t requests_per_rank, int64_t cached_tokens);

}  // namespace rorqual
