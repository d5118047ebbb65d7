// Cuts paged attention on Hopper into pieces and launches.
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "hopper/runtime.h"
#include "kernels/attention/sm90a.h"
#include "kernels/attention/sm90a_paged_job.h"

namespace rorqual {
namespace {

using namespace attention::paged_sm90a;
static_assert(kPageKeys == kPageTokens);

constexpr double kLog2E = 1.4426950408889634;
constexpr int64_t kPartialFloats = kLatent + 2;  // of a row's part: its sums, the exponent and the sum of its weights
constexpr int64_t kMostScratchFloats = int64_t{64} << 20;
constexpr int64_t kMostPositions = int64_t{1} << 30;  // the kernels count in int

int64_t padded_heads(int64_t heads) {
  return (heads + 15) / 16 * 16;
}

// Partial rows of `queries` queries from `position` on.
int64_t partial_rows(int64_t position, int64_t queries, int64_t heads) {
  const int parts = parts_of(static_cast<int>(position + queries));
  return parts > 1 ? parts * queries * padded_heads(heads) : 0;
}

// Empty, or why the copy engine and 16-byte accesses cannot take the tensor.
std::string misaligned(const Tensor& t, const char* name) {
  const bool aligned = reinterpret_cast<uintptr_t>(t.data) % 16 == 0;
  if (aligned && (t.rows <= 1 || bytes_of(t.dtype, t.stride) % 16 == 0)) return "";
  return fmt::format("rows of {} are not 16-byte aligned", name);
}

// Queries [begin, end) of a sequence that are given to one launch.
struct Cut {
  const PagedSequence* sequence = nullptr;
  int64_t begin = 0, end = 0;
  int64_t position() const { return sequence->position + begin; }
  int64_t queries() const { return end - begin; }
  int last_keys() const {  // of its last part
    const auto keys = static_cast<int>(position() + queries());
    return keys - (parts_of(keys) - 1) * kPartKeys;
  }
};

// Launches of pieces whose partial rows fit into `capacity`.
std::vector<std::vector<Cut>> cut_launches(const PagedAttentionArgs& a, int64_t capacity) {
  std::vector<std::vector<Cut>> launches(1);
  int64_t used = 0;
  for (const PagedSequence& s : a.sequences)
    for (int64_t begin = s.q_begin; begin < s.q_end;) {
      const int64_t done = begin - s.q_begin, left = s.q_end - begin, heads = a.shape.heads;
      int64_t queries = left;
      if (const int64_t all = partial_rows(s.position + done, left, heads); used + all > capacity)
        queries = std::min(left, (capacity - used) / (all / left));  // fewer may have fewer parts: never too many
      if (queries == 0 || launches.back().size() == kMostPieces) {
        if (launches.back().empty())
          fail("scratch of {} elements is too small for a query at position {}", a.scratch.count(), s.position + done);
        launches.emplace_back();
        used = 0;
        continue;
      }
      launches.back().push_back({&s, done, done + queries});
      used += partial_rows(s.position + done, queries, heads);
      begin += queries;
    }
  return launches;
}

void check_args(const PagedAttentionArgs& a) {
  const std::string reason = refuse_paged_attention_sm90a(a);
  CHECK(reason.empty(), "paged attention on Hopper: {}", reason);
  for (const PagedSequence& s : a.sequences) {
    CHECK(s.q_begin >= 0 && s.q_end >= s.q_begin && s.q_end <= a.q.rows && s.q_end <= a.o.rows && s.position >= 0,
          "queries [{}, {}) of {} from position {}", s.q_begin, s.q_end, a.q.rows, s.position);
    CHECK(s.position + s.q_end - s.q_begin <= kMostPositions, "position {}", s.position);
  }
  CHECK(a.scratch.dtype == DType::kF32 && a.scratch.contiguous() && reinterpret_cast<uintptr_t>(a.scratch.data) % 16 == 0,
        "scratch of {} is not 16-byte aligned F32 without gaps", dtype_name(a.scratch.dtype));
}

int64_t tiles_of_rows(int64_t rows, int64_t tile_rows) {
  return (rows + tile_rows - 1) / tile_rows;
}

// Two blocks that read each page once for both, unless too many would have no rows.
int cluster_of(const PagedAttentionArgs& a) {
  int64_t groups = 0, pairs = 0;
  for (const PagedSequence& s : a.sequences) {
    const int64_t rows = (s.q_end - s.q_begin) * padded_heads(a.shape.heads);
    groups += tiles_of_rows(rows, kGroupRows);
    pairs += tiles_of_rows(rows, 2 * kGroupRows);
  }
  return 2 * pairs <= groups + groups / 8 ? 2 : 1;
}

hopper::TensorMap map_of_queries(const PagedAttentionArgs& a, int box_rows) {
  return hopper::make_tensor_map({.data = a.q.data,
                                  .element = hopper::Element::kBF16,
                                  .columns = kQkDim,
                                  .rows = a.shape.heads,
                                  .depth = a.q.rows,
                                  .row_bytes = 2 * kQkDim,
                                  .matrix_bytes = 2 * a.q.stride,
                                  .box_columns = 64,
                                  .box_rows = box_rows,
                                  .swizzle = true});
}
hopper::TensorMap map_of_cache(const Tensor& cache, int box_rows) {
  return hopper::make_tensor_map({.data = cache.data,
                                  .element = hopper::Element::kBF16,
                                  .columns = kQkDim,
                                  .rows = cache.rows,
                                  .row_bytes = 2 * cache.stride,
                                  .box_columns = 64,
                                  .box_rows = box_rows,
                                  .swizzle = true});
}

// All but the pieces.
void describe(const PagedAttentionArgs& a, int64_t capacity, int cluster, PagedJob& job) {
  const auto padded = static_cast<int>(padded_heads(a.shape.heads));
  job.q_box_rows = padded % 64 == 0 ? 64 : padded % 32 == 0 ? 32 : 16;
  job.q = map_of_queries(a, job.q_box_rows);
  job.cluster = cluster;
  job.cache = map_of_cache(a.cache, kPageKeys / cluster);
  job.o = static_cast<uint16_t*>(a.o.data);
  job.o_stride = a.o.stride;
  job.partial_o = static_cast<float*>(a.scratch.data);
  job.partial_weight = reinterpret_cast<hopper::Float2*>(job.partial_o + capacity * kLatent);
  job.scale_log2e = static_cast<float>(a.shape.scale * kLog2E);
  job.q_rows = static_cast<int>(a.q.rows);
  job.heads = static_cast<int>(a.shape.heads);
  job.padded_heads = padded;
}

// Longest last parts first, so that blocks end at about the same time. True if any piece has several parts.
bool fill_pieces(std::vector<Cut>& cuts, PagedJob& job) {
  std::stable_sort(cuts.begin(), cuts.end(), [](const Cut& a, const Cut& b) { return a.last_keys() > b.last_keys(); });
  const int64_t tile_rows = job.cluster * kGroupRows;
  int64_t whole = 0, tiles = 0, partial = 0;
  job.count = 0;
  for (const Cut& cut : cuts) {
    PagedPiece& piece = job.pieces[job.count++];
    const int parts = parts_of(static_cast<int>(cut.position() + cut.queries()));
    const int64_t piece_tiles = tiles_of_rows(cut.queries() * job.padded_heads, tile_rows);
    whole += (parts - 1) * piece_tiles;
    tiles += piece_tiles;
    piece.pages = cut.sequence->pages;
    piece.q_begin = static_cast<int>(cut.sequence->q_begin + cut.begin);
    piece.queries = static_cast<int>(cut.queries());
    piece.position = static_cast<int>(cut.position());
    piece.whole_end = static_cast<int>(whole);
    piece.tile_end = static_cast<int>(tiles);
    piece.partial_begin = static_cast<int>(partial);
    partial += partial_rows(cut.position(), cut.queries(), job.heads);
  }
  CHECK(whole + tiles <= kMostPositions, "{} items in a launch", whole + tiles);
  job.whole_items = static_cast<int>(whole);
  job.tiles = static_cast<int>(tiles);
  job.items = static_cast<int>(whole + tiles);
  return partial > 0;
}

}  // namespace

std::string refuse_paged_attention_sm90a(const PagedAttentionArgs& a) {
  const PagedAttentionShape& s = a.shape;
  for (const auto& [t, name] : {std::pair{&a.q, "q"}, {&a.cache, "the cache"}, {&a.o, "o"}})
    if (t->dtype != DType::kBF16) return fmt::format("{} holds {}, not BF16", name, dtype_name(t->dtype));
  if (s.kv_heads != 1) return fmt::format("{} key heads, not 1", s.kv_heads);
  if (s.heads < 1 || s.heads > kMostHeads) return fmt::format("{} heads, not 1 to 128", s.heads);
  if (s.qk_dim != kQkDim || s.v_dim != kLatent || s.v_column != 0)
    return fmt::format("keys of {} columns and values of {} from column {}, not 576 and 512 from 0", s.qk_dim, s.v_dim,
                       s.v_column);
  if (!(s.scale > 0)) return fmt::format("scale {}, not positive", s.scale);
  if (a.q.cols < s.heads * kQkDim || a.o.cols < s.heads * kLatent || a.cache.cols < kQkDim)
    return fmt::format("q, the cache and o have {}, {} and {} columns", a.q.cols, a.cache.cols, a.o.cols);
  if (a.cache.rows % kPageKeys != 0) return fmt::format("a cache of {} rows, not whole pages", a.cache.rows);
  for (const auto& [t, name] : {std::pair{&a.q, "q"}, {&a.cache, "the cache"}, {&a.o, "o"}})
    if (std::string reason = misaligned(*t, name); !reason.empty()) return reason;
  return "";
}

int64_t paged_attention_scratch_sm90a(const PagedAttentionArgs& a) {
  int64_t all = 0, most_of_query = 0;
  for (const PagedSequence& s : a.sequences) {
    all += partial_rows(s.position, s.q_end - s.q_begin, a.shape.heads);
    if (s.q_end > s.q_begin)
      most_of_query = std::max(most_of_query, partial_rows(s.position + s.q_end - s.q_begin - 1, 1, a.shape.heads));
  }
  return std::min(all, std::max(most_of_query, kMostScratchFloats / kPartialFloats)) * kPartialFloats;
}

void paged_attention_sm90a(const PagedAttentionArgs& a, const Stream& stream) {
  if (stream.is_dry()) return;
  check_args(a);
  const int64_t capacity = a.scratch.count() / kPartialFloats;
  const auto job = std::make_unique<PagedJob>();
  for (std::vector<Cut>& cuts : cut_launches(a, capacity)) {
    if (cuts.empty()) continue;
    if (job->count == 0) describe(a, capacity, cluster_of(a), *job);
    const bool several_parts = fill_pieces(cuts, *job);
    launch_paged_attention(*job, hopper::device_info().multiprocessors, stream.device_stream());
    if (several_parts) launch_combine_parts(*job, stream.device_stream());
  }
}

std::string refuse_write_pages_sm90a(const Tensor& rows, const Tensor& cache) {
  if (rows.dtype != cache.dtype || rows.cols != cache.cols)
    return fmt::format("{} columns of {} into {} of {}", rows.cols, dtype_name(rows.dtype), cache.cols,
                       dtype_name(cache.dtype));
  if (bytes_of(rows.dtype, rows.cols) % 16 != 0) return fmt::format("rows of {} bytes", bytes_of(rows.dtype, rows.cols));
  for (const auto& [t, name] : {std::pair{&rows, "the new rows"}, {&cache, "the cache"}})
    if (std::string reason = misaligned(*t, name); !reason.empty()) return reason;
  return "";
}

void write_pages_sm90a(const Tensor& rows, std::span<const PagedSequence> sequences, const Tensor& cache,
                       const Stream& stream) {
  if (stream.is_dry()) return;
  const std::string reason = refuse_write_pages_sm90a(rows, cache);
  CHECK(reason.empty(), "writing pages on Hopper: {}", reason);
  const auto words = [&](const Tensor& t, int64_t elements) { return bytes_of(t.dtype, elements) / 16; };
  const auto job = std::make_unique<WritePagesJob>();
  job->rows = static_cast<const hopper::Words4*>(rows.data);
  job->cache = static_cast<hopper::Words4*>(cache.data);
  job->row_stride = words(rows, rows.stride);
  job->cache_stride = words(cache, cache.stride);
  job->words = static_cast<int>(words(rows, rows.cols));
  int64_t count = 0;
  const auto launch = [&] {
    job->row_count = static_cast<int>(count);
    if (count > 0) launch_write_pages(*job, stream.device_stream());
    job->count = 0;
    count = 0;
  };
  for (const PagedSequence& s : sequences) {
    CHECK(s.q_begin >= 0 && s.q_end >= s.q_begin && s.q_end <= rows.rows && s.position >= 0,
          "rows [{}, {}) of {} to position {}", s.q_begin, s.q_end, rows.rows, s.position);
    CHECK(s.position + s.q_end - s.q_begin <= kMostPositions, "position {}", s.position);
    count += s.q_end - s.q_begin;
    job->pieces[job->count++] = {s.pages, static_cast<int>(s.q_begin), static_cast<int>(s.position), static_cast<int>(count)};
    if (job->count == kMostWritePieces) launch();
  }
  launch();
}

}  // namespace rorqual
