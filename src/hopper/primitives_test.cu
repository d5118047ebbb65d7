#include "hopper/device.h"
#include "hopper/launch.h"
#include "hopper/primitives_test.h"

namespace rorqual::hopper::primitives {
namespace {

constexpr int kBarriers = 128;  // bytes at the end of shared memory

// Initialises `count` barriers of one arrival behind `bytes` of tiles.
HOPPER_DEVICE Barrier* barriers_behind(uint32_t bytes, int count) {
  auto* barriers = reinterpret_cast<Barrier*>(shared_memory() + bytes);
  if (thread_index() == 0) {
    for (int i = 0; i < count; ++i) barrier_init(&barriers[i], 1);
    fence_barriers();
  }
  sync_threads();
  return barriers;
}

HOPPER_KERNEL(128)
void box_kernel(HOPPER_PARAMETER TensorMap from, HOPPER_PARAMETER TensorMap to, int column, int row, int depth, int bytes,
                uint8_t* raw) {
  uint8_t* tile = shared_memory();
  Barrier* barrier = barriers_behind(static_cast<uint32_t>(bytes), 1);
  if (thread_index() == 0) {
    barrier_arrive_expect(barrier, static_cast<uint32_t>(bytes));
    tma_load(&from, tile, barrier, column, row, depth);
  }
  barrier_wait(barrier, 0);
  for (int i = thread_index(); i < bytes; i += block_threads()) raw[i] = tile[i];
  sync_threads();
  if (thread_index() == 0) {
    tma_store(&to, tile, column, row, depth);
    tma_commit();
    tma_wait<0>();
  }
}

HOPPER_KERNEL(32)
void add_kernel(HOPPER_PARAMETER TensorMap to, const float* values, int count, int column, int row) {
  auto* tile = reinterpret_cast<float*>(shared_memory());
  for (int i = thread_index(); i < count; i += block_threads()) tile[i] = values[i];
  fence_shared_for_async();
  sync_warp();
  if (thread_index() == 0) {
    tma_add(&to, tile, column, row);
    tma_commit();
    tma_wait<0>();
  }
}

template <int kN>
HOPPER_DEVICE void write_fragment(const float (&d)[kN / 2], float* out) {
  HOPPER_UNROLL
  for (int i = 0; i < kN / 2; ++i) out[fragment_row(thread_index(), i) * kN + fragment_column(thread_index(), i)] = d[i];
}

template <int kN>
HOPPER_KERNEL(128)
void e4m3_kernel(HOPPER_PARAMETER TensorMap map_a, HOPPER_PARAMETER TensorMap map_b, int k, float* out) {
  constexpr uint32_t kBytesA = 64 * 128, kBytesB = kN * 128;
  uint8_t* a = shared_memory();
  uint8_t* b = a + kBytesA;
  Barrier* barrier = barriers_behind(kBytesA + kBytesB, 1);
  float d[kN / 2];
  for (int step = 0; step < k / 128; ++step) {
    if (thread_index() == 0) {
      barrier_arrive_expect(barrier, kBytesA + kBytesB);
      tma_load(&map_a, a, barrier, step * 128, 0);
      tma_load(&map_b, b, barrier, step * 128, 0);
    }
    barrier_wait(barrier, static_cast<uint32_t>(step & 1));
    const MatrixDescriptor da = matrix_descriptor(shared_address(a), 1024), db = matrix_descriptor(shared_address(b), 1024);
    wgmma_fence();
    HOPPER_UNROLL
    for (uint32_t i = 0; i < 4; ++i) wgmma_e4m3<kN>(d, advance(da, 32 * i), advance(db, 32 * i), step > 0 || i > 0);
    wgmma_commit();
    wgmma_wait<0>();
    keep(d);
    sync_threads();
  }
  write_fragment<kN>(d, out);
}

// Steps of 64 of K. K-major tiles: [64 or n rows, 64] under one box; else boxes of [64 of K, 64 of M or N] side by side.
template <int kN, Major kA, Major kB, bool kRegisters>
HOPPER_KERNEL(128)
void bf16_kernel(HOPPER_PARAMETER TensorMap map_a, HOPPER_PARAMETER TensorMap map_b, int k, float* out) {
  constexpr uint32_t kBytesA = 64 * 128, kBytesB = kN * 128;
  uint8_t* a = shared_memory();
  uint8_t* b = a + kBytesA;
  Barrier* barrier = barriers_behind(kBytesA + kBytesB, 1);
  float d[kN / 2];
  for (int step = 0; step < k / 64; ++step) {
    if (thread_index() == 0) {
      barrier_arrive_expect(barrier, kBytesA + kBytesB);
      tma_load(&map_a, a, barrier, kA == Major::kK ? step * 64 : 0, kA == Major::kK ? 0 : step * 64);
      if (kB == Major::kK) {
        tma_load(&map_b, b, barrier, step * 64, 0);
      } else {
        for (int j = 0; j < kN / 64; ++j) tma_load(&map_b, b + j * 64 * 128, barrier, j * 64, step * 64);
      }
    }
    barrier_wait(barrier, static_cast<uint32_t>(step & 1));
    const MatrixDescriptor da = matrix_descriptor(shared_address(a), 1024, 64 * 128);
    const MatrixDescriptor db = matrix_descriptor(shared_address(b), 1024, 64 * 128);
    constexpr uint32_t kStepA = kA == Major::kK ? 32 : 2048, kStepB = kB == Major::kK ? 32 : 2048;
    uint32_t registers[4][4];
    if (kRegisters)
      for (uint32_t i = 0; i < 4; ++i)
        for (int r = 0; r < 4; ++r) {
          const auto row = static_cast<uint32_t>(fragment_row(thread_index(), 2 * r));
          const auto column = static_cast<uint32_t>(fragment_column(thread_index(), 2 * r)) + 16 * i;
          registers[i][r] = *reinterpret_cast<const uint32_t*>(a + swizzled_offset(row, 2 * column));
        }
    wgmma_fence();
    HOPPER_UNROLL
    for (uint32_t i = 0; i < 4; ++i) {
      if constexpr (kRegisters)
        wgmma_bf16<kN, kB>(d, registers[i], advance(db, kStepB * i), step > 0 || i > 0);
      else
        wgmma_bf16<kN, kA, kB>(d, advance(da, kStepA * i), advance(db, kStepB * i), step > 0 || i > 0);
    }
    wgmma_commit();
    wgmma_wait<0>();
    keep(d);
    sync_threads();
  }
  write_fragment<kN>(d, out);
}

HOPPER_KERNEL(32)
void matrices_kernel(const uint16_t* in, bool load_transposed, bool store_transposed, uint32_t* registers, uint16_t* out) {
  auto* tile = reinterpret_cast<uint16_t*>(shared_memory());
  uint16_t* other = tile + 256;
  for (int i = thread_index(); i < 256; i += kWarp) tile[i] = in[i];
  sync_warp();
  uint32_t r[4];
  if (load_transposed)
    load_matrices_transposed(r, tile + thread_index() * 8);
  else
    load_matrices(r, tile + thread_index() * 8);
  for (int j = 0; j < 4; ++j) registers[thread_index() * 4 + j] = r[j];
  if (store_transposed)
    store_matrices_transposed(other + thread_index() * 8, r[0], r[1], r[2], r[3]);
  else
    store_matrices(other + thread_index() * 8, r[0], r[1], r[2], r[3]);
  sync_warp();
  for (int i = thread_index(); i < 256; i += kWarp) out[i] = other[i];
}

HOPPER_KERNEL(128)
void convert_kernel(const float* in, int pairs, uint16_t* e4m3, uint16_t* e5m2, uint32_t* bf16, float* from_e4m3,
                    float* from_e5m2) {
  for (int i = block_index() * block_threads() + thread_index(); i < pairs; i += block_count() * block_threads()) {
    const float low = in[2 * i], high = in[2 * i + 1];
    e4m3[i] = to_e4m3x2(low, high);
    e5m2[i] = to_e5m2x2(low, high);
    bf16[i] = to_bf16x2(low, high);
    const Float2 a = from_e4m3x2(e4m3[i]), b = from_e5m2x2(e5m2[i]);
    for (int j = 0; j < 2; ++j) {
      from_e4m3[2 * i + j] = a.v[j];
      from_e5m2[2 * i + j] = b.v[j];
    }
  }
}

HOPPER_KERNEL(128)
void multicast_kernel(HOPPER_PARAMETER TensorMap from, uint8_t* out) {
  constexpr uint32_t kBytes = 1024;
  uint8_t* tile = shared_memory();
  auto* full = reinterpret_cast<Barrier*>(tile + kBytes);
  Barrier* empty = full + 1;
  if (thread_index() == 0) {
    barrier_init(full, 1);
    barrier_init(empty, 2);
    fence_barriers();
  }
  sync_cluster();
  for (uint32_t round = 0; round < 3; ++round) {
    if (thread_index() == 0) {
      barrier_arrive_expect(full, kBytes);
      if (cluster_rank() == 0) {
        barrier_wait_cluster(empty, (round & 1) ^ 1);
        tma_load_multicast(&from, tile, full, 3, 0, static_cast<int>(round) * 8);
      }
    }
    barrier_wait(full, round & 1);
    for (uint32_t i = static_cast<uint32_t>(thread_index()); i < kBytes; i += 128)
      out[(round * 2 + static_cast<uint32_t>(cluster_rank())) * kBytes + i] = tile[i];
    sync_threads();
    if (thread_index() == 0) {
      if (round % 2 == 0)
        barrier_arrive_at(empty, 0);
      else
        barrier_give_back_at(empty, 0);
    }
  }
  sync_cluster();  // nobody leaves while others still arrive at it
}

HOPPER_KERNEL(32)
void in_order_kernel(int* counter, int* out) {
  if (thread_index() == 0) {
    wait_for_count(counter, block_index());
    *out = *out * 2 + block_index();
    set_count(counter, block_index() + 1);
  }
}

HOPPER_KERNEL(32)
void small_copies_kernel(const uint32_t* in, int n, int valid, uint32_t* out) {
  auto* tile = reinterpret_cast<uint32_t*>(shared_memory());
  for (int i = thread_index() * 4; i < n; i += 128) {
    copy_16(tile + i, i < valid ? in + i : in, i < valid);
    copy_commit();
  }
  copy_wait<0>();
  sync_warp();
  for (int i = thread_index(); i < n; i += kWarp) out[i] = tile[i];
}

HOPPER_KERNEL(32)
void extremes_kernel(const uint32_t* in, int n, uint32_t* out) {
  for (int i = thread_index(); i < n; i += kWarp) {
    const uint32_t value = in[i];
    out[2 * i - lane_index()] = warp_maximum(value);
    out[2 * i - lane_index() + kWarp] = warp_minimum(value);
  }
}

template <int kN>
void run_bf16(const TensorMap& a, const TensorMap& b, int k, Major a_major, Major b_major, bool a_registers, float* d) {
  const LaunchShape shape{.shared_bytes = (64 + kN) * 128 + kBarriers};
  const bool an = a_major == Major::kMN, bn = b_major == Major::kMN;
  if (a_registers && !bn)
    HOPPER_LAUNCH((bf16_kernel<kN, Major::kK, Major::kK, true>), shape, nullptr, a, b, k, d);
  else if (a_registers)
    HOPPER_LAUNCH((bf16_kernel<kN, Major::kK, Major::kMN, true>), shape, nullptr, a, b, k, d);
  else if (!an && !bn)
    HOPPER_LAUNCH((bf16_kernel<kN, Major::kK, Major::kK, false>), shape, nullptr, a, b, k, d);
  else if (!an)
    HOPPER_LAUNCH((bf16_kernel<kN, Major::kK, Major::kMN, false>), shape, nullptr, a, b, k, d);
  else if (!bn)
    HOPPER_LAUNCH((bf16_kernel<kN, Major::kMN, Major::kK, false>), shape, nullptr, a, b, k, d);
  else
    HOPPER_LAUNCH((bf16_kernel<kN, Major::kMN, Major::kMN, false>), shape, nullptr, a, b, k, d);
}

template <int kN>
void run_e4m3(const TensorMap& a, const TensorMap& b, int k, float* d) {
  HOPPER_LAUNCH((e4m3_kernel<kN>), LaunchShape{.shared_bytes = (64 + kN) * 128 + kBarriers}, nullptr, a, b, k, d);
}

}  // namespace

void load_and_store_box(const TensorMap& from, const TensorMap& to, int column, int row, int depth, int box_bytes,
                        uint8_t* raw) {
  HOPPER_LAUNCH(box_kernel, LaunchShape{.shared_bytes = static_cast<uint32_t>(box_bytes + kBarriers)}, nullptr, from, to,
                column, row, depth, box_bytes, raw);
}
void add_box(const TensorMap& to, const float* values, int count, int column, int row) {
  HOPPER_LAUNCH(add_kernel, LaunchShape{.threads = 32, .shared_bytes = static_cast<uint32_t>(count * 4)}, nullptr, to, values,
                count, column, row);
}
void multiply_e4m3(const TensorMap& a, const TensorMap& b, int n, int k, float* d) {
  switch (n) {
    case 16:
      return run_e4m3<16>(a, b, k, d);
    case 64:
      return run_e4m3<64>(a, b, k, d);
    case 96:
      return run_e4m3<96>(a, b, k, d);
    case 128:
      return run_e4m3<128>(a, b, k, d);
    case 192:
      return run_e4m3<192>(a, b, k, d);
    case 256:
      return run_e4m3<256>(a, b, k, d);
    default:
      launch_failed("multiply_e4m3", "no kernel of this width");
  }
}
void multiply_bf16(const TensorMap& a, const TensorMap& b, int n, int k, Major a_major, Major b_major, bool a_registers,
                   float* d) {
  if (n == 64)
    run_bf16<64>(a, b, k, a_major, b_major, a_registers, d);
  else
    run_bf16<128>(a, b, k, a_major, b_major, a_registers, d);
}
void matrices(const uint16_t* in, bool load_transposed, bool store_transposed, uint32_t* registers, uint16_t* out) {
  HOPPER_LAUNCH(matrices_kernel, LaunchShape{.threads = 32, .shared_bytes = 1024}, nullptr, in, load_transposed,
                store_transposed, registers, out);
}
void convert(const float* in, int n, uint8_t* e4m3, uint8_t* e5m2, uint16_t* bf16, float* from_e4m3, float* from_e5m2) {
  HOPPER_LAUNCH(convert_kernel, LaunchShape{.blocks = 2}, nullptr, in, n / 2, reinterpret_cast<uint16_t*>(e4m3),
                reinterpret_cast<uint16_t*>(e5m2), reinterpret_cast<uint32_t*>(bf16), from_e4m3, from_e5m2);
}
void multicast(const TensorMap& from, uint8_t* out) {
  HOPPER_LAUNCH(multicast_kernel, LaunchShape{.blocks = 2, .shared_bytes = 1024 + kBarriers, .cluster = 2}, nullptr, from, out);
}
void in_order(int blocks, int* counter, int* out) {
  HOPPER_LAUNCH(in_order_kernel, LaunchShape{.blocks = static_cast<uint32_t>(blocks), .threads = 32}, nullptr, counter, out);
}
void small_copies(const uint32_t* in, int n, int valid, uint32_t* out) {
  HOPPER_LAUNCH(small_copies_kernel, LaunchShape{.threads = 32, .shared_bytes = static_cast<uint32_t>(n * 4)}, nullptr, in, n,
                valid, out);
}
void extremes(const uint32_t* in, int n, uint32_t* out) {
  HOPPER_LAUNCH(extremes_kernel, LaunchShape{.threads = 32}, nullptr, in, n, out);
}

}  // namespace rorqual::hopper::primitives
