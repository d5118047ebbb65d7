// Attention of tiles of 128 queries of one head. Two warpgroups have 64 queries each; a third one loads. With matrices' rows
// named first, for tile j of 128 keys:
//   S = Q·K_jᵀ          [64 queries, 128 keys]
//   P = exp2(S·scale·log2(e) − maximum so far), masked; O = O · 2^(old maximum − new one) + P·V_j
// P·V of tile j − 1 runs while the softmax of tile j is made, and the other warpgroup's products run beside both. P goes from
// registers. A block takes tile after tile: of a few heads together, whose keys and values stay in the second-level cache, the
// last queries first, which see most keys.
#include "hopper/device.h"
#include "kernels/attention/sm90a_forward_job.h"

namespace rorqual::attention::forward_sm90a {
namespace {

using namespace hopper;

constexpr int kGroups = 2, kThreads = (1 + kGroups) * kWarpgroup, kMathWarps = 4 * kGroups;
constexpr int kStages = 2;
constexpr float kNothing = -__builtin_huge_valf();  // the maximum of no keys

// Panels of 64 columns: rows of 128 bytes, swizzled.
constexpr uint32_t kQueryPanel = kQueries * 128, kKeyPanel = kKeys * 128, kHalfPanel = 64 * 128;
constexpr uint32_t kBytesQ = 3 * kQueryPanel, kBytesK = 3 * kKeyPanel, kBytesV = 2 * kKeyPanel;

struct alignas(1024) SharedMemory {
  uint8_t q[kBytesQ];  // and O on its way out, in panels 0 and 1
  uint8_t k[kStages][kBytesK];
  uint8_t v[kStages][kBytesV];
  Barrier q_full, q_empty;
  Barrier k_full[kStages], k_empty[kStages], v_full[kStages], v_empty[kStages];
};
static_assert(sizeof(SharedMemory) <= kMostSharedBytes);

HOPPER_DEVICE SharedMemory& shared() {
  return *reinterpret_cast<SharedMemory*>(shared_memory());
}

// Stage and parity of the n-th tile of keys that a block loads.
HOPPER_DEVICE int stage_of(int n) {
  return n % kStages;
}
HOPPER_DEVICE uint32_t parity_of(int n) {
  return static_cast<uint32_t>(n / kStages % 2);
}

// A tile of queries, and the tiles of keys that one of them sees.
struct Work {
  const Sequence* sequence;
  int head, query;         // the first one, counted in the sequence
  int first_key, end_key;  // counted in the sequence; first_key at a tile's beginning
  int highest_start;       // the highest first key of the queries
  HOPPER_DEVICE int offset() const { return sequence->keys - sequence->queries; }
  HOPPER_DEVICE int key_tiles() const { return tiles_of(end_key - first_key, kKeys); }
};

HOPPER_DEVICE int smaller(int a, int b) {
  return a < b ? a : b;
}
HOPPER_DEVICE int larger(int a, int b) {
  return a > b ? a : b;
}

// The first key that query `q` of the sequence sees.
HOPPER_DEVICE int start_of(const Job& job, const Sequence& s, int q) {
  if (job.segment_start == nullptr || q >= s.queries) return 0;
  return static_cast<int>(load(reinterpret_cast<const Words2*>(job.segment_start + s.q_begin + q)).w[0]) - s.k_begin;
}

// All lanes of a warp. False: there is no such work.
HOPPER_DEVICE bool work_of(const Job& job, int unit, Work& work) {
  for (int i = 0; i < job.sequences; ++i) {
    const Sequence& s = job.sequence[i];
    const int tiles = tiles_of(s.queries, kQueries);
    if (unit >= tiles * job.heads) {
      unit -= tiles * job.heads;
      continue;
    }
    const int band = unit / (tiles * job.heads_together), first = band * job.heads_together;
    const int heads = smaller(job.heads_together, job.heads - first), within = unit - first * tiles;
    work.sequence = &s;
    work.head = first + within % heads;
    work.query = (tiles - 1 - within / heads) * kQueries;
    work.end_key = smaller(s.keys, work.offset() + work.query + kQueries);
    int lowest = s.keys, highest = 0;
    for (int q = work.query + lane_index(); q < smaller(s.queries, work.query + kQueries); q += kWarp) {
      const int start = start_of(job, s, q);
      lowest = smaller(lowest, start);
      highest = larger(highest, start);
    }
    HOPPER_UNROLL
    for (int mask = 1; mask < kWarp; mask *= 2) {
      lowest = smaller(lowest, shuffle_xor(lowest, mask));
      highest = larger(highest, shuffle_xor(highest, mask));
    }
    work.first_key = lowest / kKeys * kKeys;
    work.highest_start = highest;
    return true;
  }
  return false;
}

// ---- Loads, by one warp

HOPPER_DEVICE void load_k(const Job& job, const Work& w, int key, int n) {
  barrier_wait(&shared().k_empty[stage_of(n)], parity_of(n) ^ 1);
  Barrier* full = &shared().k_full[stage_of(n)];
  uint8_t* to = shared().k[stage_of(n)];
  barrier_arrive_expect(full, kBytesK);
  tma_load(&w.sequence->k, to, full, w.head * job.k_head_stride, key);
  tma_load(&w.sequence->k, to + kKeyPanel, full, w.head * job.k_head_stride + 64, key);
  tma_load(&w.sequence->k_rope, to + 2 * kKeyPanel, full, 0, key);
}
HOPPER_DEVICE void load_v(const Job& job, const Work& w, int key, int n) {
  barrier_wait(&shared().v_empty[stage_of(n)], parity_of(n) ^ 1);
  Barrier* full = &shared().v_full[stage_of(n)];
  uint8_t* to = shared().v[stage_of(n)];
  barrier_arrive_expect(full, kBytesV);
  tma_load(&w.sequence->v, to, full, w.head * job.v_head_stride, key);
  tma_load(&w.sequence->v, to + kKeyPanel, full, w.head * job.v_head_stride + 64, key);
}

// In the order in which the tiles are wanted.
HOPPER_DEVICE void load_tiles(const Job& job, const Work& w, int turn, int& n) {
  barrier_wait(&shared().q_empty, static_cast<uint32_t>(turn & 1) ^ 1);
  barrier_arrive_expect(&shared().q_full, kBytesQ);
  HOPPER_UNROLL
  for (int i = 0; i < 3; ++i)
    tma_load(&w.sequence->q, shared().q + i * kQueryPanel, &shared().q_full, w.head * kHead + i * 64, w.query);
  load_k(job, w, w.first_key, n);
  for (int key = w.first_key + kKeys; key < w.end_key; key += kKeys, ++n) {
    load_k(job, w, key, n + 1);
    load_v(job, w, key - kKeys, n);
  }
  load_v(job, w, w.first_key + (w.key_tiles() - 1) * kKeys, n++);
}

HOPPER_DEVICE void load_all(const Job& job) {
  int n = 0, turn = 0;
  Work w;
  for (int unit = block_index(); work_of(job, unit, w); unit += block_count(), ++turn) {
    if (lane_index() == 0) load_tiles(job, w, turn, n);
    sync_warp();
  }
}

// ---- Products, by a warpgroup of 64 queries

// What a thread knows of its two rows: the largest score and the sum of weights so far (its own columns' part).
struct Softmax {
  float maximum[2], sum[2];
};

HOPPER_DEVICE int math_thread() {
  return thread_index() % kWarpgroup;
}

HOPPER_DEVICE void multiply_scores(float (&s)[64], int group, int stage) {
  const MatrixDescriptor q = matrix_descriptor(shared_address(shared().q + static_cast<uint32_t>(group) * kHalfPanel), 1024);
  const MatrixDescriptor k = matrix_descriptor(shared_address(shared().k[stage]), 1024);
  HOPPER_UNROLL
  for (uint32_t i = 0; i < kHead / 16; ++i)
    wgmma_bf16<kKeys>(s, advance(q, i / 4 * kQueryPanel + i % 4 * 32), advance(k, i / 4 * kKeyPanel + i % 4 * 32), i > 0);
  wgmma_commit();
}
HOPPER_DEVICE void add_values(float (&o)[64], const uint32_t (&p)[8][4], int stage) {
  const MatrixDescriptor v = matrix_descriptor(shared_address(shared().v[stage]), 1024, kKeyPanel);
  HOPPER_UNROLL
  for (uint32_t i = 0; i < kKeys / 16; ++i) wgmma_bf16<kValue, Major::kMN>(o, p[i], advance(v, i * 2048), true);
  wgmma_commit();
}

// Scores that a query does not see become −∞. `key`: the tile's first one.
HOPPER_DEVICE void mask(const Job& job, const Work& w, int group, int key, float (&s)[64]) {
  const int first = w.query + group * 64;
  if (key + kKeys - 1 <= w.offset() + first && w.highest_start <= key) return;
  HOPPER_UNROLL
  for (int r = 0; r < 2; ++r) {
    const int query = first + fragment_row(math_thread(), 2 * r);
    const int limit = w.offset() + query, start = start_of(job, *w.sequence, query);
    HOPPER_UNROLL
    for (int i = 0; i < 64; ++i) {
      if (i % 4 / 2 != r) continue;
      const int own = key + fragment_column(math_thread(), i);
      if (own > limit || own < start) s[i] = kNothing;
    }
  }
}

// P in place of S; what O and the sums so far must be multiplied by. A row that sees none of these keys keeps its bits: its
// maximum stays, its factor is 1 (or its sums are zero), its weights are zero.
HOPPER_DEVICE void make_weights(float (&s)[64], float scale_log2e, Softmax& softmax, float (&factor)[2]) {
  HOPPER_UNROLL
  for (int r = 0; r < 2; ++r) {
    float largest = softmax.maximum[r];
    HOPPER_UNROLL
    for (int i = 2 * r; i < 64; i += 4) largest = maximum(largest, maximum(s[i], s[i + 1]));
    largest = maximum(largest, shuffle_xor(largest, 1));
    largest = maximum(largest, shuffle_xor(largest, 2));
    const float base = largest == kNothing ? 0.0f : largest * scale_log2e;
    factor[r] = exp2_fast(softmax.maximum[r] * scale_log2e - base);  // both rounded: exactly 1 if the maximum stays
    softmax.maximum[r] = largest;
    float sum = 0;
    HOPPER_UNROLL
    for (int i = 2 * r; i < 64; i += 4) {
      s[i] = exp2_fast(fma(s[i], scale_log2e, -base));
      s[i + 1] = exp2_fast(fma(s[i + 1], scale_log2e, -base));
      sum += s[i] + s[i + 1];
    }
    softmax.sum[r] = fma(softmax.sum[r], factor[r], sum);
  }
}

HOPPER_DEVICE void scale_rows(float (&o)[64], const float (&factor)[2]) {
  HOPPER_UNROLL
  for (int i = 0; i < 64; ++i) o[i] *= factor[i % 4 / 2];
}
HOPPER_DEVICE void round_weights(const float (&s)[64], uint32_t (&p)[8][4]) {
  HOPPER_UNROLL
  for (int i = 0; i < 32; ++i) p[i / 4][i % 4] = to_bf16x2(s[2 * i], s[2 * i + 1]);
}

HOPPER_DEVICE void release(Barrier* empty) {
  sync_warp();
  if (lane_index() == 0) barrier_arrive(empty);
}

// O and the softmax of a tile of queries; P·V of a tile of keys is under way while the next one's softmax is made.
HOPPER_DEVICE void attend(const Job& job, const Work& w, int group, int& n, float (&o)[64], Softmax& softmax) {
  float s[64], factor[2];
  uint32_t p[8][4];
  const int tiles = w.key_tiles();
  barrier_wait(&shared().k_full[stage_of(n)], parity_of(n));
  wgmma_fence();
  multiply_scores(s, group, stage_of(n));
  wgmma_wait<0>();
  keep(s);
  release(&shared().k_empty[stage_of(n)]);
  mask(job, w, group, w.first_key, s);
  make_weights(s, job.scale_log2e, softmax, factor);
  round_weights(s, p);
  HOPPER_NO_UNROLL
  for (int j = 1; j < tiles; ++j, ++n) {
    barrier_wait(&shared().k_full[stage_of(n + 1)], parity_of(n + 1));
    wgmma_fence();
    multiply_scores(s, group, stage_of(n + 1));
    barrier_wait(&shared().v_full[stage_of(n)], parity_of(n));
    add_values(o, p, stage_of(n));
    wgmma_wait<1>();
    keep(s);
    release(&shared().k_empty[stage_of(n + 1)]);
    mask(job, w, group, w.first_key + j * kKeys, s);
    make_weights(s, job.scale_log2e, softmax, factor);
    wgmma_wait<0>();
    keep(o);
    release(&shared().v_empty[stage_of(n)]);
    scale_rows(o, factor);
    round_weights(s, p);
  }
  barrier_wait(&shared().v_full[stage_of(n)], parity_of(n));
  wgmma_fence();
  add_values(o, p, stage_of(n));
  wgmma_wait<0>();
  keep(o);
  release(&shared().v_empty[stage_of(n)]);
  ++n;
}

// O divided by the sums, through this warpgroup's rows of Q, and lse. Hands Q back.
HOPPER_DEVICE void finish(const Job& job, const Work& w, int group, float (&o)[64], const Softmax& softmax) {
  const int warp = math_thread() / kWarp, lane = lane_index(), first = w.query + group * 64;
  float inverse[2];
  HOPPER_UNROLL
  for (int r = 0; r < 2; ++r) {
    float sum = softmax.sum[r];
    sum += shuffle_xor(sum, 1);
    sum += shuffle_xor(sum, 2);
    const int query = first + fragment_row(math_thread(), 2 * r);
    inverse[r] = query < w.sequence->queries ? divide(1.0f, sum) : 0.0f;
    if (job.lse != nullptr && lane % 4 == 0 && query < w.sequence->queries)
      job.lse[w.head * job.lse_stride + w.sequence->q_begin + query] = fma(softmax.maximum[r], job.scale, logarithm(sum));
  }
  scale_rows(o, inverse);
  named_sync(1 + group, kWarpgroup);  // no warp's products read Q any more
  HOPPER_UNROLL
  for (int panel = 0; panel < 2; ++panel) {
    uint8_t* to =
        shared().q + static_cast<uint32_t>(panel) * kQueryPanel + static_cast<uint32_t>(group * 64 + warp * kOutRows) * 128;
    HOPPER_UNROLL
    for (int i = 0; i < 4; ++i) {
      const auto row = static_cast<uint32_t>(lane % 16), byte = static_cast<uint32_t>(i * 16 + lane / 16 * 8) * 2;
      const float* x = o + panel * 32 + i * 8;
      store_matrices(to + swizzled_offset(row, byte), to_bf16x2(x[0], x[1]), to_bf16x2(x[2], x[3]), to_bf16x2(x[4], x[5]),
                     to_bf16x2(x[6], x[7]));
    }
  }
  fence_shared_for_async();
  sync_warp();
  if (lane == 0) {
    HOPPER_UNROLL
    for (int panel = 0; panel < 2; ++panel)
      tma_store(
          &w.sequence->o,
          shared().q + static_cast<uint32_t>(panel) * kQueryPanel + static_cast<uint32_t>(group * 64 + warp * kOutRows) * 128,
          w.head * kValue + panel * 64, first + warp * kOutRows);
    tma_commit();
    tma_wait_read<0>();
    barrier_arrive(&shared().q_empty);
  }
  sync_warp();
}

HOPPER_DEVICE void attend_all(const Job& job, int group) {
  int n = 0, turn = 0;
  Work w;
  for (int unit = block_index(); work_of(job, unit, w); unit += block_count(), ++turn) {
    float o[64];
    Softmax softmax;
    HOPPER_UNROLL
    for (int i = 0; i < 64; ++i) o[i] = 0;
    HOPPER_UNROLL
    for (int r = 0; r < 2; ++r) {
      softmax.maximum[r] = kNothing;
      softmax.sum[r] = 0;
    }
    barrier_wait(&shared().q_full, static_cast<uint32_t>(turn & 1));
    attend(job, w, group, n, o, softmax);
    finish(job, w, group, o, softmax);
  }
  if (lane_index() == 0) tma_wait<0>();
}

HOPPER_KERNEL(kThreads)
void forward_kernel(HOPPER_PARAMETER Job job) {
  if (thread_index() == 0) {
    barrier_init(&shared().q_full, 1);
    barrier_init(&shared().q_empty, kMathWarps);
    for (int i = 0; i < kStages; ++i) {
      barrier_init(&shared().k_full[i], 1);
      barrier_init(&shared().k_empty[i], kMathWarps);
      barrier_init(&shared().v_full[i], 1);
      barrier_init(&shared().v_empty[i], kMathWarps);
    }
    fence_barriers();
  }
  sync_threads();
  const int warp = warp_index();
  if (warp < 4) {
    give_registers<40>();
    if (warp == 0) load_all(job);
  } else {
    take_registers<232>();
    attend_all(job, warp / 4 - 1);
  }
}

}  // namespace

void launch(const Job& job, int blocks, hopper::DeviceStream stream) {
  HOPPER_LAUNCH(
      forward_kernel,
      (LaunchShape{.blocks = static_cast<uint32_t>(blocks), .threads = kThreads, .shared_bytes = sizeof(SharedMemory)}), stream,
      job);
}

}  // namespace rorqual::attention::forward_sm90a
