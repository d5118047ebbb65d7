#include "plan/pipeline_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"

namespace rorqual {
namespace {

using ::testing::HasSubstr;
using enum PipelineKind;
using Kind = PipelineActionKind;
using Actions = std::vector<PipelineAction>;

PipelineSchedule schedule_of(PipelineKind kind, int ranks, int micro_batches) {
  return make_pipeline_schedule({.kind = kind, .ranks = ranks, .micro_batches = micro_batches});
}

int64_t find(const Actions& actions, const std::string& name, size_t nth = 0) {
  for (size_t i = 0; i < actions.size(); ++i)
    if (pipeline_action_name(actions[i]) == name && nth-- == 0) return static_cast<int64_t>(i);
  ADD_FAILURE() << name;
  return 0;
}

void expect_fault(const PipelineSchedule& schedule, int rank, int64_t action, const std::string& why, int buffers = 0) {
  const PipelineCheck check = check_pipeline(schedule, buffers);
  ASSERT_TRUE(check.fault) << why;
  EXPECT_EQ(check.fault->rank, rank) << check.fault->why;
  EXPECT_EQ(check.fault->action, action) << check.fault->why;
  EXPECT_THAT(check.fault->why, HasSubstr(why));
  EXPECT_TRUE(check.peaks.empty());
}

void swap(Actions& actions, int64_t a, int64_t b) {
  std::swap(actions[static_cast<size_t>(a)], actions[static_cast<size_t>(b)]);
}

TEST(PipelineCheck, NamesTheFirstActionThatIsWrongAndWhy) {
  {
    PipelineSchedule s = schedule_of(k1F1B, 3, 4);
    Actions& r = s.ranks[1];
    const int64_t forward = find(r, "F0.1");
    swap(r, forward, find(r, "B0.0"));
    expect_fault(s, 1, forward, "rank 1, action 6 (B0.0): its gradient has not been received");
  }
  {
    PipelineSchedule s = schedule_of(k1F1B, 3, 4);
    const int64_t commit = find(s.ranks[2], "F0.0") - 1;
    s.ranks[2].erase(s.ranks[2].begin() + commit);
    expect_fault(s, 2, commit, "its input has not been waited for with a commit");
  }
  {
    PipelineSchedule s = schedule_of(kDualPipe, 4, 8);
    Actions& r = s.ranks[0];
    const int64_t weight = find(r, "W1.0");
    swap(r, weight, find(r, "Bi1.0"));
    expect_fault(s, 0, find(r, "W1.0"), "its input gradient has not run");
  }
  {
    PipelineSchedule s = schedule_of(kDualPipe, 4, 8);
    Actions& r = s.ranks[1];
    const auto at = r.begin() + find(r, "F0.1");
    r.insert(at + 1, *at);
    expect_fault(s, 1, find(r, "F0.1") + 1, "F0.1 has run");
  }
  {
    PipelineSchedule s = schedule_of(kDualPipeV, 2, 4);
    Actions& r = s.ranks[1];
    const int64_t forward = find(r, "F1.0");
    swap(r, forward, find(r, "F0.0"));
    expect_fault(s, 1, find(r, "F1.0"), "its input has not been computed");
  }
  {
    PipelineSchedule s = schedule_of(kZB1P, 3, 6);
    Actions& r = s.ranks[2];
    const int64_t first = find(r, "W0.2");
    swap(r, first, find(r, "W0.3"));
    expect_fault(s, 2, first, "the next weight gradient of direction 0 is 2's");
  }
  {
    PipelineSchedule s = schedule_of(k1F1B, 3, 4);
    const int64_t send = find(s.ranks[1], "send of F0.2 to rank 2");
    s.ranks[1][static_cast<size_t>(send)].peer = 0;
    expect_fault(s, 1, send, "its other side is rank 2");
  }
  {
    PipelineSchedule s = schedule_of(k1F1B, 3, 4);
    const int64_t forward = find(s.ranks[1], "F0.2");
    s.ranks[1][static_cast<size_t>(forward)].chunk.stage = 2;
    expect_fault(s, 1, forward, "stage 2 of direction 0 is not on this rank, 1 is");
  }
}

TEST(PipelineCheck, SaysWhatIsMissing) {
  PipelineSchedule s = schedule_of(kDualPipe, 2, 4);
  s.ranks[1].erase(s.ranks[1].begin() + find(s.ranks[1], "W1.1"));
  expect_fault(s, 1, static_cast<int64_t>(s.ranks[1].size()), "rank 1: the list lacks W1.1");
  s = schedule_of(k1F1B, 2, 2);
  s.ranks[1].erase(s.ranks[1].begin() + find(s.ranks[1], "send of B0.1 to rank 0"));
  expect_fault(s, 1, static_cast<int64_t>(s.ranks[1].size()), "rank 1: the list lacks the send of B0.1");
  s = schedule_of(k1F1B, 2, 2);
  s.ranks[1].pop_back();
  expect_fault(s, 1, static_cast<int64_t>(s.ranks[1].size()), "a message stands behind the last commit");
}

// Two sends in the other order: nothing is wrong with either list alone.
TEST(PipelineCheck, MessagesMeetInTheOrderOfTheTransport) {
  PipelineSchedule s = schedule_of(kDualPipe, 4, 8);
  Actions& r = s.ranks[1];
  const int64_t a = find(r, "send of F0.1 to rank 2"), b = find(r, "send of F0.2 to rank 2");
  // Both sends stand behind the later forward: the first waits, the second overtakes it.
  const PipelineAction first = r[static_cast<size_t>(a)];
  r.insert(r.begin() + b + 1, first);
  r.erase(r.begin() + a);
  const int64_t receive = find(s.ranks[2], "receive for F0.1 from rank 1");
  const PipelineCheck check = check_pipeline(s);
  ASSERT_TRUE(check.fault);
  EXPECT_EQ(check.fault->rank, 2);
  EXPECT_EQ(check.fault->action, receive);
  EXPECT_THAT(check.fault->why, HasSubstr("is another one: the send of F0.2 to rank 2"));
}

// 1F1B where neighbours both send before they receive: it needs a transport that keeps a message.
TEST(PipelineCheck, DeadlockDependsOnTheBuffersBetweenRanks) {
  PipelineSchedule s = schedule_of(k1F1B, 2, 3);
  for (Actions& r : s.ranks) {
    Actions apart;  // a commit behind every send
    for (const PipelineAction& a : r) {
      apart.push_back(a);
      if (a.is_send()) apart.push_back({.kind = Kind::kCommit, .phase = 0, .chunk = {}, .backward = {}, .peer = -1});
    }
    r = apart;
  }
  const PipelineCheck check = check_pipeline(s, 0);
  ASSERT_TRUE(check.fault);
  EXPECT_THAT(check.fault->why, HasSubstr("waits for ever with 0 message buffers"));
  EXPECT_EQ(pipeline_action_name(s.ranks[static_cast<size_t>(check.fault->rank)][static_cast<size_t>(check.fault->action)]),
            "commit");
  EXPECT_FALSE(check_pipeline(s, 1).fault);
}

TEST(PipelineCheck, AScheduleOfNoKnownProgramCanBeRight) {
  // All forwards, then all backwards, on two ranks.
  PipelineSchedule s = schedule_of(k1F1B, 2, 2);
  const auto action = [](Kind kind, int stage, int micro_batch, int peer = -1) {
    return PipelineAction{.kind = kind,
                          .phase = 0,
                          .chunk = {.direction = 0, .stage = static_cast<int16_t>(stage), .micro_batch = micro_batch},
                          .backward = {},
                          .peer = peer};
  };
  const PipelineAction commit{};
  s.ranks[0] = {action(Kind::kForward, 0, 0),
                action(Kind::kSendActivation, 0, 0, 1),
                action(Kind::kForward, 0, 1),
                action(Kind::kSendActivation, 0, 1, 1),
                action(Kind::kReceiveGradient, 0, 0, 1),
                action(Kind::kReceiveGradient, 0, 1, 1),
                commit,
                action(Kind::kInputGradient, 0, 1),
                action(Kind::kBackward, 0, 0),
                action(Kind::kWeightGradient, 0, 1)};
  s.ranks[1] = {action(Kind::kReceiveActivation, 1, 0, 0),
                action(Kind::kReceiveActivation, 1, 1, 0),
                commit,
                action(Kind::kForward, 1, 0),
                action(Kind::kForward, 1, 1),
                action(Kind::kBackward, 1, 0),
                action(Kind::kSendGradient, 1, 0, 0),
                action(Kind::kBackward, 1, 1),
                action(Kind::kSendGradient, 1, 1, 0),
                commit};
  // The sends of rank 0 are posted with its receives; rank 1 needs them first, and posts what rank 0 receives at its end.
  const PipelineCheck check = check_pipeline(s);
  ASSERT_FALSE(check.fault) << check.fault->why;
  EXPECT_EQ(check.peaks[0].activations, 2);
  EXPECT_EQ(check.peaks[0].weight_gradients, 1);
  EXPECT_EQ(check.peaks[0].held, 2);
  EXPECT_EQ(check.peaks[0].messages, 4) << "two outputs that are being sent, two gradients";
  EXPECT_EQ(check.peaks[1].weight_gradients, 0);
}

TEST(PipelineCheck, SizesThatDoNotExistAreRefused) {
  PipelineSchedule s = schedule_of(kDualPipe, 4, 8);
  s.shape.micro_batches = 6;
  EXPECT_THROW(check_pipeline(s), Error);
}

}  // namespace
}  // namespace rorqual
