// The prices of a step's parts: of every block on every member of a dispatch group, of every action of a schedule, of the
// optimizer with its gradient sums. sim/step.cc runs the tables with them.
#pragma once

#include <array>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "sim/chunk.h"
#include "sim/step.h"

namespace rorqual {

// The layers that route tokens, MTP modules not counted.
int64_t routed_layers(const SimulatedModel& model);

// Of a step's micro-batches. Blocks are those of the model, which must outlive this.
class BlockPrices {
 public:
  BlockPrices(const SimulatedModel& model, const Cluster& cluster, const Mesh& mesh, const StepOptions& options);

  const BlockTimes& of(const SimulatedBlock& block) const { return blocks_.at(&block); }
  // The load of the layer that this block is (of a routed block).
  const ExchangeLoad& load(const SimulatedBlock& block) const { return loads_[load_of_.at(&block)]; }
  double micro_batch_tokens() const { return tokens_; }

 private:
  void price(const SimulatedBlock& block, size_t load);

  const SimulatedModel& model_;
  const Cluster& cluster_;
  const Mesh& mesh_;
  double tokens_;
  std::vector<ExchangeLoad> loads_;
  std::map<const SimulatedBlock*, BlockTimes> blocks_;
  std::map<const SimulatedBlock*, size_t> load_of_;
};

// The actions of one column's ranks. slowdown: [pp, ep] factors on what members compute; empty: none.
class ActionPrices {
 public:
  ActionPrices(const SimulatedModel& model, const BlockPrices& blocks, const Mesh& mesh, const PipelineShape& shape,
               const std::vector<int64_t>& stage_begin, std::vector<double> slowdown, bool spans);

  const ChunkRun& of(int rank, const PipelineAction& action);

 private:
  std::vector<const BlockTimes*> stage(int rank, int direction, bool reversed);
  const BlockTimes* slowed(int rank, const BlockTimes& times);

  const SimulatedModel& model_;
  const BlockPrices& blocks_;
  const Mesh& mesh_;
  const PipelineShape& shape_;
  const std::vector<int64_t>& stage_begin_;
  std::vector<double> slowdown_;
  bool spans_;
  std::map<std::pair<int, const BlockTimes*>, BlockTimes> slowed_;
  std::map<std::array<int, 4>, ChunkRun> runs_;  // by rank, kind, directions of forward and backward
};

// Gradients are reduced to shards in FP32, the shards' weights updated and gathered in BF16 (ZeRO-1), between micro-batches of
// two steps: nothing hides it.
struct OptimizerPrice {
  double seconds = 0;                          // of the slowest pipeline rank
  double network_bytes = 0, nvlink_bytes = 0;  // of all ranks of the cluster
};
OptimizerPrice optimizer_price(const SimulatedModel& model, const Cluster& cluster, const Mesh& mesh,
                               const PipelineShape& shape, const std::vector<int64_t>& stage_begin);

}  // namespace rorqual
