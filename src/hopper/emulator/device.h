// The functions of hopper/ptx under the emulator; those headers describe them.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "hopper/emulator/engine.h"
#include "hopper/layout.h"
#include "hopper/tensor_map.h"
#include "numerics/bf16.h"
#include "numerics/fp8.h"

namespace rorqual::hopper {

// ---- ptx/thread.h

inline int thread_index() {
  return emulator::self().index;
}
inline int block_threads() {
  return static_cast<int>(emulator::shape().threads);
}
inline int block_index() {
  return emulator::self().block->index;
}
inline int block_index_y() {
  return emulator::self().block->index_y;
}
inline int block_count() {
  return static_cast<int>(emulator::shape().blocks);
}
inline int lane_index() {
  return thread_index() % kWarp;
}

namespace emulator {

inline Warp& warp() {
  Thread& thread = self();
  return thread.block->warps[static_cast<size_t>(thread.index / kWarp)];
}
inline size_t lane() {
  return static_cast<size_t>(self().index % kWarp);
}
// Gives `value` to the warp and returns what `lane` gave; all 32 lanes meet.
uint64_t exchange(uint64_t value, size_t from);
// The addresses that the lanes give, in out[] of the warp, as bits.
const uint64_t* gather(uint64_t value);

template <class T>
uint64_t to_word(T value) {
  static_assert(sizeof(T) <= 8);
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof value);
  return word;
}
template <class T>
T from_word(uint64_t word) {
  T value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

}  // namespace emulator

template <class T>
T shuffle(T value, int lane) {
  return emulator::from_word<T>(emulator::exchange(emulator::to_word(value), static_cast<size_t>(lane % kWarp)));
}
template <class T>
T shuffle_xor(T value, int mask) {
  return shuffle(value, lane_index() ^ mask);
}
template <class T>
T shuffle_up(T value, int delta) {
  return shuffle(value, lane_index() >= delta ? lane_index() - delta : lane_index());
}
template <class T>
T uniform(T value) {
  return shuffle(value, 0);
}
inline int warp_index() {
  return uniform(thread_index() / kWarp);
}
inline uint32_t ballot(bool predicate) {
  const uint64_t* all = emulator::gather(predicate ? 1 : 0);
  uint32_t bits = 0;
  for (int i = 0; i < kWarp; ++i) bits |= static_cast<uint32_t>(all[i]) << i;
  return bits;
}
inline uint32_t warp_maximum(uint32_t value) {
  const uint64_t* all = emulator::gather(value);
  return static_cast<uint32_t>(*std::max_element(all, all + kWarp));
}
inline uint32_t warp_minimum(uint32_t value) {
  const uint64_t* all = emulator::gather(value);
  return static_cast<uint32_t>(*std::min_element(all, all + kWarp));
}
inline int count_bits(uint32_t bits) {
  return std::popcount(bits);
}
inline void sync_warp() {
  emulator::meet(emulator::warp().meeting, kWarp, "sync_warp");
}
inline void sync_threads() {
  emulator::meet(emulator::self().block->all, block_threads(), "sync_threads");
}

inline uint8_t* shared_memory() {
  return reinterpret_cast<uint8_t*>(emulator::self().block->shared);
}
inline uint32_t shared_address(const void* p) {
  return emulator::address_of(*emulator::self().block, p);
}

template <class T>
T load(const T* p) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(T) != 0) emulator::broken("a load that is not aligned");
  emulator::note_load(p, sizeof(T));
  return *p;
}
template <class T>
T load_once(const T* p) {
  return load(p);
}
template <class T>
void store_once(T* p, const T& value) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(T) != 0) emulator::broken("a store that is not aligned");
  *p = value;
}

void copy_16(void* shared, const void* global, bool valid);
void copy_commit();
namespace emulator {
void copy_commit(CopyGroups& groups);
void copy_wait(CopyGroups& groups, size_t pending);
}  // namespace emulator
template <int kPending>
void copy_wait() {
  emulator::copy_wait(emulator::self().small_copies, kPending);
}

void load_matrices(uint32_t (&r)[4], const void* shared);
void load_matrices_transposed(uint32_t (&r)[4], const void* shared);
void store_matrices(void* shared, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3);
void store_matrices_transposed(void* shared, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3);

template <class T>
T atomic_add(T* p, T value) {
  const T old = *p;
  *p = static_cast<T>(old + value);
  return old;
}
inline uint32_t atomic_max(uint32_t* p, uint32_t value) {
  const uint32_t old = *p;
  *p = std::max(old, value);
  return old;
}
inline void wait_for_count(const int* counter, int value) {
  emulator::wait_until("wait_for_count", [&] { return *counter == value; });
}
inline void set_count(int* counter, int value) {
  *counter = value;
  emulator::progressed();
}

inline float bits_to_float(uint32_t bits) {
  return std::bit_cast<float>(bits);
}
inline uint32_t float_to_bits(float x) {
  return std::bit_cast<uint32_t>(x);
}
inline float fma(float a, float b, float c) {
  return std::fma(a, b, c);
}
inline float divide(float a, float b) {
  return a / b;
}
inline float square_root(float x) {
  return std::sqrt(x);
}
inline float maximum(float a, float b) {
  return std::fmax(a, b);
}
inline float exp2_fast(float x) {
  const float y = std::exp2(x);
  return y < 0x1p-126f ? 0.0f : y;
}
inline float reciprocal_fast(float x) {
  return 1.0f / x;
}
inline float exponential(float x) {
  return std::exp(x);
}
inline float logarithm(float x) {
  return std::log(x);
}
inline uint16_t to_bf16(float x) {
  return Bf16(x).bits;
}
inline uint32_t to_bf16x2(float low, float high) {
  return static_cast<uint32_t>(to_bf16(low)) | static_cast<uint32_t>(to_bf16(high)) << 16;
}
inline float bf16_low(uint32_t packed) {
  return bits_to_float(packed << 16);
}
inline float bf16_high(uint32_t packed) {
  return bits_to_float(packed & 0xffff0000u);
}
inline float from_bf16(uint16_t bits) {
  return bits_to_float(static_cast<uint32_t>(bits) << 16);
}
namespace emulator {
template <class Code>
uint16_t two_codes(float low, float high) {
  const auto code = [](float x) { return static_cast<uint32_t>(std::isnan(x) ? 0x7f : Code(x).bits); };
  return static_cast<uint16_t>(code(low) | code(high) << 8);
}
template <class Code>
Float2 two_values(uint16_t packed) {
  const auto value = [](int bits) { return static_cast<float>(Code::from_bits(static_cast<uint8_t>(bits))); };
  return {{value(packed & 0xff), value(packed >> 8)}};
}
}  // namespace emulator
inline uint16_t to_e4m3x2(float low, float high) {
  return emulator::two_codes<E4M3>(low, high);
}
inline uint16_t to_e5m2x2(float low, float high) {
  return emulator::two_codes<E5M2>(low, high);
}
inline Float2 from_e4m3x2(uint16_t packed) {
  return emulator::two_values<E4M3>(packed);
}
inline Float2 from_e5m2x2(uint16_t packed) {
  return emulator::two_values<E5M2>(packed);
}

// ---- ptx/barrier.h

void barrier_init(Barrier* barrier, int arrivals);
inline void fence_barriers() {}
void barrier_arrive(Barrier* barrier);
void barrier_arrive_at(Barrier* barrier, int rank);
inline void barrier_give_back_at(Barrier* barrier, int rank) {
  barrier_arrive_at(barrier, rank);
}
void barrier_arrive_expect(Barrier* barrier, uint32_t bytes);
void barrier_wait(const Barrier* barrier, uint32_t parity);
inline void barrier_wait_cluster(const Barrier* barrier, uint32_t parity) {
  barrier_wait(barrier, parity);
}
void named_sync(int id, int threads);
void named_arrive(int id, int threads);
inline int cluster_rank() {
  return emulator::self().block->rank;
}
inline void sync_cluster() {
  emulator::meet(emulator::cluster_meeting(), emulator::cluster_size() * block_threads(), "sync_cluster");
}
inline void fence_shared_for_async() {}
inline void fence_global_for_async() {}
inline void fence_device() {}
template <int kRegisters>
void take_registers() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 240);
  emulator::take_registers(kRegisters);
}
template <int kRegisters>
void give_registers() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 240);
  emulator::give_registers(kRegisters);
}

// ---- ptx/tma.h

inline void tma_prefetch(const TensorMap*) {}
void tma_load(const TensorMap* map, void* shared, Barrier* barrier, int column, int row, int depth = 0);
void tma_load_multicast(const TensorMap* map, void* shared, Barrier* barrier, uint16_t blocks, int column, int row,
                        int depth = 0);
void bulk_load(void* shared, const void* global, uint32_t bytes, Barrier* barrier);
void tma_store(const TensorMap* map, const void* shared, int column, int row, int depth = 0);
void tma_add(const TensorMap* map, const void* shared, int column, int row, int depth = 0);
inline void tma_commit() {
  emulator::copy_commit(emulator::self().stores);
}
template <int kPending>
void tma_wait_read() {
  emulator::copy_wait(emulator::self().stores, kPending);
}
template <int kPending>
void tma_wait() {
  emulator::copy_wait(emulator::self().stores, kPending);
}

// ---- ptx/wgmma.h

void wgmma_fence();
void wgmma_commit();
namespace emulator {
void wgmma_wait(size_t pending);
// `a`: two descriptors, or registers and a descriptor.
struct Operands {
  bool fp8, a_mn, b_mn, add;
  uint64_t a, b;
  const uint32_t* a_registers;
};
void wgmma(int n, float* d, const Operands& operands);
}  // namespace emulator
template <int kPending>
void wgmma_wait() {
  emulator::wgmma_wait(kPending);
}
template <class T, int kCount>
void keep(T (&)[kCount]) {}

template <int kN>
void wgmma_e4m3(float (&d)[kN / 2], MatrixDescriptor a, MatrixDescriptor b, bool add) {
  emulator::wgmma(kN, d, {true, false, false, add, a.bits, b.bits, nullptr});
}
template <int kN, Major kA = Major::kK, Major kB = Major::kK>
void wgmma_bf16(float (&d)[kN / 2], MatrixDescriptor a, MatrixDescriptor b, bool add) {
  emulator::wgmma(kN, d, {false, kA == Major::kMN, kB == Major::kMN, add, a.bits, b.bits, nullptr});
}
template <int kN, Major kB = Major::kK>
void wgmma_bf16(float (&d)[kN / 2], const uint32_t (&a)[4], MatrixDescriptor b, bool add) {
  emulator::wgmma(kN, d, {false, false, kB == Major::kMN, add, 0, b.bits, a});
}

}  // namespace rorqual::hopper
