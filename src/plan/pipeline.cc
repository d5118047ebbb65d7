#include "plan/pipeline.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "plan/pipeline_program.h"

namespace rorqual {

const std::vector<std::string>& pipeline_kind_names() {
  static const std::vector<std::string> names = {"1f1b", "zb1p", "dualpipe", "dualpipev"};
  return names;
}

std::string_view pipeline_kind_name(PipelineKind kind) {
  return pipeline_kind_names()[static_cast<size_t>(kind)];
}

PipelineKind parse_pipeline_kind(std::string_view name) {
  const auto& names = pipeline_kind_names();
  const auto it = std::find(names.begin(), names.end(), name);
  if (it == names.end()) fail_usage("there is no pipeline schedule '{}': take {}", name, fmt::join(names, ", "));
  return static_cast<PipelineKind>(it - names.begin());
}

int PipelineShape::stage(int rank, int direction) const {
  if (direction == 0) return rank;
  return stages() - 1 - rank;
}

int PipelineShape::rank_of(int direction, int stage) const {
  if (kind == PipelineKind::kDualPipeV) return std::min(stage, stages() - 1 - stage);
  return direction == 0 ? stage : ranks - 1 - stage;
}

int PipelineShape::previous_rank(int rank, int direction) const {
  const int s = stage(rank, direction);
  return s == 0 ? -1 : rank_of(direction, s - 1);
}

int PipelineShape::next_rank(int rank, int direction) const {
  const int s = stage(rank, direction);
  return s == stages() - 1 ? -1 : rank_of(direction, s + 1);
}

void validate(const PipelineShape& shape) {
  constexpr int kMostRanks = 1 << 14;
  constexpr int64_t kMostChunks = int64_t{1} << 21;
  const std::string_view name = pipeline_kind_name(shape.kind);
  const int p = shape.ranks, c = shape.micro_batches;
  if (p < 1 || p > kMostRanks) fail_usage("{}: {} ranks; a pipeline has from 1 to {}", name, p, kMostRanks);
  if (c < 1) fail_usage("{}: {} micro-batches; there must be at least 1", name, c);
  if (int64_t{p} * c > kMostChunks)
    fail_usage("{}: {} ranks times {} micro-batches are more than the {} that a table may hold", name, p, c, kMostChunks);
  if (shape.kind == PipelineKind::kDualPipe) {
    if (p % 2 != 0) fail_usage("dualpipe needs an even number of ranks, for it pairs them from both ends: {} is odd", p);
    if (c % 2 != 0) fail_usage("dualpipe needs an even number of micro-batches, half for each direction: {} is odd", c);
  }
  if (shape.directions() == 2 && c < 2 * p)
    fail_usage("{} needs at least 2 micro-batches a rank: {} ranks need {}, not {}", name, p, 2 * p, c);
}

PipelineSchedule make_pipeline_schedule(const PipelineShape& shape) {
  validate(shape);
  PipelineSchedule schedule{.shape = shape, .ranks = {}};
  for (int rank = 0; rank < shape.ranks; ++rank) {
    PipelineProgram program(shape, rank);
    if (shape.kind == PipelineKind::k1F1B)
      write_1f1b(program);
    else if (shape.kind == PipelineKind::kZB1P)
      write_zb1p(program);
    else
      write_dual_pipe(program);
    schedule.ranks.push_back(program.finish());
  }
  return schedule;
}

std::string pipeline_action_name(const PipelineAction& action) {
  const auto label = [](std::string_view prefix, const PipelineChunk& c) {
    return fmt::format("{}{}.{}", prefix, c.direction, c.micro_batch);
  };
  const PipelineChunk& c = action.chunk;
  switch (action.kind) {
    case PipelineActionKind::kForward:
      return label("F", c);
    case PipelineActionKind::kBackward:
      return label("B", c);
    case PipelineActionKind::kInputGradient:
      return label("Bi", c);
    case PipelineActionKind::kWeightGradient:
      return label("W", c);
    case PipelineActionKind::kForwardBackward:
      return label("F", c) + "&" + label("B", action.backward);
    case PipelineActionKind::kReceiveActivation:
      return fmt::format("receive for {} from rank {}", label("F", c), action.peer);
    case PipelineActionKind::kSendActivation:
      return fmt::format("send of {} to rank {}", label("F", c), action.peer);
    case PipelineActionKind::kReceiveGradient:
      return fmt::format("receive for {} from rank {}", label("B", c), action.peer);
    case PipelineActionKind::kSendGradient:
      return fmt::format("send of {} to rank {}", label("B", c), action.peer);
    case PipelineActionKind::kPost:
      return "post";
    case PipelineActionKind::kCommit:
      return "commit";
  }
  CHECK(false, "no such action: {}", static_cast<int>(action.kind));
}

std::vector<std::string> pipeline_ops(const std::vector<PipelineAction>& actions) {
  std::vector<std::string> names;
  for (const PipelineAction& a : actions)
    if (a.is_compute()) names.push_back(pipeline_action_name(a));
  return names;
}

}  // namespace rorqual
