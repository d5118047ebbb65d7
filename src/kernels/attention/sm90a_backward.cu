// dk and dv of a tile of 128 keys of one head, and what the tile adds to dq. Two warpgroups of 64 keys each go through the
// tiles of 64 queries that see the keys, the last one first:
//   Sᵀ = K·Qᵀ, dPᵀ = V·dOᵀ                             [keys, queries], in registers
//   Pᵀ = exp2(Sᵀ·scale − lse), dSᵀ = Pᵀ∘(dPᵀ − delta)  rounded to BF16 as operands
//   dV += Pᵀ·dO, dK += dSᵀ·Q                           Pᵀ and dSᵀ from registers, the sums in registers to the end
//   dQ = dS·K                                          both warpgroups' dS through shared memory; the first one makes two of
//                                                      dQ's three panels, and so the other one runs ahead of it
// A third warpgroup loads (warp 0) and adds dQ to scratch (warp 1): tiles of keys take turns, ascending, so that dq's bits do
// not depend on timing. Blocks of a head start with its first keys, which most queries see, and meet their queries from the
// last one on: when a block comes to a tile, those before it, which began earlier, have left it.
#include "hopper/device.h"
#include "kernels/attention/sm90a_backward_job.h"

namespace rorqual::attention::backward_sm90a {
namespace {

using namespace hopper;

constexpr int kMathThreads = 2 * kWarpgroup, kThreads = kMathThreads + kWarpgroup;
constexpr int kMathRegisters = 240, kCopyRegisters = 24;
constexpr int kLaunchRegisters = 65536 / kThreads / 8 * 8;  // of a thread, and what warpgroups share out among them
static_assert(2 * kMathRegisters + kCopyRegisters <= 3 * kLaunchRegisters);
constexpr int kStages = 2;

// Shared memory. Matrices lie in panels of 64 columns: rows of 128 bytes, swizzled.
constexpr uint32_t kQueryPanel = kQueries * 128, kKeyPanel = kKeys * 128;
constexpr uint32_t kBytesK = 3 * kKeyPanel, kBytesV = 2 * kKeyPanel, kBytesQ = 3 * kQueryPanel, kBytesDo = 2 * kQueryPanel;
constexpr uint32_t kBytesRow = kQueries * 4;  // lse2, delta or start of a tile
constexpr uint32_t kAtV = kBytesK, kAtStages = kAtV + kBytesV, kStageBytes = kBytesQ + kBytesDo,
                   kAtDs = kAtStages + kStages * kStageBytes, kAtDq = kAtDs + kKeyPanel, kAtRows = kAtDq + kTileSums * 4,
                   kAtBarriers = kAtRows + kStages * 3 * kBytesRow, kSharedBytes = kAtBarriers + 8 * (1 + 2 * kStages);
static_assert(kSharedBytes <= kMostSharedBytes);

// Named barriers.
enum : int {
  kDsWritten = 1,  // both warpgroups have written dSᵀ
  kDsRead = 2,     // and 3: warpgroup 0 (1) may overwrite dSᵀ, which the other one has read
  kDqWritten = 4,  // dQ lies in shared memory
  kDqRead = 5,     // and may be overwritten
};
constexpr int kDqThreads = kMathThreads + kWarp;

struct Barriers {
  Barrier keys, full[kStages], empty[kStages];
};

HOPPER_DEVICE uint8_t* stage_q(int stage) {
  return shared_memory() + kAtStages + static_cast<uint32_t>(stage) * kStageBytes;
}
HOPPER_DEVICE uint8_t* stage_d_o(int stage) {
  return stage_q(stage) + kBytesQ;
}
// lse2, delta and start of the stage's queries.
HOPPER_DEVICE uint8_t* stage_rows(int stage) {
  return shared_memory() + kAtRows + static_cast<uint32_t>(stage) * 3 * kBytesRow;
}
HOPPER_DEVICE Barriers& barriers() {
  return *reinterpret_cast<Barriers*>(shared_memory() + kAtBarriers);
}

// What a block works on.
struct Work {
  Sequence sequence;
  int head, key;          // the first one, counted in the sequence
  int first_tile, tiles;  // of queries that the causal mask lets see a key: [first_tile, first_tile + tiles), last one first
  const Starts* starts;   // of the sequence's tiles of queries; null without segments

  HOPPER_DEVICE int tile(int i) const { return first_tile + tiles - 1 - i; }
  // Query q of tile(i) sees keys up to first_limit(i) + q.
  HOPPER_DEVICE int first_limit(int i) const { return sequence.keys - sequence.queries + tile(i) * kQueries; }
  // Whether no segment of tile(i) has one of the keys. The first tile of keys leaves nothing out: it gives dq its first value.
  HOPPER_DEVICE bool skips(int i) const { return starts != nullptr && key > 0 && load(&starts[tile(i)].lowest) >= key + kKeys; }
  // Whether a query of tile(i) may not see a key.
  HOPPER_DEVICE bool is_masked(int i) const {
    return key + kKeys - 1 > first_limit(i) || (starts != nullptr && load(&starts[tile(i)].highest) > key);
  }
};

HOPPER_DEVICE Work work_of_block(const Job& job) {
  int s = 0, first = 0, block = block_index();
  for (;;) {
    const int count = job.heads * tiles_of(job.sequence[s].keys, kKeys);
    if (block < first + count) break;
    first += count;
    ++s;
  }
  block -= first;
  Work work;
  work.sequence = job.sequence[s];
  const int key_tiles = tiles_of(work.sequence.keys, kKeys);
  work.head = block / key_tiles;
  work.key = block % key_tiles * kKeys;
  work.starts = job.segment_start != nullptr ? job.scratch.starts + work.sequence.q_tile : nullptr;
  const int first_query = work.key - (work.sequence.keys - work.sequence.queries);
  work.first_tile = first_query > 0 ? first_query / kQueries : 0;
  work.tiles = tiles_of(work.sequence.queries, kQueries) - work.first_tile;
  return work;
}

// ---- Loads, by one warp

// Rows of `columns` (a multiple of 64) from `data` on into panels of `rows` rows; zeros from row `valid` on, where another
// sequence or nothing is.
HOPPER_DEVICE void copy_rows(uint8_t* panels, const uint16_t* data, int64_t stride, int columns, int rows, int valid) {
  HOPPER_NO_UNROLL
  for (int i = lane_index(); i < rows * columns / 8; i += kWarp) {
    const int chunk = i % 8, row = i / 8 % rows, panel = i / 8 / rows;
    uint8_t* to = panels + panel * rows * 128 + swizzled_offset(static_cast<uint32_t>(row), static_cast<uint32_t>(chunk * 16));
    copy_16(to, row < valid ? data + row * stride + panel * 64 + chunk * 8 : data, row < valid);
  }
}
// Of this warp's copy_rows: seen by the tensor cores once a lane arrives.
HOPPER_DEVICE void finish_copies() {
  copy_commit();
  copy_wait<0>();
  fence_shared_for_async();
  sync_warp();
}

HOPPER_DEVICE void load_keys(const Job& job, const Work& w) {
  uint8_t *k = shared_memory(), *v = shared_memory() + kAtV;
  const int row = w.sequence.k_begin + w.key, valid = w.sequence.keys - w.key;
  Barrier* barrier = &barriers().keys;
  if (valid < kKeys) {
    copy_rows(k, job.k.data + row * job.k.stride + w.head * job.k.head_stride, job.k.stride, kNope, kKeys, valid);
    copy_rows(k + 2 * kKeyPanel, job.k_rope.data + row * job.k_rope.stride, job.k_rope.stride, kRope, kKeys, valid);
    copy_rows(v, job.v.data + row * job.v.stride + w.head * job.v.head_stride, job.v.stride, kValue, kKeys, valid);
    finish_copies();
    if (lane_index() == 0) barrier_arrive(barrier);
  } else if (lane_index() == 0) {
    barrier_arrive_expect(barrier, kBytesK + kBytesV);
    const int k_column = static_cast<int>(w.head * job.k.head_stride), v_column = static_cast<int>(w.head * job.v.head_stride);
    tma_load(&job.k_map, k, barrier, k_column, row);
    tma_load(&job.k_map, k + kKeyPanel, barrier, k_column + 64, row);
    tma_load(&job.k_rope_map, k + 2 * kKeyPanel, barrier, 0, row);
    tma_load(&job.v_map, v, barrier, v_column, row);
    tma_load(&job.v_map, v + kKeyPanel, barrier, v_column + 64, row);
  }
  sync_warp();
}

HOPPER_DEVICE void load_queries(const Job& job, const Work& w, int tile, int stage) {
  uint8_t *q = stage_q(stage), *d_o = stage_d_o(stage), *rows = stage_rows(stage);
  const int row = w.sequence.q_begin + tile * kQueries, valid = w.sequence.queries - tile * kQueries;
  Barrier* barrier = &barriers().full[stage];
  const bool whole = valid >= kQueries;
  if (!whole) {
    copy_rows(q, job.q.data + row * job.q.stride + w.head * kHead, job.q.stride, kHead, kQueries, valid);
    copy_rows(d_o, job.d_o.data + row * job.d_o.stride + w.head * kValue, job.d_o.stride, kValue, kQueries, valid);
    finish_copies();
  }
  if (lane_index() == 0) {
    barrier_arrive_expect(barrier, 3 * kBytesRow + (whole ? kStageBytes : 0));
    if (whole) {
      for (int i = 0; i < 3; ++i) tma_load(&job.q_map, q + i * kQueryPanel, barrier, w.head * kHead + i * 64, row);
      for (int i = 0; i < 2; ++i) tma_load(&job.d_o_map, d_o + i * kQueryPanel, barrier, w.head * kValue + i * 64, row);
    }
    const int64_t of_call = (w.sequence.q_tile + tile) * kQueries;
    const int64_t of_head = int64_t{w.head} * job.scratch.q_tiles * kQueries + of_call;
    bulk_load(rows, job.scratch.lse2 + of_head, kBytesRow, barrier);
    bulk_load(rows + kBytesRow, job.scratch.delta + of_head, kBytesRow, barrier);
    bulk_load(rows + 2 * kBytesRow, job.scratch.start + of_call, kBytesRow, barrier);
  }
  sync_warp();
}

HOPPER_DEVICE void load_all(const Job& job, const Work& w) {
  load_keys(job, w);
  HOPPER_NO_UNROLL
  for (int i = 0, n = 0; i < w.tiles; ++i) {
    if (w.skips(i)) continue;
    const int stage = n % kStages;
    barrier_wait(&barriers().empty[stage], static_cast<uint32_t>(n / kStages % 2 ^ 1));
    load_queries(job, w, w.tile(i), stage);
    ++n;
  }
}

// ---- dQ from shared memory to scratch, by one warp

// The first tile of keys stores, those after it add when their turn has come. Who adds nothing passes its turn on.
HOPPER_DEVICE void add_all(const Job& job, const Work& w) {
  const uint8_t* d_q = shared_memory() + kAtDq;
  const int turn = w.key / kKeys;
  HOPPER_NO_UNROLL
  for (int i = 0; i < w.tiles; ++i) {
    const int tile = w.head * job.scratch.q_tiles + w.sequence.q_tile + w.tile(i);
    int* count = job.scratch.turn + tile;
    const bool skips = w.skips(i);
    if (!skips) named_sync(kDqWritten, kDqThreads);
    if (lane_index() == 0 && turn > 0) wait_for_count(count, turn);
    if (!skips) {
      if (lane_index() == 0) {
        fence_global_for_async();
        if (turn == 0)
          tma_store(&job.d_q_map, d_q, 0, tile * kSumRows);
        else
          tma_add(&job.d_q_map, d_q, 0, tile * kSumRows);
        tma_commit();
        tma_wait_read<0>();
      }
      sync_warp();
      named_arrive(kDqRead, kDqThreads);
    }
    if (lane_index() == 0) {
      tma_wait<0>();
      fence_global_for_async();
      set_count(count, turn + 1);
    }
    sync_warp();
  }
}

// ---- Products, by a warpgroup of 64 keys

HOPPER_DEVICE int math_thread() {
  return thread_index() % kWarpgroup;
}

// d = A·Bᵀ of kPanels panels of 64 columns: 64 rows of keys from `a` on, kN rows of queries from `b` on.
template <int kPanels, int kN>
HOPPER_DEVICE void multiply_panels(float (&d)[kN / 2], const uint8_t* a, const uint8_t* b) {
  const MatrixDescriptor da = matrix_descriptor(shared_address(a), 1024), db = matrix_descriptor(shared_address(b), 1024);
  HOPPER_UNROLL
  for (uint32_t i = 0; i < 4 * kPanels; ++i)
    wgmma_bf16<kN>(d, advance(da, i / 4 * kKeyPanel + i % 4 * 32), advance(db, i / 4 * kQueryPanel + i % 4 * 32), i > 0);
}

// d += A·B: A [64 keys, 32 queries] in registers, rows of B are the queries from `b` on.
template <int kColumns>
HOPPER_DEVICE void add_product(float (&d)[kColumns / 2], const uint32_t (&a)[2][4], const uint8_t* b) {
  const MatrixDescriptor db = matrix_descriptor(shared_address(b), 1024, kQueryPanel);
  HOPPER_UNROLL
  for (uint32_t i = 0; i < 2; ++i) wgmma_bf16<kColumns, Major::kMN>(d, a[i], advance(db, i * 2048), true);
}

// Pᵀ in place of Sᵀ. `key`: this thread's first one, counted in the sequence. kMasked: some pairs do not see each other.
template <bool kMasked>
HOPPER_DEVICE void weights(float (&s)[32], const uint8_t* rows, float scale_log2e, int key, int first_limit) {
  const int column = math_thread() % 4 * 2;
  HOPPER_UNROLL
  for (int block = 0; block < 8; ++block) {
    const auto lse2 = *reinterpret_cast<const Float2*>(rows + (block * 8 + column) * 4);
    HOPPER_UNROLL
    for (int i = 0; i < 4; ++i) {
      float& x = s[block * 4 + i];
      x = exp2_fast(fma(x, scale_log2e, -lse2.v[i % 2]));
      if constexpr (kMasked) {
        const int query = block * 8 + column + i % 2, own = key + i / 2 * 8;
        const int start = *reinterpret_cast<const int*>(rows + 2 * kBytesRow + query * 4);
        if (own > first_limit + query || own < start) x = 0;
      }
    }
  }
}

// Pᵀ and dSᵀ = Pᵀ∘(dPᵀ − delta) of half of the queries, rounded, as operands of 64 keys by 16 queries each.
template <int kHalf>
HOPPER_DEVICE void round_operands(const float (&p)[32], const float (&dp)[16], const uint8_t* rows, uint32_t (&p_out)[2][4],
                                  uint32_t (&ds_out)[2][4]) {
  const int column = math_thread() % 4 * 2;
  HOPPER_UNROLL
  for (int block = 0; block < 4; ++block) {
    const auto delta = *reinterpret_cast<const Float2*>(rows + kBytesRow + ((kHalf * 4 + block) * 8 + column) * 4);
    HOPPER_UNROLL
    for (int pair = 0; pair < 2; ++pair) {
      const int i = block * 4 + pair * 2, r = block % 2 * 2 + pair;
      const float p0 = p[kHalf * 16 + i], p1 = p[kHalf * 16 + i + 1];
      p_out[block / 2][r] = to_bf16x2(p0, p1);
      ds_out[block / 2][r] = to_bf16x2(p0 * (dp[i] - delta.v[0]), p1 * (dp[i + 1] - delta.v[1]));
    }
  }
}

// This half of dSᵀ to shared memory: a row a key.
template <int kHalf>
HOPPER_DEVICE void store_ds(const uint32_t (&ds)[2][4], int warpgroup) {
  const int lane = lane_index();
  const int row = warpgroup * 64 + math_thread() / kWarp * 16 + lane % 16, column = kHalf * 32 + lane / 16 * 8;
  HOPPER_UNROLL
  for (int i = 0; i < 2; ++i)
    store_matrices(
        shared_memory() + kAtDs + swizzled_offset(static_cast<uint32_t>(row), static_cast<uint32_t>((i * 16 + column) * 2)),
        ds[i][0], ds[i][1], ds[i][2], ds[i][3]);
  fence_shared_for_async();
}

// Panel kPanel of dQ of this tile, under way.
template <int kPanel>
HOPPER_DEVICE void multiply_query_gradient(float (&d_q)[32]) {
  const MatrixDescriptor ds = matrix_descriptor(shared_address(shared_memory() + kAtDs), 1024);
  const MatrixDescriptor k = matrix_descriptor(shared_address(shared_memory() + kPanel * kKeyPanel), 1024);
  wgmma_fence();
  HOPPER_UNROLL
  for (uint32_t i = 0; i < kKeys / 16; ++i)
    wgmma_bf16<64, Major::kMN, Major::kMN>(d_q, advance(ds, i * 2048), advance(k, i * 2048), i > 0);
  wgmma_commit();
}
// The same to shared memory: four registers of a thread beside those of the next.
template <int kPanel>
HOPPER_DEVICE void store_query_gradient(const float (&d_q)[32]) {
  auto* to = reinterpret_cast<Float4*>(shared_memory() + kAtDq) + kPanel * 8 * kWarpgroup + math_thread();
  HOPPER_UNROLL
  for (int j = 0; j < 8; ++j) to[j * kWarpgroup] = {{d_q[4 * j], d_q[4 * j + 1], d_q[4 * j + 2], d_q[4 * j + 3]}};
}

// Sums of this thread's keys to dk, dv and scratch.
HOPPER_DEVICE void store_sums(const Job& job, const Work& w, int key, const float (&d_k)[96], const float (&d_v)[64]) {
  const int column = math_thread() % 4 * 2;
  HOPPER_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int own = key + half * 8;
    const int64_t row = w.sequence.k_begin + own;
    float* rope =
        job.scratch.d_k_rope + ((int64_t{w.head} * job.scratch.k_tiles + w.sequence.k_tile) * kKeys + own) * kRope + column;
    HOPPER_UNROLL
    for (int block = 0; block < kRope / 8; ++block) {
      const int i = (kNope / 8 + block) * 4 + half * 2;
      *reinterpret_cast<Float2*>(rope + block * 8) = {{d_k[i], d_k[i + 1]}};
    }
    if (own >= w.sequence.keys) continue;
    uint16_t* k = job.d_k.data + row * job.d_k.stride + w.head * job.d_k.head_stride + column;
    uint16_t* v = job.d_v.data + row * job.d_v.stride + w.head * job.d_v.head_stride + column;
    HOPPER_UNROLL
    for (int block = 0; block < kNope / 8; ++block) {
      const int i = block * 4 + half * 2;
      *reinterpret_cast<uint32_t*>(k + block * 8) = to_bf16x2(d_k[i] * job.scale, d_k[i + 1] * job.scale);
      *reinterpret_cast<uint32_t*>(v + block * 8) = to_bf16x2(d_v[i], d_v[i + 1]);
    }
  }
}

// Sᵀ to Pᵀ, dSᵀ and the sums of dk and dv of one tile of queries; dSᵀ lies in shared memory then. The second half of dPᵀ and
// the first half of the sums are under way together.
HOPPER_DEVICE void add_tile(const Job& job, const Work& w, int i, int n, int warpgroup, float (&d_k)[kHead / 2],
                            float (&d_v)[kValue / 2]) {
  const uint8_t *k = shared_memory() + warpgroup * kQueryPanel, *v = k + kAtV;  // this warpgroup's 64 rows
  const uint8_t *q = stage_q(n % kStages), *d_o = stage_d_o(n % kStages), *rows = stage_rows(n % kStages);
  constexpr uint32_t kHalfRows = 32 * 128;
  float p[32], dp[16];
  uint32_t p_operand[2][2][4], ds_operand[2][2][4];
  wgmma_fence();
  multiply_panels<3, 64>(p, k, q);
  wgmma_commit();
  multiply_panels<2, 32>(dp, v, d_o);
  wgmma_commit();
  wgmma_wait<1>();
  keep(p);
  const int key = w.key + warpgroup * 64 + fragment_row(math_thread(), 0);
  if (w.is_masked(i))
    weights<true>(p, rows, job.scale_log2e, key, w.first_limit(i));
  else
    weights<false>(p, rows, job.scale_log2e, key, w.first_limit(i));
  wgmma_wait<0>();
  keep(dp);
  round_operands<0>(p, dp, rows, p_operand[0], ds_operand[0]);
  wgmma_fence();
  multiply_panels<2, 32>(dp, v, d_o + kHalfRows);
  wgmma_commit();
  add_product<kValue>(d_v, p_operand[0], d_o);
  add_product<kHead>(d_k, ds_operand[0], q);
  wgmma_commit();
  if (n > 0) named_sync(kDsRead + warpgroup, kMathThreads);
  store_ds<0>(ds_operand[0], warpgroup);
  wgmma_wait<1>();
  keep(dp);
  round_operands<1>(p, dp, rows, p_operand[1], ds_operand[1]);
  wgmma_fence();
  add_product<kValue>(d_v, p_operand[1], d_o + kHalfRows);
  add_product<kHead>(d_k, ds_operand[1], q + kHalfRows);
  wgmma_commit();
  store_ds<1>(ds_operand[1], warpgroup);
}

// The tile's dQ, while the products of add_tile still run: panels 0 and 1 by warpgroup 0, panel 2 by warpgroup 1.
HOPPER_DEVICE void query_gradient(int n, int warpgroup, float (&d_k)[kHead / 2], float (&d_v)[kValue / 2]) {
  float d_q[32];
  wgmma_wait<1>();  // operands of the first half are free: their registers hold dQ
  if (warpgroup == 0)
    multiply_query_gradient<0>(d_q);
  else
    multiply_query_gradient<2>(d_q);
  wgmma_wait<1>();
  keep(d_k);
  keep(d_v);
  if (lane_index() == 0) barrier_arrive(&barriers().empty[n % kStages]);
  wgmma_wait<0>();
  keep(d_q);
  if (n > 0) named_sync(kDqRead, kDqThreads);
  if (warpgroup == 0) {
    store_query_gradient<0>(d_q);
    multiply_query_gradient<1>(d_q);
    wgmma_wait<0>();
    keep(d_q);
    store_query_gradient<1>(d_q);
  } else {
    store_query_gradient<2>(d_q);
  }
  named_arrive(kDsRead + (1 - warpgroup), kMathThreads);
  fence_shared_for_async();
  named_arrive(kDqWritten, kDqThreads);
}

HOPPER_DEVICE void multiply_all(const Job& job, const Work& w, int warpgroup) {
  float d_k[kHead / 2], d_v[kValue / 2];
  HOPPER_UNROLL
  for (float& x : d_k) x = 0;
  HOPPER_UNROLL
  for (float& x : d_v) x = 0;
  barrier_wait(&barriers().keys, 0);
  int n = 0;
  HOPPER_NO_UNROLL
  for (int i = 0; i < w.tiles; ++i) {
    if (w.skips(i)) continue;
    barrier_wait(&barriers().full[n % kStages], static_cast<uint32_t>(n / kStages % 2));
    add_tile(job, w, i, n, warpgroup, d_k, d_v);
    named_sync(kDsWritten, kMathThreads);
    query_gradient(n, warpgroup, d_k, d_v);
    ++n;
  }
  if (n > 0) {  // what others still arrive at
    named_sync(kDsRead + warpgroup, kMathThreads);
    named_sync(kDqRead, kDqThreads);
  }
  store_sums(job, w, w.key + warpgroup * 64 + fragment_row(math_thread(), 0), d_k, d_v);
}

HOPPER_KERNEL(kThreads)
void attention_backward_kernel(HOPPER_PARAMETER Job job) {
  Barriers& b = barriers();
  if (thread_index() == 0) {
    barrier_init(&b.keys, 1);
    for (int i = 0; i < kStages; ++i) {
      barrier_init(&b.full[i], 1);
      barrier_init(&b.empty[i], kMathThreads / kWarp);
    }
    fence_barriers();
  }
  sync_threads();
  const Work work = work_of_block(job);
  const int warp = warp_index(), warpgroup = warp / 4;
  if (warpgroup == 2) {
    give_registers<kCopyRegisters>();
    if (warp % 4 == 0) load_all(job, work);
    if (warp % 4 == 1) add_all(job, work);
  } else {
    take_registers<kMathRegisters>();
    multiply_all(job, work, warpgroup);
  }
}

}  // namespace

void launch_main(const Job& job, DeviceStream stream) {
  int blocks = 0;
  for (int s = 0; s < job.sequences; ++s) blocks += job.heads * tiles_of(job.sequence[s].keys, kKeys);
  HOPPER_LAUNCH(attention_backward_kernel,
                (LaunchShape{.blocks = static_cast<uint32_t>(blocks), .threads = kThreads, .shared_bytes = kSharedBytes}),
                stream, job);
}

}  // namespace rorqual::attention::backward_sm90a
