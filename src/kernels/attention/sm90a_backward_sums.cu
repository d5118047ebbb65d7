// What stands around the main kernel of backward: delta and lse of the queries before it, dq and d_k_rope out of scratch after
// it. All are bound by memory.
#include "hopper/device.h"
#include "kernels/attention/sm90a_backward_job.h"

namespace rorqual::attention::backward_sm90a {
namespace {

using namespace hopper;

constexpr int kThreads = 256;
constexpr float kLog2e = 1.442695040888963f;

// The sequence of the launch that has this tile (of queries, of keys) of the call.
HOPPER_DEVICE int sequence_of_q_tile(const Job& job, int tile) {
  int s = 0;
  while (tile >= job.sequence[s].q_tile + tiles_of(job.sequence[s].queries, kQueries)) ++s;
  return s;
}
HOPPER_DEVICE int sequence_of_k_tile(const Job& job, int tile) {
  int s = 0;
  while (tile >= job.sequence[s].k_tile + tiles_of(job.sequence[s].keys, kKeys)) ++s;
  return s;
}

HOPPER_DEVICE float dot(const Words4& a, const Words4& b) {
  float sum = 0;
  HOPPER_UNROLL
  for (int i = 0; i < 4; ++i) {
    sum = fma(bf16_low(a.w[i]), bf16_low(b.w[i]), sum);
    sum = fma(bf16_high(a.w[i]), bf16_high(b.w[i]), sum);
  }
  return sum;
}

// That a query sees, counted in its sequence.
HOPPER_DEVICE int first_key(const Job& job, const Sequence& s, int query) {
  if (job.segment_start == nullptr) return 0;
  const int64_t start = job.segment_start[s.q_begin + query] - s.k_begin;
  return start > 0 ? static_cast<int>(start) : 0;
}

// By one warp.
HOPPER_DEVICE void write_starts(const Job& job, const Sequence& s, int tile) {
  const int query = (tile - s.q_tile) * kQueries + lane_index();
  Starts range{0x7fffffff, 0};
  HOPPER_UNROLL
  for (int i = 0; i < kQueries; i += kWarp) {
    if (query + i >= s.queries) continue;
    const int start = first_key(job, s, query + i);
    range.lowest = start < range.lowest ? start : range.lowest;
    range.highest = start > range.highest ? start : range.highest;
  }
  HOPPER_UNROLL
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const int lowest = shuffle_xor(range.lowest, distance), highest = shuffle_xor(range.highest, distance);
    range.lowest = lowest < range.lowest ? lowest : range.lowest;
    range.highest = highest > range.highest ? highest : range.highest;
  }
  if (lane_index() == 0) job.scratch.starts[tile] = range;
}

// A block: a tile of queries of one head (y). 16 lanes share a row.
HOPPER_KERNEL_BLOCKS(kThreads, 4)
void attention_backward_prepare_kernel(HOPPER_PARAMETER Job job) {
  constexpr int kLanes = kValue / 8, kRounds = kQueries * kLanes / kThreads;
  const int tile = job.sequence[0].q_tile + block_index(), head = block_index_y();
  const Sequence s = job.sequence[sequence_of_q_tile(job, tile)];
  const int first = (tile - s.q_tile) * kQueries, lane = thread_index() % kLanes, row = thread_index() / kLanes;
  const Scratch& out = job.scratch;
  Words4 o[kRounds], d_o[kRounds];
  HOPPER_UNROLL
  for (int i = 0; i < kRounds; ++i) {
    const int query = first + row + i * (kThreads / kLanes);
    o[i] = d_o[i] = {};
    if (query >= s.queries) continue;
    o[i] = load_once(reinterpret_cast<const Words4*>(job.o.data + (s.q_begin + query) * job.o.stride + head * kValue) + lane);
    d_o[i] =
        load_once(reinterpret_cast<const Words4*>(job.d_o.data + (s.q_begin + query) * job.d_o.stride + head * kValue) + lane);
  }
  HOPPER_UNROLL
  for (int i = 0; i < kRounds; ++i) {
    float delta = dot(o[i], d_o[i]);
    HOPPER_UNROLL
    for (int distance = 1; distance < kLanes; distance *= 2) delta = delta + shuffle_xor(delta, distance);
    const int in_tile = row + i * (kThreads / kLanes), query = first + in_tile;
    const bool valid = query < s.queries;
    if (lane != 0) continue;
    const int64_t of_call = int64_t{tile} * kQueries + in_tile;
    const int64_t of_head = int64_t{head} * out.q_tiles * kQueries + of_call;
    out.delta[of_head] = delta;
    out.lse2[of_head] = valid ? job.lse[head * job.lse_stride + s.q_begin + query] * kLog2e : bits_to_float(0x7f800000u);
    if (head == 0) out.start[of_call] = valid ? first_key(job, s, query) : 0;
  }
  if (thread_index() == 0) out.turn[head * out.q_tiles + tile] = 0;
  if (head == 0 && job.segment_start != nullptr && warp_index() == 0) write_starts(job, s, tile);
}

// Value i of lane j of a quad goes to lane i as its value j.
HOPPER_DEVICE void transpose_quad(uint32_t (&v)[4]) {
  HOPPER_UNROLL
  for (int distance = 1; distance < 4; distance *= 2) {
    const bool upper = (lane_index() & distance) != 0;
    HOPPER_UNROLL
    for (int i = 0; i < 4; ++i) {
      if ((i & distance) != 0) continue;
      const uint32_t got = shuffle_xor(upper ? v[i] : v[i + distance], distance);
      if (upper)
        v[i] = got;
      else
        v[i + distance] = got;
    }
  }
}

// dq of a tile of queries of one head (y). A thread reads what the thread of the same number of a warpgroup wrote: for a panel
// of 64 columns, eight times columns 8·j + {0, 1} of a quad's lane in two rows.
HOPPER_KERNEL_BLOCKS(kWarpgroup, 6)
void attention_backward_queries_kernel(HOPPER_PARAMETER Job job) {
  const int tile = job.sequence[0].q_tile + block_index(), head = block_index_y(), thread = thread_index();
  const Sequence s = job.sequence[sequence_of_q_tile(job, tile)];
  const int query = (tile - s.q_tile) * kQueries + fragment_row(thread, 0);
  const auto* sums =
      reinterpret_cast<const Float4*>(job.scratch.d_q + (int64_t{head} * job.scratch.q_tiles + tile) * kTileSums);
  uint16_t* out = job.d_q.data + (s.q_begin + query) * job.d_q.stride + head * kHead + thread % 4 * 8;
  HOPPER_UNROLL
  for (int panel = 0; panel < kHead / 64; ++panel) {
    Float4 v[8];
    HOPPER_UNROLL
    for (int j = 0; j < 8; ++j) v[j] = load_once(sums + (panel * 8 + j) * kWarpgroup + thread);
    HOPPER_UNROLL
    for (int quarter = 0; quarter < 4; ++quarter) {  // half of the columns, one of two rows
      const int half = quarter / 2, row = quarter % 2 * 8;
      Words4 packed;
      HOPPER_UNROLL
      for (int j = 0; j < 4; ++j) {
        const Float4& x = v[half * 4 + j];
        packed.w[j] = to_bf16x2(x.v[row / 4] * job.scale, x.v[row / 4 + 1] * job.scale);
      }
      transpose_quad(packed.w);
      if (query + row < s.queries)
        store_once(reinterpret_cast<Words4*>(out + row * job.d_q.stride + panel * 64 + half * 32), packed);
    }
  }
}

// d_k_rope of 16 keys: heads ascending.
HOPPER_KERNEL_BLOCKS(kThreads, 4)
void attention_backward_rope_kernel(HOPPER_PARAMETER Job job) {
  constexpr int kLanes = kRope / 4, kBlockKeys = kThreads / kLanes, kAhead = 8;
  const int tile = job.sequence[0].k_tile + block_index() / (kKeys / kBlockKeys);
  const Sequence s = job.sequence[sequence_of_k_tile(job, tile)];
  const int in_tile = block_index() % (kKeys / kBlockKeys) * kBlockKeys + thread_index() / kLanes;
  const int key = (tile - s.k_tile) * kKeys + in_tile, lane = thread_index() % kLanes;
  if (key >= s.keys) return;
  const auto* in = reinterpret_cast<const Float4*>(job.scratch.d_k_rope + (int64_t{tile} * kKeys + in_tile) * kRope) + lane;
  const int64_t head_stride = int64_t{job.scratch.k_tiles} * kKeys * kRope / 4;
  Float4 sum{};
  for (int head = 0; head < job.heads; head += kAhead) {
    Float4 v[kAhead];
    HOPPER_UNROLL
    for (int i = 0; i < kAhead; ++i)
      if (head + i < job.heads) v[i] = load_once(in + (head + i) * head_stride);
    HOPPER_UNROLL
    for (int i = 0; i < kAhead; ++i) {
      if (head + i >= job.heads) continue;
      HOPPER_UNROLL
      for (int j = 0; j < 4; ++j) sum.v[j] = sum.v[j] + v[i].v[j];
    }
  }
  Words2 words;
  HOPPER_UNROLL
  for (int i = 0; i < 2; ++i) words.w[i] = to_bf16x2(sum.v[2 * i] * job.scale, sum.v[2 * i + 1] * job.scale);
  store_once(reinterpret_cast<Words2*>(job.d_k_rope.data + (s.k_begin + key) * job.d_k_rope.stride) + lane, words);
}

// Tiles of the launch.
int q_tiles(const Job& job) {
  const Sequence& last = job.sequence[job.sequences - 1];
  return last.q_tile + tiles_of(last.queries, kQueries) - job.sequence[0].q_tile;
}
int k_tiles(const Job& job) {
  const Sequence& last = job.sequence[job.sequences - 1];
  return last.k_tile + tiles_of(last.keys, kKeys) - job.sequence[0].k_tile;
}
LaunchShape per_query_tile(const Job& job, int threads) {
  return {.blocks = static_cast<uint32_t>(q_tiles(job)),
          .blocks_y = static_cast<uint32_t>(job.heads),
          .threads = static_cast<uint32_t>(threads)};
}

}  // namespace

void launch_prepare(const Job& job, DeviceStream stream) {
  HOPPER_LAUNCH(attention_backward_prepare_kernel, per_query_tile(job, kThreads), stream, job);
}
void launch_finish_queries(const Job& job, DeviceStream stream) {
  HOPPER_LAUNCH(attention_backward_queries_kernel, per_query_tile(job, kWarpgroup), stream, job);
}
void launch_finish_rope(const Job& job, DeviceStream stream) {
  constexpr int kBlocksPerTile = kKeys * (kRope / 4) / kThreads;
  HOPPER_LAUNCH(attention_backward_rope_kernel,
                (LaunchShape{.blocks = static_cast<uint32_t>(k_tiles(job) * kBlocksPerTile), .threads = kThreads}), stream,
                job);
}

}  // namespace rorqual::attention::backward_sm90a
