// Absorbed MLA decoding over the paged latent cache: 128 sequences of 4096 or 8192 tokens, one new token each, 128 heads.
// Bytes: the cache's rows, queries and outputs once; it is held against the copy bandwidth (128 heads share a row of 1152
// bytes, 2176 FLOPs a head: about 240 FLOPs a byte, so tensor cores are nearly as short as memory).
#include <fmt/format.h>

#include "kernels/attention/sm90a.h"
#include "kernels/common/sm90a_figure.h"

namespace rorqual {
namespace {

using ::rorqual::testing::add_figure;
using ::rorqual::testing::DeviceMemory;
using ::rorqual::testing::Figure;
using ::rorqual::testing::sized;

constexpr int64_t kLatent = 512, kRope = 64, kRow = kLatent + kRope;

struct Case {
  int64_t sequences, length, heads;
};

struct Operands {
  std::vector<PagedSequence> sequences;
  Tensor q, cache, o;
  PagedAttentionArgs args;

  // Pages of all sequences interleaved, as a server's allocator leaves them.
  Operands(DeviceMemory& memory, const Case& c) {
    const int64_t pages = (c.length + kPageTokens - 1) / kPageTokens;
    std::vector<int32_t> table;
    for (int64_t s = 0; s < c.sequences; ++s)
      for (int64_t p = 0; p < pages; ++p) table.push_back(static_cast<int32_t>(p * c.sequences + s));
    const int32_t* device_table = memory.values(table);
    for (int64_t s = 0; s < c.sequences; ++s) sequences.push_back({s, s + 1, c.length - 1, device_table + s * pages});
    q = memory.random(DType::kBF16, c.sequences, c.heads * kRow);
    cache = memory.random(DType::kBF16, c.sequences * pages * kPageTokens, kRow);
    o = memory.blank(DType::kBF16, c.sequences, c.heads * kLatent);
    const PagedAttentionShape shape{
        .heads = c.heads, .kv_heads = 1, .qk_dim = kRow, .v_dim = kLatent, .v_column = 0, .scale = 0.1352337789};
    args = {.shape = shape, .sequences = {}, .q = q, .cache = cache, .o = o};
  }
};

void decode_figure(Figure& figure, const Case& c) {
  const int64_t bytes = 2 * (c.sequences * c.length * kRow + c.sequences * c.heads * (kRow + kLatent));
  const double flops = 2.0 * static_cast<double>(c.sequences * c.length * c.heads * (kRow + kLatent));
  figure.set_work({.flops = flops, .bytes = static_cast<double>(bytes)}, bytes);
  auto sets = std::make_shared<std::vector<Operands>>();
  for (int set = 0; set < figure.set_count(); ++set) sets->emplace_back(figure.memory, c);
  for (Operands& o : *sets) {
    o.args.sequences = o.sequences;
    o.args.scratch = figure.memory.blank(DType::kF32, 1, paged_attention_scratch_sm90a(o.args));
  }
  figure.add("ours", refuse_paged_attention_sm90a(sets->front().args),
             [=](int set, const Stream& stream) { paged_attention_sm90a((*sets)[static_cast<size_t>(set)].args, stream); });
}

const bool kRegistered = [] {
  for (const Case& c : {Case{128, 4096, 128}, Case{128, 4096, 16}, Case{32, 8192, 128}, Case{1, 32768, 128}})
    add_figure(fmt::format("attention_decode/{}x{}/{}_heads", c.sequences, c.length, c.heads),
               [small = Case{sized(c.sequences, 2), sized(c.length, 100), sized(c.heads, 16)}](Figure& figure) {
                 decode_figure(figure, small);
               });
  return true;
}();

}  // namespace
}  // namespace rorqual
