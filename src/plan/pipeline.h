// Pipeline schedules as tables: for every rank the list of what it computes, receives and sends, in order (spec 3; report
// 3.2.1). A schedule is made by a pure function of sizes, proven by check_pipeline (plan/pipeline_check.h), priced by
// run_pipeline (plan/pipeline_timing.h) and executed by whoever trains. It is never control flow.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rorqual {

enum class PipelineKind : uint8_t { k1F1B, kZB1P, kDualPipe, kDualPipeV };

// "1f1b", "zb1p", "dualpipe", "dualpipev", in the order of PipelineKind.
const std::vector<std::string>& pipeline_kind_names();
std::string_view pipeline_kind_name(PipelineKind kind);
// Error (usage) where there is no such schedule.
PipelineKind parse_pipeline_kind(std::string_view name);

// Which rank holds which stage, and how many micro-batches pass. `direction` names the module of a rank that computes:
//   1F1B, ZB1P   one direction; stage s lies on rank s
//   DualPipe     two; direction 0 enters at rank 0, direction 1 at the last rank. Each has half of the micro-batches
//   DualPipeV    2·ranks stages; direction 0 is the way out (stage = rank), direction 1 the way back (stage 2·ranks - 1 -
//   rank).
//                Every micro-batch goes both ways
struct PipelineShape {
  PipelineKind kind = PipelineKind::k1F1B;
  int ranks = 1;
  int micro_batches = 1;  // of all directions together

  int directions() const { return kind == PipelineKind::kDualPipe || kind == PipelineKind::kDualPipeV ? 2 : 1; }
  int stages() const { return kind == PipelineKind::kDualPipeV ? 2 * ranks : ranks; }
  // That pass the modules of one direction: their numbers are 0 to this - 1.
  int micro_batches_each() const { return kind == PipelineKind::kDualPipe ? micro_batches / 2 : micro_batches; }
  int stage(int rank, int direction) const;
  // Whose module computes `stage` for micro-batches that pass `direction`; DualPipeV: the stage alone says which.
  int rank_of(int direction, int stage) const;
  bool is_first(int rank, int direction) const { return stage(rank, direction) == 0; }
  bool is_last(int rank, int direction) const { return stage(rank, direction) == stages() - 1; }
  // The rank whose output is this module's input, or whose input is its output; -1: there is none.
  int previous_rank(int rank, int direction) const;
  int next_rank(int rank, int direction) const;
  bool operator==(const PipelineShape&) const = default;
};

// Error (usage), which names the rule, where the schedule does not exist for these sizes.
void validate(const PipelineShape& shape);

// A micro-batch in one of the rank's modules.
struct PipelineChunk {
  int8_t direction = 0;
  int16_t stage = 0;
  int32_t micro_batch = 0;
  bool operator==(const PipelineChunk&) const = default;
};

enum class PipelineActionKind : uint8_t {
  kForward,          // the last stage computes the loss with it
  kBackward,         // both gradients
  kInputGradient,    // the weight gradient follows later
  kWeightGradient,   //
  kForwardBackward,  // forward of `chunk` overlapped with the whole backward of `backward`
  // Put on the rank's list of pending messages. The activation is the input (receive) or output (send) of the chunk's
  // forward, the gradient that of its output (receive) or input (send): both sides name their own stage.
  kReceiveActivation,
  kSendActivation,
  kReceiveGradient,
  kSendGradient,
  kPost,    // posts the pending messages as one batch that does not block
  kCommit,  // posts, and waits for all messages that were posted. What was sent may be freed
};

struct PipelineAction {
  PipelineActionKind kind = PipelineActionKind::kCommit;
  int8_t phase = 0;        // of the schedule's program, 1 to 8
  PipelineChunk chunk;     // meaningless for kPost, kCommit
  PipelineChunk backward;  // kForwardBackward only
  int32_t peer = -1;       // rank; sends and receives only
  bool operator==(const PipelineAction&) const = default;

  bool is_compute() const { return kind <= PipelineActionKind::kForwardBackward; }
  bool is_send() const { return kind == PipelineActionKind::kSendActivation || kind == PipelineActionKind::kSendGradient; }
  bool is_receive() const {
    return kind == PipelineActionKind::kReceiveActivation || kind == PipelineActionKind::kReceiveGradient;
  }
  bool is_message() const { return is_send() || is_receive(); }
  // The chunk whose gradients a backward computes.
  const PipelineChunk& backward_chunk() const { return kind == PipelineActionKind::kForwardBackward ? backward : chunk; }
};

// Between two ranks messages meet in the order in which they are posted: the transport has no tags.
struct PipelineSchedule {
  PipelineShape shape;
  std::vector<std::vector<PipelineAction>> ranks;  // [ranks] of actions
};

// Calls validate. 1F1B: pipeline_linear.cc; ZB1P (zero-bubble H1): there, too; DualPipe and DualPipeV: pipeline_dual.cc.
PipelineSchedule make_pipeline_schedule(const PipelineShape& shape);

// "F0.3", "B1.1", "Bi1.0", "W1.0", "F0.3&B1.1" (direction.micro-batch); messages and commits in words.
std::string pipeline_action_name(const PipelineAction& action);

// The names of what a rank computes, in order.
std::vector<std::string> pipeline_ops(const std::vector<PipelineAction>& actions);

}  // namespace rorqual
