#include "hopper/emulator/engine.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <exception>

#include "base/error.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace rorqual::hopper {

void launch_failed(const char* kernel, const char* reason) {
  fail("{}: cannot be launched: {}", kernel, reason);
}

namespace emulator {
namespace {

namespace context = boost::context;

constexpr size_t kStackBytes = 192 * 1024;

// AddressSanitizer is told of every change of stacks.
#ifdef __SANITIZE_ADDRESS__
void leave_stack(void** own, const void* to, size_t bytes) {
  __sanitizer_start_switch_fiber(own, to, bytes);
}
void enter_stack(void* own, const void** from, size_t* bytes) {
  __sanitizer_finish_switch_fiber(own, from, bytes);
}
void forget_stack(void* memory) {  // the last fiber left its deepest frames without returning
  ASAN_UNPOISON_MEMORY_REGION(memory, kStackBytes);
}
#else
void leave_stack(void**, const void*, size_t) {}
void enter_stack(void*, const void**, size_t*) {}
void forget_stack(void*) {}
#endif

struct Free {
  void operator()(std::byte* p) const { std::free(p); }
};
using Memory = std::unique_ptr<std::byte, Free>;

// Stacks are kept from launch to launch: a block of 384 threads would map them anew each time.
struct StackPool {
  static std::vector<Memory>& free_list() {
    static std::vector<Memory> list;
    return list;
  }
  context::stack_context allocate() {
    auto& list = free_list();
    if (list.empty()) list.emplace_back(static_cast<std::byte*>(std::aligned_alloc(4096, kStackBytes)));
    std::byte* memory = list.back().release();
    list.pop_back();
    if (memory == nullptr) fail("the emulator has no memory for a stack of {} KiB", kStackBytes / 1024);
    forget_stack(memory);
    context::stack_context stack;
    stack.size = kStackBytes;
    stack.sp = memory + kStackBytes;
    return stack;
  }
  void deallocate(context::stack_context& stack) { free_list().emplace_back(static_cast<std::byte*>(stack.sp) - kStackBytes); }
};

// xorshift: order of warps, moments of copies. Not for numbers that anybody reads.
struct Dice {
  uint64_t state = 0;
  uint32_t next() {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return static_cast<uint32_t>(state >> 16);
  }
};

uint64_t seed_of_environment() {
  const char* text = std::getenv("RORQUAL_EMULATOR_SEED");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : 0;
}
constexpr uint64_t state_of(uint64_t seed) {
  return seed * 0x9e3779b97f4a7c15u + 0x2545f4914f6cdd1du;
}

// What a load found.
struct Loaded {
  const void* p;
  size_t bytes;
  std::array<std::byte, 16> value;
};

struct Cluster {
  const char* kernel = nullptr;
  LaunchShape shape;
  std::vector<Block> blocks;
  std::vector<Memory> shared;
  Meeting meeting;
  struct Pending {
    std::shared_ptr<Deferred> what;
    const char* into_shared = nullptr;
  };
  std::vector<Pending> pending;
  bool progress = false;
  std::exception_ptr error;
  bool abandoned = false;  // after an error: threads end where they wait
  context::fiber scheduler;
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_bytes = 0;
  Thread* running = nullptr;
  std::vector<Loaded> loaded;
};
struct Abandoned {};

Cluster* cluster = nullptr;
Dice dice{state_of(seed_of_environment())};

std::string place_of(const Thread& thread) {
  return fmt::format("{}: block {}, warp {}, lane {}", cluster->kernel, thread.block->index, thread.index / kWarp,
                     thread.index % kWarp);
}

void resume(Thread& thread) {
  cluster->running = &thread;
  void* own = nullptr;
  leave_stack(&own, thread.stack, kStackBytes);
  thread.fiber = std::move(thread.fiber).resume();
  enter_stack(own, nullptr, nullptr);
  cluster->running = nullptr;
}

void run_thread(const std::function<void()>& body) {
  if (cluster->abandoned) return;
  try {
    body();
  } catch (const Abandoned&) {
  } catch (...) {
    if (!cluster->error) cluster->error = std::current_exception();
  }
}

void start(Thread& thread, const std::function<void()>& body) {
  StackPool pool;
  const context::stack_context stack = pool.allocate();
  thread.stack = static_cast<char*>(stack.sp) - kStackBytes;
  thread.fiber = context::fiber(std::allocator_arg, context::preallocated(stack.sp, stack.size, stack), pool,
                                [&thread, &body](context::fiber&& caller) {
                                  cluster->scheduler = std::move(caller);
                                  enter_stack(nullptr, &cluster->scheduler_stack, &cluster->scheduler_stack_bytes);
                                  run_thread(body);
                                  thread.finished = true;
                                  cluster->progress = true;
                                  leave_stack(nullptr, cluster->scheduler_stack, cluster->scheduler_stack_bytes);
                                  return std::move(cluster->scheduler);
                                });
}

// Ends all threads after an error, so that nothing lives on their stacks.
void abandon() {
  cluster->abandoned = true;
  for (Block& block : cluster->blocks)
    for (auto& thread : block.threads)
      if (!thread->finished) resume(*thread);
}

// A pending copy or product, any of them.
void run_one_pending() {
  auto& pending = cluster->pending;
  const size_t i = dice.next() % pending.size();
  const std::shared_ptr<Deferred> what = pending[i].what;
  pending[i] = pending.back();
  pending.pop_back();
  what->run();
}

// "12 lanes wait for barrier_wait", or nothing if all have finished.
std::string waits_of(const Block& block, size_t warp) {
  std::string waits;
  int waiting = 0;
  for (size_t l = 0; l < kWarp; ++l) {
    const Thread& thread = *block.threads[warp * kWarp + l];
    if (thread.finished) continue;
    ++waiting;
    if (waits.find(thread.waits_for) == waits.npos)
      waits += waits.empty() ? thread.waits_for : fmt::format(", {}", thread.waits_for);
  }
  return waiting == 0 ? "" : fmt::format("{} lanes wait for {}", waiting, waits);
}

std::string deadlock() {
  std::string text = fmt::format("{}: deadlock.", cluster->kernel);
  for (const Block& block : cluster->blocks)
    for (size_t first = 0, end = 0; first < block.warps.size(); first = end) {
      const std::string waits = waits_of(block, first);
      for (end = first + 1; end < block.warps.size() && waits_of(block, end) == waits;) ++end;
      if (waits.empty()) continue;
      text += end == first + 1 ? fmt::format(" Block {}, warp {}: {}.", block.index, first, waits)
                               : fmt::format(" Block {}, warps {} to {}: {}.", block.index, first, end - 1, waits);
    }
  return text;
}

// Each warp once, in random order; its lanes up or down. False when all threads have finished.
bool run_round() {
  std::vector<std::pair<Block*, size_t>> order;
  for (Block& block : cluster->blocks)
    for (size_t w = 0; w < block.warps.size(); ++w) order.emplace_back(&block, w);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[dice.next() % i]);
  bool any = false;
  for (const auto& [block, w] : order) {
    const bool down = dice.next() % 2 != 0;
    for (size_t l = 0; l < kWarp; ++l) {
      Thread& thread = *block->threads[w * kWarp + (down ? kWarp - 1 - l : l)];
      if (thread.finished) continue;
      any = true;
      resume(thread);
      if (cluster->error) return false;
    }
    while (!cluster->pending.empty() && dice.next() % 4 == 0) run_one_pending();
  }
  return any;
}

void run_cluster(const std::function<void()>& body) {
  for (Block& block : cluster->blocks)
    for (auto& thread : block.threads) start(*thread, body);
  try {
    for (;;) {
      cluster->progress = false;
      if (!run_round()) break;
      if (cluster->progress) continue;
      if (cluster->pending.empty()) fail("{}", deadlock());
      run_one_pending();
    }
  } catch (...) {
    cluster->error = std::current_exception();
  }
  if (cluster->error) {
    abandon();
    std::rethrow_exception(cluster->error);
  }
  for (const auto& [what, into_shared] : cluster->pending)
    if (into_shared != nullptr && !what->done) broken(fmt::format("ended before {} arrived", into_shared));
  while (!cluster->pending.empty()) run_one_pending();
}

// Of a thread at its start, if one block has a multiprocessor to itself.
int launch_registers() {
  return static_cast<int>(std::min(65536 / cluster->shape.threads / 8 * 8, 256u));
}

void make_blocks(uint32_t first, uint32_t y) {
  const LaunchShape& shape = cluster->shape;
  cluster->blocks.clear();
  cluster->blocks.resize(shape.cluster);
  cluster->meeting = {};
  for (uint32_t r = 0; r < shape.cluster; ++r) {
    Block& block = cluster->blocks[r];
    block.index = static_cast<int>(first + r);
    block.index_y = static_cast<int>(y);
    block.rank = static_cast<int>(r);
    block.shared = cluster->shared[r].get();
    block.shared_bytes = shape.shared_bytes;
    std::memset(block.shared, 0xff, shape.shared_bytes);
    block.warps.resize(shape.threads / kWarp);
    block.warpgroups.resize((shape.threads + kWarpgroup - 1) / kWarpgroup);
    for (Warpgroup& group : block.warpgroups) group.registers = launch_registers();
    for (uint32_t t = 0; t < shape.threads; ++t) {
      block.threads.push_back(std::make_unique<Thread>());
      block.threads.back()->index = static_cast<int>(t);
      block.threads.back()->block = &block;
    }
  }
}

}  // namespace

Thread& self() {
  return *cluster->running;
}
const LaunchShape& shape() {
  return cluster->shape;
}
Block& block_of_rank(int rank) {
  if (rank < 0 || rank >= cluster_size()) broken(fmt::format("rank {} of a cluster of {}", rank, cluster_size()));
  return cluster->blocks[static_cast<size_t>(rank)];
}
int cluster_size() {
  return static_cast<int>(cluster->shape.cluster);
}
Meeting& cluster_meeting() {
  return cluster->meeting;
}
void broken(const std::string& what) {
  fail("{}: {}", cluster->running != nullptr ? place_of(*cluster->running) : cluster->kernel, what);
}
void yield(const char* what) {
  Thread& thread = self();
  thread.waits_for = what;
  void* own = nullptr;
  leave_stack(&own, cluster->scheduler_stack, cluster->scheduler_stack_bytes);
  cluster->scheduler = std::move(cluster->scheduler).resume();
  enter_stack(own, &cluster->scheduler_stack, &cluster->scheduler_stack_bytes);
  cluster->running = &thread;
  if (cluster->abandoned) throw Abandoned{};
}
void progressed() {
  cluster->progress = true;
}
void meet(Meeting& meeting, int count, const char* what) {
  const uint64_t round = meeting.rounds;
  if (++meeting.arrived == count) {
    meeting.arrived = 0;
    ++meeting.rounds;
    progressed();
    return;
  }
  wait_until(what, [&] { return meeting.rounds != round; });
}
std::shared_ptr<Deferred> later(std::function<void()> apply, const char* into_shared) {
  auto what = std::make_shared<Deferred>(Deferred{std::move(apply)});
  cluster->pending.push_back({what, into_shared});
  return what;
}
void set_seed(uint64_t seed) {
  dice = {state_of(seed)};
}
uint32_t random_bits() {
  return dice.next();
}

namespace {
Warpgroup& own_warpgroup() {
  return self().block->warpgroups[static_cast<size_t>(self().index / kWarpgroup)];
}
}  // namespace

void take_registers(int registers) {
  Warpgroup& own = own_warpgroup();
  const auto& all = self().block->warpgroups;
  wait_until("take_registers", [&] {
    int sum = registers - own.registers;
    for (const Warpgroup& group : all) sum += group.registers;
    return sum <= launch_registers() * static_cast<int>(all.size());
  });
  own.registers = registers;
}
void give_registers(int registers) {
  Warpgroup& own = own_warpgroup();
  if (registers > own.registers) broken(fmt::format("{} registers given back of {}", registers, own.registers));
  own.registers = registers;
}

std::byte* shared_at(Block& block, uint32_t address, uint32_t bytes) {
  if (address < kSharedBase || address + bytes > kSharedBase + block.shared_bytes)
    broken(fmt::format("shared memory at {}..{}, the block has {} bytes", int64_t{address} - kSharedBase,
                       int64_t{address} + bytes - kSharedBase, block.shared_bytes));
  return block.shared + (address - kSharedBase);
}
uint32_t address_of(const Block& block, const void* p) {
  const auto offset = static_cast<const std::byte*>(p) - block.shared;
  if (offset < 0 || offset > block.shared_bytes) broken("a pointer that is not into the block's shared memory");
  return kSharedBase + static_cast<uint32_t>(offset);
}

namespace {
void check_loaded() {
  for (const Loaded& x : cluster->loaded)
    if (std::memcmp(x.p, x.value.data(), x.bytes) != 0)
      fail("{}: writes memory that it reads by load or load_once, which may see either", cluster->kernel);
  cluster->loaded.clear();
}
}  // namespace

void note_load(const void* p, size_t bytes) {
  constexpr size_t kMost = 1 << 18;  // memory for what is kept
  if (cluster->loaded.size() == kMost) check_loaded();
  Loaded& x = cluster->loaded.emplace_back(Loaded{p, bytes, {}});
  std::memcpy(x.value.data(), p, bytes);
}

void run(const char* name, const LaunchShape& shape, const std::function<void()>& body) {
  if (shape.threads == 0 || shape.threads % kWarp != 0 || shape.threads > 1024 || shape.cluster == 0 || shape.cluster > 8 ||
      shape.blocks % shape.cluster != 0)
    launch_failed(name, "invalid grid, block or cluster");
  if (shape.shared_bytes > static_cast<uint32_t>(kMostSharedBytes)) launch_failed(name, "too much shared memory");
  CHECK(cluster == nullptr, "{} launched by a kernel", name);
  Cluster state;
  state.kernel = name;
  state.shape = shape;
  for (uint32_t r = 0; r < shape.cluster; ++r)
    state.shared.emplace_back(static_cast<std::byte*>(std::aligned_alloc(1024, (shape.shared_bytes + 1024) / 1024 * 1024)));
  cluster = &state;
  struct Leave {
    ~Leave() { cluster = nullptr; }
  } leave;
  for (uint32_t y = 0; y < shape.blocks_y; ++y)
    for (uint32_t first = 0; first < shape.blocks; first += shape.cluster) {
      make_blocks(first, y);
      run_cluster(body);
    }
  check_loaded();
}

}  // namespace emulator

void restart_schedule() {
  emulator::set_seed(emulator::seed_of_environment());
}

}  // namespace rorqual::hopper
