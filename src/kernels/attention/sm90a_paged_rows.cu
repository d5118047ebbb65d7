// The sums of parts to the result, and rows to their places in the cache.
#include "hopper/launch.h"
#include "kernels/attention/sm90a_paged_items.h"

namespace rorqual::attention::paged_sm90a {
namespace {

using namespace hopper;

// One row of a tile; the parts that its query sees, in ascending order. One part alone gives what write_output would.
HOPPER_KERNEL(128)
void combine_parts_kernel(HOPPER_PARAMETER PagedJob job) {
  const int tile_rows = job.cluster * kGroupRows, tile = block_index();
  const int at = find_piece(job.count, tile, [&](int i) { return job.pieces[i].tile_end; });
  const PagedPiece& piece = job.pieces[at];
  const int in_piece = (tile - (at == 0 ? 0 : job.pieces[at - 1].tile_end)) * tile_rows + block_index_y();
  const Row row = row_of(job, piece, in_piece);
  const int last_of_group = in_piece / kGroupRows * kGroupRows + kGroupRows - 1;
  if (!row.used || parts_of(keys_of_row(job, piece, last_of_group)) == 1) return;
  const int parts = parts_of(piece.position + row.query + 1);
  const int64_t begin = partial_row(job, piece, 0, in_piece), step = piece.queries * job.padded_heads;
  float top = kMinusInfinity;
  for (int i = 0; i < parts; ++i) top = maximum(top, load(job.partial_weight + begin + i * step).v[0]);
  Float4 o{};
  float sum = 0;
  for (int i = 0; i < parts; ++i) {
    const Float2 weight = load(job.partial_weight + begin + i * step);
    const Float4 part = load(reinterpret_cast<const Float4*>(job.partial_o + (begin + i * step) * kLatent) + thread_index());
    const float factor = exp2_fast(weight.v[0] - top);
    sum = fma(factor, weight.v[1], sum);
    HOPPER_UNROLL
    for (int c = 0; c < 4; ++c) o.v[c] = fma(factor, part.v[c], o.v[c]);
  }
  const float inverse = divide(1.0f, sum);
  uint16_t* to = job.o + (piece.q_begin + row.query) * job.o_stride + row.head * kLatent + thread_index() * 4;
  *reinterpret_cast<Words2*>(to) =
      Words2{{to_bf16x2(o.v[0] * inverse, o.v[1] * inverse), to_bf16x2(o.v[2] * inverse, o.v[3] * inverse)}};
}

// A warp a row.
HOPPER_KERNEL(256)
void write_pages_kernel(HOPPER_PARAMETER WritePagesJob job) {
  const int row = block_index() * (block_threads() / kWarp) + warp_index();
  if (row >= job.row_count) return;
  const int at = find_piece(job.count, row, [&](int i) { return job.pieces[i].row_end; });
  const WritePiece& piece = job.pieces[at];
  const int i = row - (at == 0 ? 0 : job.pieces[at - 1].row_end);
  const int position = piece.position + i;
  const Words4* from = job.rows + (piece.q_begin + i) * job.row_stride;
  Words4* to =
      job.cache + (int64_t{load(piece.pages + position / kPageKeys)} * kPageKeys + position % kPageKeys) * job.cache_stride;
  for (int w = lane_index(); w < job.words; w += kWarp) to[w] = load(from + w);
}

}  // namespace

void launch_combine_parts(const PagedJob& job, DeviceStream stream) {
  HOPPER_LAUNCH(
      combine_parts_kernel,
      LaunchShape{.blocks = static_cast<uint32_t>(job.tiles), .blocks_y = static_cast<uint32_t>(job.cluster * kGroupRows)},
      stream, job);
}

void launch_write_pages(const WritePagesJob& job, DeviceStream stream) {
  constexpr int kRows = 256 / kWarp;
  HOPPER_LAUNCH(write_pages_kernel,
                LaunchShape{.blocks = static_cast<uint32_t>((job.row_count + kRows - 1) / kRows), .threads = 256}, stream, job);
}

}  // namespace rorqual::attention::paged_sm90a
