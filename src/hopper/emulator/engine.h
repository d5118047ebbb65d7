// The emulator: runs device code on the CPU, a fiber a thread, one cluster of blocks after another. It stands in for a GPU in
// tests, and is stricter than one. The order in which warps run is drawn at random (RORQUAL_EMULATOR_SEED), and what hardware
// does asynchronously — copies, tensor-core products — happens at a random moment between issue and wait: a missing barrier, a
// stage handed back too early or a result read before its wait gives wrong numbers under some seed. Shared and device memory
// begin as NaN. A deadlock, a wrong use of a barrier or an access beyond a buffer is an Error that names block and warp.
//
// What it does not see: a missing proxy fence, bank conflicts, time.
#pragma once

#include <boost/context/fiber.hpp>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "hopper/launch.h"

namespace rorqual::hopper::emulator {

struct Block;

// Threads that meet: all of them, once a round.
struct Meeting {
  int arrived = 0;
  uint64_t rounds = 0;
};

struct Warp {
  Meeting meeting;
  uint64_t in[kWarp] = {}, out[kWarp] = {};  // what lanes give one another
  const void* address[kWarp] = {};
};

// A tensor-core product of a warpgroup: complete once all threads have issued it.
struct Product {
  int issued = 0;
  bool done = false;
  bool fp8 = false, a_in_registers = false, a_mn = false, b_mn = false, add = false;
  int n = 0;
  uint64_t a = 0, b = 0;
  float* d[kWarpgroup] = {};
  uint32_t a_registers[kWarpgroup][4] = {};
};

struct Warpgroup {
  std::deque<Product> products;  // those not done yet, and some done
  uint64_t first = 0;            // number of products.front()
  int registers = 0;             // of a thread
};

// Something asynchronous that runs once: at a random moment, when nothing else can run, or when somebody waits for it.
struct Deferred {
  std::function<void()> apply;
  bool done = false;
  void run() {
    if (done) return;
    done = true;
    apply();
  }
};

// Copies of one thread that are waited for by groups.
struct CopyGroups {
  std::vector<std::shared_ptr<Deferred>> open;                // not committed
  std::deque<std::vector<std::shared_ptr<Deferred>>> groups;  // oldest first
};

struct Thread {
  int index = 0;  // in the block
  Block* block = nullptr;
  boost::context::fiber fiber;
  void* stack = nullptr;
  bool finished = false;
  const char* waits_for = nullptr;
  // Tensor cores: results live in `shadows` from issue to wait.
  struct Shadow {
    float* d = nullptr;
    int count = 0;
    uint64_t last_product = 0;
    std::vector<float> values;
  };
  std::vector<Shadow> shadows;
  uint64_t products_issued = 0;
  std::vector<uint64_t> product_groups;  // number of the first product after each commit
  bool fenced = false;
  CopyGroups small_copies, stores;  // copy_16; the copy engine's
};

struct NamedBarrier {
  int threads = 0, arrived = 0;
  uint64_t rounds = 0;
};

struct Block {
  int index = 0, index_y = 0, rank = 0;
  std::byte* shared = nullptr;
  uint32_t shared_bytes = 0;
  NamedBarrier named[16];
  Meeting all;
  std::vector<Warp> warps;
  std::vector<Warpgroup> warpgroups;
  std::vector<std::unique_ptr<Thread>> threads;
};

// The running thread.
Thread& self();
const LaunchShape& shape();
Block& block_of_rank(int rank);  // of the running cluster
int cluster_size();
[[noreturn]] void broken(const std::string& what);  // an Error with block, warp and lane
// load and load_once: what lies at p now must lie there when the launch ends. At most 16 bytes.
void note_load(const void* p, size_t bytes);

// Suspends the running thread; wait_until does until `ready` holds. `what` is for the report of a deadlock.
void yield(const char* what);
void progressed();
template <class Ready>
void wait_until(const char* what, const Ready& ready) {
  while (!ready()) yield(what);
  progressed();
}
// All `count` threads of a meeting.
void meet(Meeting& meeting, int count, const char* what);
Meeting& cluster_meeting();

// Runs `apply` at a random moment. A copy into shared memory that is left when its cluster has ended is an Error (`what`).
std::shared_ptr<Deferred> later(std::function<void()> apply, const char* into_shared = nullptr);
uint32_t random_bits();

// Shared memory of the running block: address 0 is reserved, so that a forgotten one is found.
inline constexpr uint32_t kSharedBase = 1024;
std::byte* shared_at(Block& block, uint32_t address, uint32_t bytes);
uint32_t address_of(const Block& block, const void* p);

// Executes the products of a warpgroup up to number `end`, in order.
void run_products(Block& block, size_t warpgroup, uint64_t end);
// The running warpgroup's registers from here on: more are there once others have given them. A launch hands each thread as
// many as 65,536 allow, and no others ever come.
void take_registers(int registers);
void give_registers(int registers);
// (emulator/wgmma.cc) D of a product whose operands lie in the block's shared memory.
void compute(Block& block, const Product& product, float* const (&d)[kWarpgroup]);

// Another schedule from here on.
void set_seed(uint64_t seed);

// Runs all blocks of a launch; `body` is the kernel with its arguments.
void run(const char* name, const LaunchShape& shape, const std::function<void()>& body);

}  // namespace rorqual::hopper::emulator
