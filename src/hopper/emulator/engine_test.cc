// The emulator finds what it is there to find: each of these kernels is wrong in one way.
#include "hopper/emulator/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "base/error.h"
#include "hopper/device.h"
#include "hopper/runtime.h"

namespace rorqual::hopper {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// Under how many of 20 schedules `wrong` is true.
int schedules(const std::function<bool()>& wrong) {
  int count = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    emulator::set_seed(seed);
    count += wrong() ? 1 : 0;
  }
  return count;
}

// Thread i's number reaches its neighbour through shared memory, with or without the barrier between.
void pass_on(bool with_barrier, int* out) {
  auto* shared = reinterpret_cast<int*>(shared_memory());
  const int i = thread_index();
  shared[i] = i;
  if (with_barrier) sync_threads();
  out[i] = shared[(i + 32) % 128];
}

TEST(Emulator, AMissingBarrierGivesWrongNumbers) {
  const auto wrong = [](bool with_barrier) {
    int out[128];
    HOPPER_LAUNCH(pass_on, LaunchShape{.shared_bytes = 512}, nullptr, with_barrier, static_cast<int*>(out));
    for (int i = 0; i < 128; ++i)
      if (out[i] != (i + 32) % 128) return true;
    return false;
  };
  EXPECT_GT(schedules([&] { return wrong(false); }), 10);
  EXPECT_EQ(schedules([&] { return wrong(true); }), 0);
}

void no_barrier_in_warp(int* out) {
  auto* shared = reinterpret_cast<int*>(shared_memory());
  shared[thread_index()] = thread_index();
  out[thread_index()] = shared[31 - thread_index()];
}

TEST(Emulator, LanesAreNotInStep) {
  EXPECT_EQ(schedules([] {
              int out[32];
              HOPPER_LAUNCH(no_barrier_in_warp, (LaunchShape{.threads = 32, .shared_bytes = 128}), nullptr,
                            static_cast<int*>(out));
              return out[0] != 31 || out[31] != 0;
            }),
            20);
}

struct Source {
  std::vector<uint8_t> bytes = std::vector<uint8_t>(64 * 128);
  Source() {
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i % 100 + 1);
  }
  TensorMap map(int box_rows = 8) const {
    auto* start = bytes.data();
    return make_tensor_map(
        {.data = start, .columns = 128, .rows = 64, .row_bytes = 128, .box_columns = 128, .box_rows = box_rows});
  }
};

enum class Mistake { kNone, kNoWait, kStageTooEarly, kWrongBytes, kNeverWaited };

// Sums the bytes of eight boxes that come one after another into one stage.
void sum_boxes(const TensorMap& map, Mistake mistake, int* out) {
  uint8_t* stage = shared_memory();
  auto* full = reinterpret_cast<Barrier*>(stage + 1024);
  Barrier* empty = full + 1;
  if (thread_index() == 0) {
    barrier_init(full, 1);
    barrier_init(empty, 1);
  }
  sync_threads();
  if (thread_index() >= 32) {
    if (thread_index() != 32) return;
    for (uint32_t i = 0; i < 8; ++i) {
      if (mistake != Mistake::kStageTooEarly) barrier_wait(empty, (i & 1) ^ 1);
      barrier_arrive_expect(full, mistake == Mistake::kWrongBytes ? 1040 : 1024);
      tma_load(&map, stage, full, 0, static_cast<int>(i) * 8);
      if (mistake == Mistake::kStageTooEarly) barrier_wait(full, i & 1);
    }
    return;
  }
  int sum = 0;
  for (uint32_t i = 0; i < 8; ++i) {
    if (mistake == Mistake::kNeverWaited && i == 7) break;
    if (mistake != Mistake::kNoWait) barrier_wait(full, i & 1);
    for (int j = thread_index(); j < 1024; j += 32) sum += stage[j];
    sync_warp();
    if (thread_index() == 0) barrier_arrive(empty);
  }
  atomic_add(out, sum);
}

std::string sum_under(Mistake mistake) {
  const Source source;
  int expected = 0, sum = 0;
  for (const uint8_t byte : source.bytes) expected += byte;
  try {
    HOPPER_LAUNCH(sum_boxes, (LaunchShape{.threads = 64, .shared_bytes = 2048}), nullptr, source.map(), mistake, &sum);
  } catch (const Error& error) {
    return error.what();
  }
  return sum == expected ? "" : "wrong";
}

TEST(Emulator, CopiesArriveWhenTheyAreWaitedFor) {
  EXPECT_EQ(schedules([] { return !sum_under(Mistake::kNone).empty(); }), 0);
  EXPECT_GT(schedules([] { return !sum_under(Mistake::kNoWait).empty(); }), 10);
  EXPECT_GT(schedules([] { return !sum_under(Mistake::kStageTooEarly).empty(); }), 10);
  emulator::set_seed(1);
  EXPECT_THAT(sum_under(Mistake::kWrongBytes),
              AllOf(HasSubstr("sum_boxes: deadlock"), HasSubstr("warp 0: 32 lanes wait for barrier_wait")));
}

// A product in one stage; the mistakes are those of its order.
enum class Order { kRight, kReadBeforeWait, kNoFence, kWarpsDiffer, kUnaligned };
void product(const TensorMap& map, Order order, float* out) {
  uint8_t* tile = shared_memory();
  auto* full = reinterpret_cast<Barrier*>(tile + 64 * 128);
  if (thread_index() == 0) {
    barrier_init(full, 1);
    barrier_arrive_expect(full, 64 * 128);
    tma_load(&map, tile, full, 0, 0);
  }
  sync_threads();
  barrier_wait(full, 0);
  const uint32_t shift = order == Order::kUnaligned ? 128 : 0;
  const MatrixDescriptor a = matrix_descriptor(shared_address(tile) + shift, 1024);
  const bool differ = order == Order::kWarpsDiffer && thread_index() >= 64;
  float d[8];
  if (order != Order::kNoFence) wgmma_fence();
  wgmma_e4m3<16>(d, advance(a, differ ? 32 : 0), a, false);
  wgmma_commit();
  if (order != Order::kReadBeforeWait) wgmma_wait<0>();
  out[thread_index()] = d[0];
  if (order == Order::kReadBeforeWait) wgmma_wait<0>();
}

TEST(Emulator, ProductsBelongToTheTensorCoresUntilTheWait) {
  const Source source;
  float out[128];
  const auto run = [&](Order order) {
    return message_of([&] {
      HOPPER_LAUNCH(product, LaunchShape{.shared_bytes = 10240}, nullptr, source.map(64), order, static_cast<float*>(out));
    });
  };
  EXPECT_EQ(run(Order::kRight), "no error");
  for (const float x : out) EXPECT_FALSE(std::isnan(x));
  EXPECT_EQ(run(Order::kReadBeforeWait), "no error");
  for (const float x : out) EXPECT_TRUE(std::isnan(x));
  EXPECT_THAT(run(Order::kNoFence), HasSubstr("without wgmma_fence"));
  EXPECT_THAT(run(Order::kWarpsDiffer), HasSubstr("issue different wgmma"));
  EXPECT_THAT(run(Order::kUnaligned), HasSubstr("multiple of 1024"));
}

void misuse(int which) {
  auto* barrier = reinterpret_cast<Barrier*>(shared_memory());
  if (thread_index() != 0 && which != 4) return;
  if (which == 0) barrier_arrive(barrier);
  if (which == 1) {
    barrier_init(barrier, 2);
    barrier_arrive(barrier);
    barrier_wait(barrier, 0);
  }
  if (which == 2) shared_address(shared_memory() + 5000);
  if (which == 3) load(reinterpret_cast<const Words4*>(shared_memory() + 4));
  if (which == 4) named_sync(1, 256);
  if (which == 5) bulk_load(shared_memory(), shared_memory(), 24, barrier);
  if (which == 6) bulk_load(shared_memory() + 1024, shared_memory(), 2048, barrier);
}

TEST(Emulator, MisuseIsAnErrorThatSaysWhere) {
  const auto run = [](int which) {
    return message_of([=] { HOPPER_LAUNCH(misuse, LaunchShape{.blocks = 3, .shared_bytes = 2048}, nullptr, which); });
  };
  EXPECT_THAT(run(0), AllOf(HasSubstr("misuse: block 0, warp 0, lane 0"), HasSubstr("not initialised")));
  EXPECT_THAT(run(1), HasSubstr("deadlock. Block 0, warp 0: 1 lanes wait for barrier_wait."));
  EXPECT_THAT(run(2), HasSubstr("not into the block's shared memory"));
  EXPECT_THAT(run(3), HasSubstr("not aligned"));
  EXPECT_THAT(run(4), HasSubstr("wait for a named barrier"));
  EXPECT_THAT(run(5), HasSubstr("not aligned to 16 bytes"));
  EXPECT_THAT(run(6), HasSubstr("has 2048 bytes"));
}

// In place: each thread reads its number, then writes the next; by a load for memory that the kernel does not write, or not.
void add_one(int* numbers, bool read_only) {
  const int i = thread_index();
  const int before = read_only ? load(numbers + i) : numbers[i];
  numbers[i] = before + 1;
}

TEST(Emulator, LoadsOfMemoryThatTheKernelWritesAreSeen) {
  const auto run = [](bool read_only) {
    return message_of([=] {
      int numbers[128] = {};
      HOPPER_LAUNCH(add_one, LaunchShape{}, nullptr, static_cast<int*>(numbers), read_only);
    });
  };
  EXPECT_THAT(run(true), HasSubstr("add_one: writes memory that it reads by load"));
  EXPECT_EQ(run(false), "no error");
}

template <int kKept>
void share_registers() {
  if (thread_index() < kWarpgroup)
    give_registers<kKept>();
  else
    take_registers<240>();
}

// 3·168 registers a thread: 240 + 240 + 24.
TEST(Emulator, WarpgroupsShareTheRegistersOfTheLaunch) {
  const LaunchShape shape{.threads = 384};
  EXPECT_EQ(message_of([&] { HOPPER_LAUNCH(share_registers<24>, shape, nullptr); }), "no error");
  EXPECT_THAT(message_of([&] { HOPPER_LAUNCH(share_registers<32>, shape, nullptr); }), HasSubstr("wait for take_registers"));
  EXPECT_THAT(message_of([&] { HOPPER_LAUNCH(share_registers<176>, shape, nullptr); }), HasSubstr("176 registers given back"));
}

void left_behind(const TensorMap& map) {
  auto* barrier = reinterpret_cast<Barrier*>(shared_memory() + 1024);
  if (thread_index() != 0) return;
  barrier_init(barrier, 1);
  barrier_arrive_expect(barrier, 1024);
  tma_load(&map, shared_memory(), barrier, 0, 0);
}

TEST(Emulator, ABlockMustNotEndBeforeItsCopies) {
  const Source source;
  EXPECT_GT(schedules([&] {
              return message_of([&] {
                       HOPPER_LAUNCH(left_behind, LaunchShape{.shared_bytes = 2048}, nullptr, source.map());
                     }).find("ended before a box of the copy engine arrived") != std::string::npos;
            }),
            5);
}

TEST(Emulator, RefusesLaunchesThatAGpuRefuses) {
  const auto launch = [](const LaunchShape& shape) { return message_of([&] { HOPPER_LAUNCH(misuse, shape, nullptr, -1); }); };
  EXPECT_EQ(launch({}), "no error");
  EXPECT_THAT(launch({.threads = 48}), HasSubstr("invalid grid"));
  EXPECT_THAT(launch({.blocks = 3, .cluster = 2}), HasSubstr("invalid grid"));
  EXPECT_THAT(launch({.shared_bytes = kMostSharedBytes + 1}), HasSubstr("too much shared memory"));
}

void schedule_of(int* order) {
  if (lane_index() == 0) order[order[32]++] = thread_index() / kWarp;
}
TEST(Emulator, ASeedRepeatsItsSchedule) {
  const auto order = [](uint64_t seed) {
    emulator::set_seed(seed);
    std::vector<int> warps(33, 0);
    HOPPER_LAUNCH(schedule_of, LaunchShape{.threads = 1024}, nullptr, warps.data());
    return warps;
  };
  EXPECT_EQ(order(7), order(7));
  EXPECT_NE(order(7), order(8));
}

TEST(EmulatorDeathTest, WritesBeyondABufferAreSeen) {
  EXPECT_DEATH(
      {
        const DeviceBuffer buffer(100);
        buffer.as<uint8_t>()[100] = 0;
      },
      "wrote 1 bytes beyond a buffer of 100|use-after-poison");
}

}  // namespace
}  // namespace rorqual::hopper
