// Attention of tiles of 128 queries of one head. Two warpgroups have 64 queries each; a third one loads. With matrices' rows
// named first, for tile j of 128 keys:
//   S = Q·K_jᵀ          [64 queries, 128 keys]
//   P = exp2(S·scale·log2(e) − maximum so far), masked; O = O · 2^(old maximum − new one) + P·V_j
// P·V of tile j − 1 runs while the softmax of tile j is made. The warpgroups take turns at handing products to the tensor
// cores, so that these multiply for one while the other makes its softmax. P and O stay in registers: 64 of S, 64 of O and 32
// of P a thread. A block takes tiles in pairs, a heavy and a light one of a head, so that all blocks have the same to do
// without asking one another. Blocks that run together work on neighbouring pairs and ask for the same keys at about the same
// time: the second-level cache serves all but the first.
//
// A pair of tiles (128 queries, 128 keys) takes 2560 cycles of a multiprocessor's tensor cores and 1024 of its units for
// exponentials; 80 KiB come from the second-level cache meanwhile. Shared memory: Q 48 KiB, two stages of K of 48 and V of 32.
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
  uint8_t q[kBytesQ];
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

// All lanes of a warp. The keys that the queries of `w` see.
HOPPER_DEVICE void find_keys(const Job& job, Work& w) {
  const Sequence& s = *w.sequence;
  w.end_key = smaller(s.keys, w.offset() + w.query + kQueries);
  int lowest = s.keys, highest = 0;
  for (int q = w.query + lane_index(); q < smaller(s.queries, w.query + kQueries); q += kWarp) {
    const int start = start_of(job, s, q);
    lowest = smaller(lowest, start);
    highest = larger(highest, start);
  }
  HOPPER_UNROLL
  for (int mask = 1; mask < kWarp; mask *= 2) {
    lowest = smaller(lowest, shuffle_xor(lowest, mask));
    highest = larger(highest, shuffle_xor(highest, mask));
  }
  w.first_key = lowest / kKeys * kKeys;
  w.highest_start = highest;
}

// A block's work: every block_count()-th unit. A unit is one tile of queries of a head, or of a paired sequence the tile
// that is as far from its end as the other one is from its beginning.
class Walk {
 public:
  // All lanes of a warp. False: no more.
  HOPPER_DEVICE bool next(const Job& job, Work& w) {
    if (other_ >= 0) {
      w.query = other_;
      other_ = -1;
    } else if (!find_unit(job, w)) {
      return false;
    }
    find_keys(job, w);
    return true;
  }

 private:
  HOPPER_DEVICE bool find_unit(const Job& job, Work& w) {
    for (; sequence_ < job.sequences; ++sequence_) {
      const Sequence& s = job.sequence[sequence_];
      const int units = units_of(s), place = unit_ - first_;
      if (place < units * job.heads) {
        const int last = tiles_of(s.queries, kQueries) - 1, back = place % units;
        w.sequence = &s;
        w.head = place / units;
        w.query = (last - back) * kQueries;
        other_ = s.paired && back != last - back ? back * kQueries : -1;
        unit_ += block_count();
        return true;
      }
      first_ += units * job.heads;
    }
    return false;
  }

  int unit_ = block_index(), sequence_ = 0;
  int first_ = 0;   // the sequence's first unit
  int other_ = -1;  // the pair's second tile: its first query
};

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

// In the order in which the tiles are wanted. Keys come before Q, whose place is free later.
HOPPER_DEVICE void load_tiles(const Job& job, const Work& w, int turn, int& n) {
  load_k(job, w, w.first_key, n);
  barrier_wait(&shared().q_empty, static_cast<uint32_t>(turn & 1) ^ 1);
  barrier_arrive_expect(&shared().q_full, kBytesQ);
  HOPPER_UNROLL
  for (int i = 0; i < 3; ++i)
    tma_load(&w.sequence->q, shared().q + i * kQueryPanel, &shared().q_full, w.head * kHead + i * 64, w.query);
  for (int key = w.first_key + kKeys; key < w.end_key; key += kKeys, ++n) {
    load_k(job, w, key, n + 1);
    load_v(job, w, key - kKeys, n);
  }
  load_v(job, w, w.first_key + (w.key_tiles() - 1) * kKeys, n++);
}

HOPPER_DEVICE void load_all(const Job& job) {
  int n = 0;
  Walk walk;
  Work w;
  for (int turn = 0; walk.next(job, w); ++turn) {
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

// The groups' turns at the tensor cores: named barriers on which one waits and the other arrives.
HOPPER_DEVICE void wait_for_turn(int group) {
  named_sync(1 + group, kGroups * kWarpgroup);
}
HOPPER_DEVICE void give_turn(int group) {
  named_arrive(1 + group, kGroups * kWarpgroup);
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
    wait_for_turn(group);
    wgmma_fence();
    multiply_scores(s, group, stage_of(n + 1));
    barrier_wait(&shared().v_full[stage_of(n)], parity_of(n));
    wgmma_fence();  // again, or the compiler puts one in after the wait's loop and serialises all products
    add_values(o, p, stage_of(n));
    give_turn(1 - group);
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
  release(&shared().q_empty);
  barrier_wait(&shared().v_full[stage_of(n)], parity_of(n));
  wgmma_fence();
  add_values(o, p, stage_of(n));
  wgmma_wait<0>();
  keep(o);
  release(&shared().v_empty[stage_of(n)]);
  ++n;
}

// Word j of the quad's thread i becomes word i of its thread j.
HOPPER_DEVICE void transpose_quad(uint32_t (&words)[4]) {
  const bool odd = lane_index() % 2 != 0, high = lane_index() / 2 % 2 != 0;
  HOPPER_UNROLL
  for (int j = 0; j < 4; j += 2) {
    const uint32_t other = shuffle_xor(odd ? words[j] : words[j + 1], 1);
    words[j] = odd ? other : words[j];
    words[j + 1] = odd ? words[j + 1] : other;
  }
  HOPPER_UNROLL
  for (int j = 0; j < 2; ++j) {
    const uint32_t other = shuffle_xor(high ? words[j] : words[j + 2], 2);
    words[j] = high ? other : words[j];
    words[j + 2] = high ? words[j + 2] : other;
  }
}

// O divided by the sums, and lse. Straight to global memory, the four threads of a row 64 bytes at a time: the next tile's Q
// and keys are already under way.
HOPPER_DEVICE void finish(const Job& job, const Work& w, int group, const float (&o)[64], const Softmax& softmax) {
  const int in_quad = lane_index() % 4;
  HOPPER_UNROLL
  for (int r = 0; r < 2; ++r) {
    const int query = w.query + group * 64 + fragment_row(math_thread(), 2 * r);
    const bool exists = query < w.sequence->queries;
    const int64_t row = w.sequence->q_begin + query;
    float sum = softmax.sum[r];
    sum += shuffle_xor(sum, 1);
    sum += shuffle_xor(sum, 2);
    const float inverse = divide(1.0f, sum);
    if (job.lse != nullptr && in_quad == 0 && exists)
      job.lse[w.head * job.lse_stride + row] = fma(softmax.maximum[r], job.scale, logarithm(sum));
    auto* out = reinterpret_cast<Words4*>(job.o + row * job.o_stride + w.head * kValue);
    HOPPER_UNROLL
    for (int i = 0; i < 64; i += 16) {  // 32 columns
      Words4 words;
      HOPPER_UNROLL
      for (int j = 0; j < 4; ++j) words.w[j] = to_bf16x2(o[i + 4 * j + 2 * r] * inverse, o[i + 4 * j + 2 * r + 1] * inverse);
      transpose_quad(words.w);
      if (exists) out[i / 4 + in_quad] = words;
    }
  }
}

HOPPER_DEVICE void attend_all(const Job& job, int group) {
  int n = 0;
  Walk walk;
  Work w;
  if (group == 1) give_turn(0);
  for (int turn = 0; walk.next(job, w); ++turn) {
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
  if (group == 0) wait_for_turn(0);  // takes the last one given
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
