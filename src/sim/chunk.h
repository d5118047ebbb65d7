// What one action of a pipeline schedule does inside: blocks walked phase by phase on two streams of each rank of a dispatch
// group, one that computes and one that moves rows. Rows move for the whole group at once.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "sim/cost_model.h"

namespace rorqual {

// One member's compute of a block, alone and beside rows that move (which takes processors away).
struct BlockSeconds {
  PhaseSeconds attention, mlp;
  PhaseSeconds attention_beside, mlp_beside;
};

struct BlockTimes {
  std::string name;
  std::vector<BlockSeconds> members;  // of the dispatch group, the same number for all blocks of a rank
  bool routed = false;
  ExchangeSeconds exchange;
};

struct ChunkSpan {
  std::string name;  // "experts forward"
  bool communication = false;
  double begin = 0, end = 0;  // from the chunk's begin; what computes: of the first member
};

struct ChunkRun {
  double seconds = 0;        // until the last member is through
  double compute = 0;        // mean over members of what they compute
  double communication = 0;  // what the stream that moves rows is busy
  double busy = 0;           // in which the busiest member computes
  std::vector<ChunkSpan> spans;
};

enum class BackwardParts : uint8_t { kBoth, kInput, kWeight };

// forward: in the order of the model; backward: in the opposite order. Both: overlapped as the report's figure 4 does (spec
// 3.2): backward's experts beside forward's dispatch, both experts beside backward's rows, backward's attention beside
// forward's combine. Neither stream changes the order of its list. Backward alone moves rows beside weight gradients.
ChunkRun run_chunk(std::span<const BlockTimes* const> forward, std::span<const BlockTimes* const> backward, BackwardParts parts,
                   bool spans);

// Two micro-batches forward through the same blocks: what one computes stands beside the rows of the other (spec 6). The
// members' times beside rows count.
ChunkRun run_two_forward(std::span<const BlockTimes* const> blocks);

}  // namespace rorqual
