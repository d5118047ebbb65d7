// Warps, barriers and copies of the emulator.
#include "base/error.h"
#include "hopper/emulator/device.h"

namespace rorqual::hopper {
namespace emulator {

const uint64_t* gather(uint64_t value) {
  Warp& w = warp();
  w.in[lane()] = value;
  if (w.meeting.arrived == kWarp - 1) std::copy(std::begin(w.in), std::end(w.in), std::begin(w.out));
  meet(w.meeting, kWarp, "an operation of the whole warp");
  return w.out;
}

uint64_t exchange(uint64_t value, size_t from) {
  return gather(value)[from];
}

// ---- Barriers of shared memory

namespace {

// In the barrier's own eight bytes, as in hardware.
struct BarrierState {
  uint64_t magic : 6, phase : 1, expected : 11, left : 11, : 3;
  int64_t bytes : 32;
};
static_assert(sizeof(BarrierState) == sizeof(Barrier));
constexpr uint64_t kMagic = 0x2a;

BarrierState read(const Barrier* barrier) {
  const auto state = std::bit_cast<BarrierState>(barrier->word);
  if (state.magic != kMagic) broken("a barrier that was not initialised");
  return state;
}

void write(Barrier* barrier, BarrierState state) {
  if (state.left == 0 && state.bytes == 0) {
    state.phase ^= 1;
    state.left = state.expected;
    progressed();
  }
  barrier->word = std::bit_cast<uint64_t>(state);
}

void arrive(Barrier* barrier, uint32_t expect_bytes) {
  BarrierState state = read(barrier);
  if (state.left == 0) broken("more arrivals on a barrier than it was made for");
  state.bytes += expect_bytes;
  --state.left;
  write(barrier, state);
}

void complete_bytes(Barrier* barrier, uint32_t bytes) {
  BarrierState state = read(barrier);
  state.bytes -= bytes;
  write(barrier, state);
}

Barrier* barrier_in(Block& block, uint32_t address) {
  return reinterpret_cast<Barrier*>(shared_at(block, address, sizeof(Barrier)));
}

// ---- The copy engine

// What a TensorMap holds here.
struct Map {
  uint64_t magic;
  TensorMapShape shape;
};
static_assert(sizeof(Map) <= sizeof(TensorMap));
constexpr uint64_t kMapMagic = 0x70616d72736e6574;

TensorMapShape shape_of(const TensorMap* map) {
  Map content;
  std::memcpy(static_cast<void*>(&content), map, sizeof content);
  if (content.magic != kMapMagic) broken("a tensor map that make_tensor_map did not make");
  return content.shape;
}

uint32_t box_bytes(const TensorMapShape& s) {
  return static_cast<uint32_t>(s.box_columns * s.box_rows * size_of(s.element));
}

// Calls body(byte of the box in shared memory, element in global memory or null outside) for each element.
template <class Body>
void for_box(const TensorMapShape& s, uint32_t address, int column, int row, int depth, const Body& body) {
  const int64_t size = size_of(s.element);
  for (int64_t r = 0; r < s.box_rows; ++r)
    for (int64_t c = 0; c < s.box_columns; ++c) {
      uint32_t at = address + static_cast<uint32_t>((r * s.box_columns + c) * size);
      if (s.swizzle) at = swizzle_128(at);
      const int64_t x = column + c, y = row + r;
      const bool inside = x >= 0 && x < s.columns && y >= 0 && y < s.rows && depth >= 0 && depth < s.depth;
      const auto* data = static_cast<const std::byte*>(s.data);
      body(at, inside ? data + depth * s.matrix_bytes + y * s.row_bytes + x * size : nullptr);
    }
}

void check_shared(const TensorMapShape& s, uint32_t address) {
  if (address % (s.swizzle ? 1024 : 128) != 0)
    broken(fmt::format("the copy engine at shared memory {} of the block, not a multiple of {}", address - kSharedBase,
                       s.swizzle ? 1024 : 128));
}

void load_box(Block& block, const TensorMapShape& s, uint32_t address, uint32_t barrier, int column, int row, int depth) {
  const auto size = static_cast<size_t>(size_of(s.element));
  for_box(s, address, column, row, depth, [&](uint32_t at, const std::byte* global) {
    std::byte* to = shared_at(block, at, static_cast<uint32_t>(size));
    if (global != nullptr)
      std::memcpy(to, global, size);
    else
      std::memset(to, 0, size);
  });
  complete_bytes(barrier_in(block, barrier), box_bytes(s));
}

void store_box(const TensorMap* map, const void* shared, int column, int row, int depth, bool add) {
  const TensorMapShape s = shape_of(map);
  Block& block = *self().block;
  const uint32_t address = address_of(block, shared);
  check_shared(s, address);
  if (add && s.element != Element::kF32) broken("tma_add of elements that are not F32");
  self().stores.open.push_back(later([=, &block] {
    const auto size = static_cast<size_t>(size_of(s.element));
    for_box(s, address, column, row, depth, [&](uint32_t at, const std::byte* global) {
      if (global == nullptr) return;
      auto* to = const_cast<std::byte*>(global);
      const std::byte* from = shared_at(block, at, static_cast<uint32_t>(size));
      if (!add) {
        std::memcpy(to, from, size);
        return;
      }
      float sum, value;
      std::memcpy(&sum, to, size);
      std::memcpy(&value, from, size);
      sum += value;
      std::memcpy(to, &sum, size);
    });
  }));
}

uint64_t* rows_of_matrices(const void* shared) {
  static uint64_t rows[kWarp];
  const uint64_t* all = gather(reinterpret_cast<uint64_t>(shared));
  std::copy(all, all + kWarp, rows);
  for (const uint64_t row : rows)
    if (row % 16 != 0) broken("a row of a matrix that is not aligned to 16 bytes");
  return rows;
}

// The two elements of matrix j that this lane holds.
uint16_t* element(const uint64_t* rows, int j, int row, int column) {
  auto* p = reinterpret_cast<uint16_t*>(rows[j * 8 + row]) + column;
  address_of(*self().block, p);
  return p;
}

template <bool kTransposed>
void load_all(uint32_t (&r)[4], const void* shared) {
  const uint64_t* rows = rows_of_matrices(shared);
  const int l = lane_index();
  for (int j = 0; j < 4; ++j) {
    uint32_t packed = 0;
    for (int e = 0; e < 2; ++e) {
      const int a = l / 4, b = l % 4 * 2 + e;
      packed |= static_cast<uint32_t>(kTransposed ? *element(rows, j, b, a) : *element(rows, j, a, b)) << (16 * e);
    }
    r[j] = packed;
  }
  meet(warp().meeting, kWarp, "load_matrices");
}

template <bool kTransposed>
void store_all(const uint32_t (&r)[4], void* shared) {
  const uint64_t* rows = rows_of_matrices(shared);
  const int l = lane_index();
  for (int j = 0; j < 4; ++j)
    for (int e = 0; e < 2; ++e) {
      const int a = l / 4, b = l % 4 * 2 + e;
      (kTransposed ? *element(rows, j, b, a) : *element(rows, j, a, b)) = static_cast<uint16_t>(r[j] >> (16 * e));
    }
  meet(warp().meeting, kWarp, "store_matrices");
}

}  // namespace

void copy_commit(CopyGroups& groups) {
  groups.groups.push_back(std::move(groups.open));
  groups.open.clear();
}

void copy_wait(CopyGroups& groups, size_t pending) {
  while (groups.groups.size() > pending) {
    for (const auto& copy : groups.groups.front()) copy->run();
    groups.groups.pop_front();
  }
  progressed();
}

}  // namespace emulator

using namespace emulator;

void copy_16(void* shared, const void* global, bool valid) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0 || reinterpret_cast<uintptr_t>(global) % 16 != 0)
    broken("copy_16 of an address that is not aligned to 16 bytes");
  address_of(*self().block, shared);
  self().small_copies.open.push_back(later(
      [=] {
        if (valid)
          std::memcpy(shared, global, 16);
        else
          std::memset(shared, 0, 16);
      },
      "copy_16"));
}
void copy_commit() {
  emulator::copy_commit(self().small_copies);
}

void load_matrices(uint32_t (&r)[4], const void* shared) {
  load_all<false>(r, shared);
}
void load_matrices_transposed(uint32_t (&r)[4], const void* shared) {
  load_all<true>(r, shared);
}
void store_matrices(void* shared, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
  store_all<false>({r0, r1, r2, r3}, shared);
}
void store_matrices_transposed(void* shared, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
  store_all<true>({r0, r1, r2, r3}, shared);
}

void barrier_init(Barrier* barrier, int arrivals) {
  if (arrivals < 1 || arrivals > 1024) broken(fmt::format("a barrier of {} arrivals", arrivals));
  address_of(*self().block, barrier);
  BarrierState state{};
  state.magic = kMagic;
  state.expected = static_cast<uint64_t>(arrivals) & 0x7ffu;
  state.left = static_cast<uint64_t>(arrivals) & 0x7ffu;
  barrier->word = std::bit_cast<uint64_t>(state);
}
void barrier_arrive(Barrier* barrier) {
  arrive(barrier, 0);
}
void barrier_arrive_at(Barrier* barrier, int rank) {
  arrive(barrier_in(block_of_rank(rank), address_of(*self().block, barrier)), 0);
}
void barrier_arrive_expect(Barrier* barrier, uint32_t bytes) {
  arrive(barrier, bytes);
}
void barrier_wait(const Barrier* barrier, uint32_t parity) {
  if (parity > 1) broken("the parity of a phase is 0 or 1");
  wait_until("barrier_wait", [&] { return read(barrier).phase != parity; });
}

void named_sync(int id, int threads) {
  if (id < 0 || id > 15 || threads % kWarp != 0) broken(fmt::format("named barrier {} of {} threads", id, threads));
  NamedBarrier& barrier = self().block->named[id];
  const uint64_t round = barrier.rounds;
  named_arrive(id, threads);
  wait_until("a named barrier", [&] { return barrier.rounds != round; });
}
void named_arrive(int id, int threads) {
  if (id < 0 || id > 15 || threads % kWarp != 0) broken(fmt::format("named barrier {} of {} threads", id, threads));
  NamedBarrier& barrier = self().block->named[id];
  if (barrier.arrived > 0 && barrier.threads != threads)
    broken(fmt::format("named barrier {} of {} threads is used for {}", id, barrier.threads, threads));
  barrier.threads = threads;
  if (++barrier.arrived < threads) return;
  barrier.arrived = 0;
  ++barrier.rounds;
  progressed();
}

void tma_load(const TensorMap* map, void* shared, Barrier* barrier, int column, int row, int depth) {
  tma_load_multicast(map, shared, barrier, static_cast<uint16_t>(1u << cluster_rank()), column, row, depth);
}
void tma_load_multicast(const TensorMap* map, void* shared, Barrier* barrier, uint16_t blocks, int column, int row, int depth) {
  const TensorMapShape s = shape_of(map);
  const uint32_t address = address_of(*self().block, shared), where = address_of(*self().block, barrier);
  check_shared(s, address);
  for (int rank = 0; rank < 16; ++rank) {
    if ((blocks >> rank & 1) == 0) continue;
    Block& block = block_of_rank(rank);
    later([=, &block] { load_box(block, s, address, where, column, row, depth); }, "a box of the copy engine");
  }
}
void bulk_load(void* shared, const void* global, uint32_t bytes, Barrier* barrier) {
  if (bytes % 16 != 0 || reinterpret_cast<uintptr_t>(global) % 16 != 0) broken("bulk_load that is not aligned to 16 bytes");
  Block& block = *self().block;
  const uint32_t address = address_of(block, shared), where = address_of(block, barrier);
  if (address % 16 != 0) broken("bulk_load that is not aligned to 16 bytes");
  later(
      [=, &block] {
        std::memcpy(shared_at(block, address, bytes), global, bytes);
        complete_bytes(barrier_in(block, where), bytes);
      },
      "bulk_load");
}
void tma_store(const TensorMap* map, const void* shared, int column, int row, int depth) {
  store_box(map, shared, column, row, depth, false);
}
void tma_add(const TensorMap* map, const void* shared, int column, int row, int depth) {
  store_box(map, shared, column, row, depth, true);
}

TensorMap make_tensor_map(const TensorMapShape& shape) {
  check_tensor_map(shape);
  TensorMap map{};
  const Map content{kMapMagic, shape};
  std::memcpy(&map, &content, sizeof content);
  return map;
}

}  // namespace rorqual::hopper
