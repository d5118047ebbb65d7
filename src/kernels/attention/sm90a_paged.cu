// Absorbed MLA over the paged latent cache. A block works through items of 64 (query, head) rows and up to 32 pages:
//
//   copy warp      page after page into two stages, each in three parts that are handed back as soon as they have been used
//   warpgroup 0    S = Q·Kᵀ of a page, its softmax into P; O[:, 0..255] += P·V with P from registers
//   warpgroup 1    O[:, 256..511] += P·V with P from shared memory
//
// V is the page's first 512 columns as they lie, the contiguous index being N. The tensor cores wait during the softmax alone.
// Where there are groups of rows enough, two blocks form a cluster: they work on neighbouring groups and the same pages, of
// which each copies half the rows to both. That halves what the second-level cache gives, which 128 heads would be limited by.
#include "hopper/device.h"
#include "hopper/launch.h"
#include "kernels/attention/sm90a_paged_items.h"

namespace rorqual::attention::paged_sm90a {
namespace {

using namespace hopper;

constexpr int kThreads = 3 * kWarpgroup;
constexpr int kHalf = kLatent / 2;         // columns of o of a warpgroup
constexpr uint32_t kTileBytes = 64 * 128;  // 64 rows of 64 columns
constexpr int kTiles = kQkDim / 64;        // of a page, and of the queries
constexpr uint32_t kPageBytes = kTiles * kTileBytes;

// A page's parts in the order in which scores use them; the rope part is free again after them, each half of the latent after
// its product with P.
enum Part { kRope = 0, kLeft = 1, kRight = 2, kParts = 3 };
HOPPER_DEVICE constexpr int first_tile(int part) {
  return part == kRope ? 8 : part == kLeft ? 0 : 4;
}
HOPPER_DEVICE constexpr int tiles_of(int part) {
  return part == kRope ? 1 : 4;
}

struct Barriers {
  Barrier q_full, q_empty;
  Barrier full[2][kParts], empty[2][kParts];
  Barrier p_full, p_empty;
};

constexpr uint32_t kStages = kPageBytes, kWeights = 3 * kPageBytes;
constexpr uint32_t kRowFactors = kWeights + kTileBytes, kBarriers = kRowFactors + 2 * kGroupRows * 4;
constexpr uint32_t kSharedBytes = kBarriers + sizeof(Barriers);
static_assert(kSharedBytes <= kMostSharedBytes);

HOPPER_DEVICE uint8_t* stage_of(int page) {
  return shared_memory() + kStages + static_cast<uint32_t>(page & 1) * kPageBytes;
}
// Of the first use of a stage 0, of the second 1, …
HOPPER_DEVICE uint32_t parity_of(int page) {
  return static_cast<uint32_t>(page >> 1) & 1u;
}
HOPPER_DEVICE float* row_rescale() {
  return reinterpret_cast<float*>(shared_memory() + kRowFactors);
}
HOPPER_DEVICE float* row_divisor() {
  return row_rescale() + kGroupRows;
}
HOPPER_DEVICE Barriers& barriers() {
  return *reinterpret_cast<Barriers*>(shared_memory() + kBarriers);
}

// ---- The copy warp

HOPPER_DEVICE void load_queries(const PagedJob& job, const Item& item) {
  Barrier* full = &barriers().q_full;
  const PagedPiece& piece = job.pieces[item.piece];
  barrier_arrive_expect(full, kPageBytes);
  for (int r = 0; r < kGroupRows; r += job.q_box_rows) {
    const Row row = row_of(job, piece, item.first_row + r);
    const int at = row.query < piece.queries ? piece.q_begin + row.query : job.q_rows;  // outside: zeros
    for (int t = 0; t < kTiles; ++t)
      tma_load(&job.q, shared_memory() + static_cast<uint32_t>(t) * kTileBytes + static_cast<uint32_t>(r) * 128, full, t * 64,
               row.head, at);
  }
}

// 64 columns of a page: the blocks of a cluster each copy their share of the rows to all.
template <int kBlocks>
HOPPER_DEVICE void load_page_tile(const PagedJob& job, uint8_t* tile, Barrier* full, int t, int row) {
  if constexpr (kBlocks == 1) {
    tma_load(&job.cache, tile, full, t * 64, row);
  } else {
    const int share = cluster_rank() * (kPageKeys / kBlocks);
    tma_load_multicast(&job.cache, tile + static_cast<uint32_t>(share) * 128, full, (1 << kBlocks) - 1, t * 64, row + share);
  }
}
template <int kBlocks>
HOPPER_DEVICE void copy_loop(const PagedJob& job) {
  Barriers& b = barriers();
  const int lane = lane_index();
  if (lane == 0) {
    tma_prefetch(&job.q);
    tma_prefetch(&job.cache);
  }
  int page = 0, items = 0;
  for_items<kBlocks>(job, [&](const Item& item) {
    const int32_t my_page = lane < item.page_count ? load(item.pages + lane) : 0;
    barrier_wait(&b.q_empty, static_cast<uint32_t>(items & 1) ^ 1);
    if (lane == 0) load_queries(job, item);
    for (int j = 0; j < item.page_count; ++j, ++page) {
      const int row = shuffle(my_page, j) * kPageKeys;
      for (int part = 0; part < kParts; ++part) {
        barrier_wait(&b.empty[page & 1][part], parity_of(page) ^ 1);
        if (lane != 0) continue;
        Barrier* full = &b.full[page & 1][part];
        barrier_arrive_expect(full, static_cast<uint32_t>(tiles_of(part)) * kTileBytes);
        for (int t = first_tile(part); t < first_tile(part) + tiles_of(part); ++t)
          load_page_tile<kBlocks>(job, stage_of(page) + static_cast<uint32_t>(t) * kTileBytes, full, t, row);
      }
    }
    ++items;
  });
}

// ---- What both warpgroups do

HOPPER_DEVICE int warpgroup_thread() {
  return thread_index() % kWarpgroup;
}
// One arrival of each warp: its reads are over.
HOPPER_DEVICE void release(Barrier* barrier) {
  sync_warp();
  if (lane_index() == 0) barrier_arrive(barrier);
}
// The same for what all blocks of the cluster copy to. The copy engine overwrites what the tensor cores have read: no thread's
// memory needs ordering between blocks, which would fence the GPU at every part.
template <int kBlocks>
HOPPER_DEVICE void release_part(Barrier* barrier) {
  if constexpr (kBlocks == 1) {
    release(barrier);
  } else {
    sync_warp();
    if (lane_index() < kBlocks) barrier_give_back_at(barrier, lane_index());
  }
}

// Weights of keys beyond the last query's own are zero, but 0·NaN is not: clears their values in this warpgroup's half.
HOPPER_DEVICE void clear_unused_values(const Item& item, int j, int page, int half) {
  const int used = item.keys - j * kPageKeys;
  if (used >= kPageKeys) return;
  uint8_t* tiles = stage_of(page) + static_cast<uint32_t>(half * 4) * kTileBytes;
  for (int i = warpgroup_thread(); i < (kPageKeys - used) * 32; i += kWarpgroup) {
    const int row = used + i / 32, tile = i % 32 / 8, chunk = i % 8;
    *reinterpret_cast<Words4*>(tiles + static_cast<uint32_t>(tile) * kTileBytes +
                               static_cast<uint32_t>(row * 128 + chunk * 16)) = Words4{};
  }
  fence_shared_for_async();
  named_sync(1 + half, kWarpgroup);
}

// Descriptors are made anew for each product from addresses that the compiler knows to be uniform: kept in registers from page
// to page, those of all steps would leave too few.
HOPPER_DEVICE MatrixDescriptor operand_at(const uint8_t* tiles) {
  return matrix_descriptor(uniform(shared_address(tiles)), 1024, kTileBytes);
}
HOPPER_DEVICE MatrixDescriptor values_of(int page, int half) {
  return operand_at(stage_of(page) + static_cast<uint32_t>(half * 4) * kTileBytes);
}

// Mostly no row of the warp has found a larger score.
HOPPER_DEVICE void rescale(float (&o)[kHalf / 2], const float (&factor)[2]) {
  if (ballot(factor[0] != 1.0f || factor[1] != 1.0f) == 0) return;
  HOPPER_UNROLL
  for (int i = 0; i < kHalf / 2; ++i) o[i] *= factor[i % 4 / 2];
}

// The finished o of queries with one part of keys, else the part's sums.
HOPPER_DEVICE void write_output(const PagedJob& job, const Item& item, int half, const float (&o)[kHalf / 2],
                                const float (&divisor)[2]) {
  if (!item.used) return;
  const PagedPiece& piece = job.pieces[item.piece];
  HOPPER_UNROLL
  for (int r = 0; r < 2; ++r) {
    const int in_piece = item.first_row + fragment_row(warpgroup_thread(), 2 * r);
    const Row row = row_of(job, piece, in_piece);
    if (!row.used) continue;
    const int column = half * kHalf + fragment_column(warpgroup_thread(), 0);
    if (item.parts > 1) {
      float* to = job.partial_o + partial_row(job, piece, item.part, in_piece) * kLatent + column;
      HOPPER_UNROLL
      for (int i = 2 * r; i < kHalf / 2; i += 4) *reinterpret_cast<Float2*>(to + i / 4 * 8) = Float2{{o[i], o[i + 1]}};
    } else {
      uint16_t* to = job.o + (piece.q_begin + row.query) * job.o_stride + row.head * kLatent + column;
      const float inverse = divide(1.0f, divisor[r]);
      HOPPER_UNROLL
      for (int i = 2 * r; i < kHalf / 2; i += 4)  // + 0: a sum of zeros has no sign, however many pages were added
        *reinterpret_cast<uint32_t*>(to + i / 4 * 8) = to_bf16x2((o[i] + 0.0f) * inverse, (o[i + 1] + 0.0f) * inverse);
    }
  }
}

// ---- Warpgroup 0: scores, softmax, the left half of o

// S = Q·Kᵀ, a group for each part as it arrives.
HOPPER_DEVICE void score(float (&s)[32], int page) {
  const MatrixDescriptor q = operand_at(shared_memory()), k = operand_at(stage_of(page));
  HOPPER_UNROLL
  for (int part = 0; part < kParts; ++part) {
    barrier_wait(&barriers().full[page & 1][part], parity_of(page));
    wgmma_fence();
    HOPPER_UNROLL
    for (int i = 0; i < 4 * tiles_of(part); ++i) {
      const uint32_t at = static_cast<uint32_t>(first_tile(part) + i / 4) * kTileBytes + static_cast<uint32_t>(i % 4) * 32;
      wgmma_bf16<64>(s, advance(q, at), advance(k, at), part > 0 || i > 0);
    }
    wgmma_commit();
  }
}

// Of the two rows that a thread shares with the other three of its quad.
struct Softmax {
  float top[2];       // the largest score
  float exponent[2];  // top in units of log2: taken out of all weights
  float sum[2];       // of the weights in this thread's columns
  float factor[2];    // what the last page changed the exponent by
};

// Scores of a page to weights in BF16, in the registers of wgmma's A. Keys from visible[row] on are not seen; a page of which a
// row sees nothing leaves its sums as they are, to the bit.
HOPPER_DEVICE void weigh(float (&s)[32], float scale_log2e, bool all_visible, const int (&visible)[2], Softmax& state,
                         uint32_t (&p)[4][4]) {
  if (!all_visible) {
    HOPPER_UNROLL
    for (int i = 0; i < 32; ++i)
      if (fragment_column(warpgroup_thread(), i) >= visible[i % 4 / 2]) s[i] = kMinusInfinity;
  }
  HOPPER_UNROLL
  for (int r = 0; r < 2; ++r) {
    float top = state.top[r];
    HOPPER_UNROLL
    for (int i = 2 * r; i < 32; i += 4) top = maximum(top, maximum(s[i], s[i + 1]));
    top = maximum(top, shuffle_xor(top, 1));
    top = maximum(top, shuffle_xor(top, 2));
    const float exponent = top == kMinusInfinity ? kMinusInfinity : top * scale_log2e;
    const float taken = top == kMinusInfinity ? 0.0f : exponent;
    state.factor[r] = exp2_fast(state.exponent[r] - taken);
    state.top[r] = top;
    state.exponent[r] = exponent;
    float sum = 0;
    HOPPER_UNROLL
    for (int i = 2 * r; i < 32; i += 4) {
      s[i] = exp2_fast(fma(s[i], scale_log2e, -taken));
      s[i + 1] = exp2_fast(fma(s[i + 1], scale_log2e, -taken));
      sum += s[i] + s[i + 1];
    }
    state.sum[r] = fma(state.sum[r], state.factor[r], sum);
  }
  HOPPER_UNROLL
  for (int i = 0; i < 16; ++i) p[i / 4][i % 4] = to_bf16x2(s[2 * i], s[2 * i + 1]);
}

// Gives the page's weights and factors to warpgroup 1, and with the last page the sums.
HOPPER_DEVICE void publish(const uint32_t (&p)[4][4], const Softmax& state, const float (&divisor)[2], int page) {
  const int thread = warpgroup_thread(), lane = lane_index();
  barrier_wait(&barriers().p_empty, static_cast<uint32_t>(page & 1) ^ 1);
  const auto row = static_cast<uint32_t>(thread / kWarp * 16 + lane % 16);
  HOPPER_UNROLL
  for (int step = 0; step < 4; ++step) {
    const auto byte = static_cast<uint32_t>(step * 32 + lane / 16 * 16);
    store_matrices(shared_memory() + kWeights + swizzled_offset(row, byte), p[step][0], p[step][1], p[step][2], p[step][3]);
  }
  if (lane % 4 == 0) {
    HOPPER_UNROLL
    for (int r = 0; r < 2; ++r) {
      row_rescale()[fragment_row(thread, 2 * r)] = state.factor[r];
      row_divisor()[fragment_row(thread, 2 * r)] = divisor[r];
    }
  }
  fence_shared_for_async();
  barrier_arrive(&barriers().p_full);
}

// O += P·V, issued as one group.
HOPPER_DEVICE void add_values(float (&o)[kHalf / 2], const uint32_t (&p)[4][4], int page, bool first) {
  const MatrixDescriptor v = values_of(page, 0);
  wgmma_fence();
  HOPPER_UNROLL
  for (int step = 0; step < 4; ++step)
    wgmma_bf16<kHalf, Major::kMN>(o, p[step], advance(v, static_cast<uint32_t>(step) * 2048), !first || step > 0);
  wgmma_commit();
}

HOPPER_DEVICE void sum_over_quad(const float (&part)[2], float (&sum)[2]) {
  HOPPER_UNROLL
  for (int r = 0; r < 2; ++r) {
    sum[r] = part[r] + shuffle_xor(part[r], 1);
    sum[r] += shuffle_xor(sum[r], 2);
  }
}

HOPPER_DEVICE void write_weights(const PagedJob& job, const Item& item, const Softmax& state, const float (&sum)[2]) {
  if (!item.used || item.parts == 1 || lane_index() % 4 != 0) return;
  const PagedPiece& piece = job.pieces[item.piece];
  HOPPER_UNROLL
  for (int r = 0; r < 2; ++r) {
    const int row = item.first_row + fragment_row(warpgroup_thread(), 2 * r);
    if (row_of(job, piece, row).used)
      job.partial_weight[partial_row(job, piece, item.part, row)] = Float2{{state.exponent[r], sum[r]}};
  }
}

template <int kBlocks>
HOPPER_DEVICE void left_loop(const PagedJob& job) {
  Barriers& b = barriers();
  float o[kHalf / 2], s[32];
  uint32_t p[4][4];
  int page = 0, items = 0;
  for_items<kBlocks>(job, [&](const Item& item) {
    const PagedPiece& piece = job.pieces[item.piece];
    int visible[2];  // keys from the page's first
    HOPPER_UNROLL
    for (int r = 0; r < 2; ++r) {
      const int query = row_of(job, piece, item.first_row + fragment_row(warpgroup_thread(), 2 * r)).query;
      visible[r] = piece.position + query + 1 - item.first_key;
    }
    // What the group's first query sees, all do.
    const int seen_by_all = piece.position + item.first_row / job.padded_heads + 1 - item.first_key;
    Softmax state{{kMinusInfinity, kMinusInfinity}, {kMinusInfinity, kMinusInfinity}, {0, 0}, {0, 0}};
    const auto weigh_page = [&](int j) {
      if (j + 1 == item.page_count) release(&b.q_empty);
      weigh(s, job.scale_log2e, seen_by_all >= (j + 1) * kPageKeys, visible, state, p);
      visible[0] -= kPageKeys;
      visible[1] -= kPageKeys;
    };

    barrier_wait(&b.q_full, static_cast<uint32_t>(items & 1));
    score(s, page);
    wgmma_wait<0>();
    keep(s);
    release_part<kBlocks>(&b.empty[page & 1][kRope]);
    weigh_page(0);
    float sum[2] = {0, 0};
    for (int j = 0; j + 1 < item.page_count; ++j, ++page) {
      publish(p, state, sum, page);
      if (j > 0) rescale(o, state.factor);
      add_values(o, p, page, j == 0);
      wgmma_wait<0>();  // the next page may still be on its way: the one after it must not wait for that
      keep(o);
      release_part<kBlocks>(&b.empty[page & 1][kLeft]);
      score(s, page + 1);
      wgmma_wait<0>();
      keep(s);
      release_part<kBlocks>(&b.empty[(page + 1) & 1][kRope]);
      weigh_page(j + 1);
    }
    sum_over_quad(state.sum, sum);
    publish(p, state, sum, page);
    if (item.page_count > 1) rescale(o, state.factor);
    clear_unused_values(item, item.page_count - 1, page, 0);
    add_values(o, p, page, item.page_count == 1);
    write_weights(job, item, state, sum);
    wgmma_wait<0>();
    keep(o);
    release_part<kBlocks>(&b.empty[page & 1][kLeft]);
    write_output(job, item, 0, o, sum);
    ++page;
    ++items;
  });
}

// ---- Warpgroup 1: the right half of o

template <int kBlocks>
HOPPER_DEVICE void right_loop(const PagedJob& job) {
  Barriers& b = barriers();
  float o[kHalf / 2];
  int page = 0;
  for_items<kBlocks>(job, [&](const Item& item) {
    float factor[2], divisor[2] = {1, 1};
    for (int j = 0; j < item.page_count; ++j, ++page) {
      barrier_wait(&b.p_full, static_cast<uint32_t>(page & 1));
      HOPPER_UNROLL
      for (int r = 0; r < 2; ++r) {
        factor[r] = row_rescale()[fragment_row(warpgroup_thread(), 2 * r)];
        divisor[r] = row_divisor()[fragment_row(warpgroup_thread(), 2 * r)];
      }
      if (j > 0) rescale(o, factor);
      barrier_wait(&b.full[page & 1][kRight], parity_of(page));
      clear_unused_values(item, j, page, 1);
      const MatrixDescriptor p = operand_at(shared_memory() + kWeights), v = values_of(page, 1);
      wgmma_fence();
      HOPPER_UNROLL
      for (uint32_t step = 0; step < 4; ++step)
        wgmma_bf16<kHalf, Major::kK, Major::kMN>(o, advance(p, step * 32), advance(v, step * 2048), j > 0 || step > 0);
      wgmma_commit();
      wgmma_wait<0>();
      keep(o);
      release_part<kBlocks>(&b.empty[page & 1][kRight]);
      release(&b.p_empty);
    }
    write_output(job, item, 1, o, divisor);
  });
}

// ---- Kernels

template <int kBlocks>
HOPPER_DEVICE void init_barriers() {
  if (thread_index() == 0) {
    constexpr int kWarps = kWarpgroup / kWarp;
    Barriers& b = barriers();
    barrier_init(&b.q_full, 1);
    barrier_init(&b.q_empty, kWarps);
    for (int stage = 0; stage < 2; ++stage)
      for (int part = 0; part < kParts; ++part) {
        barrier_init(&b.full[stage][part], 1);
        barrier_init(&b.empty[stage][part], kWarps * kBlocks);
      }
    barrier_init(&b.p_full, kWarpgroup);
    barrier_init(&b.p_empty, kWarps);
    fence_barriers();
  }
  if constexpr (kBlocks == 1)
    sync_threads();
  else
    sync_cluster();
}

template <int kBlocks>
HOPPER_KERNEL(kThreads)
void paged_attention_kernel(HOPPER_PARAMETER PagedJob job) {
  init_barriers<kBlocks>();
  const int warp = warp_index();
  if (warp < 4) {
    take_registers<240>();
    left_loop<kBlocks>(job);
  } else if (warp < 8) {
    take_registers<240>();
    right_loop<kBlocks>(job);
  } else {
    give_registers<24>();
    if (warp == 8) copy_loop<kBlocks>(job);
  }
  if constexpr (kBlocks > 1) {  // nobody leaves while another copies to it or arrives at its barriers
    sync_warp();
    sync_cluster();
  }
}

template <int kBlocks>
void launch(const PagedJob& job, int multiprocessors, DeviceStream stream) {
  const int most = multiprocessors / kBlocks, clusters = job.items < most ? job.items : most;
  HOPPER_LAUNCH((paged_attention_kernel<kBlocks>),
                LaunchShape{.blocks = static_cast<uint32_t>(clusters * kBlocks),
                            .threads = kThreads,
                            .shared_bytes = kSharedBytes,
                            .cluster = kBlocks},
                stream, job);
}

}  // namespace

void launch_paged_attention(const PagedJob& job, int multiprocessors, DeviceStream stream) {
  if (job.cluster == 1)
    launch<1>(job, multiprocessors, stream);
  else
    launch<2>(job, multiprocessors, stream);
}

}  // namespace rorqual::attention::paged_sm90a
