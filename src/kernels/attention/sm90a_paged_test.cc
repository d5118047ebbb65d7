// Paged attention on Hopper against plain formulas in double, and its bits against themselves.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/rng.h"
#include "hopper/test_support.h"
#include "kernels/attention/sm90a.h"
#include "numerics/bf16.h"

namespace rorqual {
namespace {

using PagedAttentionSm90a = hopper::HopperTest;
using WritePagesSm90a = hopper::HopperTest;

constexpr int64_t kQk = 576, kV = 512, kGap = 8;  // the gap between rows, in elements
constexpr uint16_t kPoison = 0xffff;              // a NaN

// A sequence: its first query's position and its queries. `key`: which numbers it holds; two chunks of one key are cut from the
// same sequence.
struct Chunk {
  int64_t position = 0, queries = 1;
  uint64_t key = 0;
};

float draw(uint64_t key, int64_t position, int64_t column) {
  return static_cast<float>(random_normal({.seed = key}, static_cast<uint64_t>(position * 131072 + column)));
}

struct Problem {
  // `placing` permutes the pages.
  Problem(int64_t heads_, std::vector<Chunk> chunks_, uint64_t placing = 1) : heads(heads_), chunks(std::move(chunks_)) {
    int64_t rows = 1, count = 2;  // a row and two pages that belong to nobody
    for (const Chunk& c : chunks) {
      rows += c.queries + 1;
      count += (c.position + c.queries + kPageTokens - 1) / kPageTokens;
    }
    q.assign(static_cast<size_t>(rows * q_stride()), kPoison);
    cache.assign(static_cast<size_t>(count * kPageTokens * cache_stride()), kPoison);
    q_rows = rows;
    cache_rows = count * kPageTokens;
    std::vector<int32_t> free(static_cast<size_t>(count));
    for (size_t i = 0; i < free.size(); ++i) free[i] = static_cast<int32_t>(i);
    for (size_t i = free.size(); i > 1; --i) std::swap(free[i - 1], free[random_below({.seed = placing}, i, i)]);
    int64_t row = 1;
    pages.resize(chunks.size());
    for (size_t n = 0; n < chunks.size(); ++n) {
      const Chunk& c = chunks[n];
      for (int64_t p = 0; p < c.position + c.queries; ++p) {
        if (p % kPageTokens == 0) {
          pages[n].push_back(free.back());
          free.pop_back();
        }
        for (int64_t d = 0; d < kQk; ++d) cache[cache_index(n, p, d)] = Bf16(draw(c.key, p, d)).bits;
      }
      for (int64_t i = 0; i < c.queries; ++i)
        for (int64_t d = 0; d < heads * kQk; ++d)
          q[static_cast<size_t>((row + i) * q_stride() + d)] = Bf16(draw(c.key + 1000, c.position + i, d)).bits;
      sequences.push_back({row, row + c.queries, c.position, nullptr});
      row += c.queries + 1;
    }
  }

  int64_t q_stride() const { return heads * kQk + kGap; }
  int64_t o_stride() const { return heads * kV + kGap; }
  static int64_t cache_stride() { return kQk + kGap; }
  size_t cache_index(size_t n, int64_t position, int64_t column) const {
    const int64_t row = pages[n][static_cast<size_t>(position / kPageTokens)] * kPageTokens + position % kPageTokens;
    return static_cast<size_t>(row * cache_stride() + column);
  }
  double key(size_t n, int64_t position, int64_t column) const {
    return static_cast<double>(static_cast<float>(Bf16::from_bits(cache[cache_index(n, position, column)])));
  }
  double query(int64_t row, int64_t column) const {
    return static_cast<double>(static_cast<float>(Bf16::from_bits(q[static_cast<size_t>(row * q_stride() + column)])));
  }

  // Bits of o, gaps included. `scratch`: elements, −1 for what is asked for.
  std::vector<uint16_t> run(int64_t scratch = -1) const {
    const hopper::DeviceBuffer dq = hopper::to_device(q), dcache = hopper::to_device(cache);
    const hopper::DeviceBuffer o(static_cast<size_t>(q_rows * o_stride()) * 2);
    std::vector<hopper::DeviceBuffer> dpages;
    std::vector<PagedSequence> placed = sequences;
    for (size_t n = 0; n < pages.size(); ++n) {
      dpages.push_back(hopper::to_device(pages[n]));
      placed[n].pages = dpages.back().as<int32_t>();
    }
    PagedAttentionArgs args{.shape = shape(),
                            .sequences = placed,
                            .q = Tensor(dq.data(), DType::kBF16, q_rows, heads * kQk, q_stride()),
                            .cache = Tensor(dcache.data(), DType::kBF16, cache_rows, kQk, cache_stride()),
                            .o = Tensor(o.data(), DType::kBF16, q_rows, heads * kV, o_stride())};
    const int64_t elements = scratch >= 0 ? scratch : paged_attention_scratch_sm90a(args);
    const hopper::DeviceBuffer room(static_cast<size_t>(elements) * 4);
    args.scratch = Tensor(room.data(), DType::kF32, 1, elements);
    paged_attention_sm90a(args, Stream::on_device());
    return hopper::to_host<uint16_t>(o);
  }
  PagedAttentionShape shape() const { return {heads, 1, kQk, kV, 0, 0, 0, scale}; }

  int64_t heads;
  std::vector<Chunk> chunks;
  double scale = 0.07;
  std::vector<PagedSequence> sequences;  // without pages
  std::vector<std::vector<int32_t>> pages;
  std::vector<uint16_t> q, cache;
  int64_t q_rows = 0, cache_rows = 0;
};

// By definition, a (query, head) after another; calls compare(column of o, value, bound) for each element. A score in F32 is
// off by at most 40 roundings (of 36 steps of the tensor core and the scale) of twice an F32 epsilon, of the magnitude of its
// products; weights are rounded to BF16 for the product with V alone; a step of the tensor core rounds the sums of 16 keys.
template <class Compare>
void for_truth(const Problem& p, size_t n, int64_t i, int64_t head, const Compare& compare) {
  const int64_t row = p.sequences[n].q_begin + i, keys = p.chunks[n].position + i + 1;
  std::vector<double> weight(static_cast<size_t>(keys));
  double top = -INFINITY, magnitude = 0, sum = 0;
  for (int64_t j = 0; j < keys; ++j) {
    double score = 0, size = 0;
    for (int64_t d = 0; d < kQk; ++d) {
      const double product = p.query(row, head * kQk + d) * p.key(n, j, d) * p.scale;
      score += product;
      size += std::abs(product);
    }
    weight[static_cast<size_t>(j)] = score;
    top = std::max(top, score);
    magnitude = std::max(magnitude, size);
  }
  for (double& w : weight) sum += w = std::exp(w - top);
  const double of_weight = 2 * (40 * magnitude + 8) * 0x1p-23 + 0x1p-8;
  const double of_sums = static_cast<double>(keys / 16 + 16) * 0x1p-23;
  for (int64_t d = 0; d < kV; ++d) {
    double value = 0, size = 0;
    for (int64_t j = 0; j < keys; ++j) {
      const double term = weight[static_cast<size_t>(j)] / sum * p.key(n, j, d);
      value += term;
      size += std::abs(term);
    }
    compare(head * kV + d, value, (of_weight + of_sums) * size * 1.01 + 0x1p-8 * std::abs(value) + 1e-30);
  }
}

// "" or the first wrong element; gaps and rows of nobody must be untouched.
std::string difference(const Problem& p, const std::vector<uint16_t>& o) {
  std::string wrong;
  std::vector<bool> written(o.size(), false);
  for (size_t n = 0; n < p.chunks.size(); ++n)
    for (int64_t i = 0; i < p.chunks[n].queries; ++i)
      for (int64_t h = 0; h < p.heads; ++h)
        for_truth(p, n, i, h, [&](int64_t column, double value, double bound) {
          const auto at = static_cast<size_t>((p.sequences[n].q_begin + i) * p.o_stride() + column);
          written[at] = true;
          const auto got = static_cast<double>(static_cast<float>(Bf16::from_bits(o[at])));
          if (wrong.empty() && !(std::abs(got - value) <= bound))
            wrong = fmt::format("position {}, head {}, column {}: {}, expected {} within {}", p.chunks[n].position + i, h,
                                column % kV, got, value, bound);
        });
  for (size_t at = 0; at < o.size() && wrong.empty(); ++at)
    if (!written[at] && o[at] != kPoison) wrong = fmt::format("element {} of o was written", at);
  return wrong;
}

// Bits of the chunk's queries [begin, end).
std::vector<uint16_t> bits(const Problem& p, const std::vector<uint16_t>& o, size_t n, int64_t begin, int64_t end) {
  std::vector<uint16_t> out;
  for (int64_t row = p.sequences[n].q_begin + begin; row < p.sequences[n].q_begin + end; ++row)
    out.insert(out.end(), o.begin() + row * p.o_stride(), o.begin() + row * p.o_stride() + p.heads * kV);
  return out;
}

TEST_F(PagedAttentionSm90a, ShortCachesMatchPlainFormulas) {
  std::vector<Chunk> chunks;
  for (const int64_t position : {0, 1, 62, 63, 64, 65, 66, 127, 190}) chunks.push_back({position, 1, 10 + chunks.size()});
  const Problem p(16, chunks);
  EXPECT_EQ(difference(p, p.run()), "");
}

TEST_F(PagedAttentionSm90a, EveryNumberOfHeads) {
  for (const int64_t heads : {1, 8, 16, 32, 40, 64, 96, 128}) {
    const Problem p(heads, {{3, 1, 1}, {64, 1, 2}, {0, 0, 3}, {62, 3, 4}});
    ASSERT_EQ(difference(p, p.run()), "") << heads << " heads";
  }
}

TEST_F(PagedAttentionSm90a, SeveralQueriesOfASequence) {
  const Problem p(16, {{0, 7, 1}, {126, 4, 2}, {61, 5, 3}, {127, 2, 4}, {0, 70, 5}});
  EXPECT_EQ(difference(p, p.run()), "");
}

TEST_F(PagedAttentionSm90a, PartsAreCombined) {
  std::vector<Chunk> chunks = {{2046, 4, 1}, {2047, 1, 2}, {2048, 1, 3}, {2111, 2, 4}, {30, 1, 5}, {4097, 1, 6}};
  if (!hopper::is_emulated())
    for (const int64_t position : {6143, 8192, 20000}) chunks.push_back({position, 3, 10 + chunks.size()});
  const Problem p(hopper::is_emulated() ? 2 : 16, chunks);
  EXPECT_EQ(difference(p, p.run()), "");
  const Problem padded(24, {{2045, 5, 1}});  // groups of 64 rows that hold queries of one part and of two
  EXPECT_EQ(difference(padded, padded.run()), "");
}

TEST_F(PagedAttentionSm90a, PeakedScores) {
  Problem p(16, {{100, 2, 1}, {200, 1, 2}});
  p.scale = 3;
  EXPECT_EQ(difference(p, p.run()), "");
}

// Mistakes that the comparison must see: a key short or too many, pages exchanged.
TEST_F(PagedAttentionSm90a, ComparisonSeesPlantedMistakes) {
  const Problem p(16, {{130, 1, 1}});
  Problem changed = p;
  changed.sequences[0].position = 129;
  EXPECT_NE(difference(p, changed.run()), "");
  changed = p;
  std::swap(changed.pages[0][0], changed.pages[0][1]);
  const std::vector<uint16_t> same_sums = changed.run();  // the order of whole pages changes roundings alone
  EXPECT_EQ(difference(p, same_sums), "");
  std::swap(changed.pages[0][0], changed.pages[0][2]);
  EXPECT_NE(difference(p, changed.run()), "");
}

// The same queries alone, in chunks, beside others, on other pages, in several launches, under another schedule: the same bits.
TEST_F(PagedAttentionSm90a, BitsDependOnTheQueryAlone) {
  const int64_t first = 2044, count = 16;  // pairs of blocks, of which one's queries have one part and the other's two
  const Problem whole(16, {{first, count, 1}});
  const std::vector<uint16_t> o = whole.run();
  EXPECT_EQ(whole.run(), o) << "another schedule";
  EXPECT_EQ(whole.run(2 * 16 * 514), o) << "scratch for one query";
  for (const int64_t i : {0, 3, 4, 15}) {
    const Problem alone(16, {{first + i, 1, 1}}, 7 + static_cast<uint64_t>(i));
    EXPECT_EQ(bits(alone, alone.run(), 0, 0, 1), bits(whole, o, 0, i, i + 1)) << "position " << first + i << " alone";
  }
  const Problem batch(16, {{5, 2, 9}, {first, 5, 1}, {70, 1, 8}, {first + 5, 4, 1}, {130, 3, 7}}, 3);
  const std::vector<uint16_t> got = batch.run();
  EXPECT_EQ(bits(batch, got, 1, 0, 5), bits(whole, o, 0, 0, 5));
  EXPECT_EQ(bits(batch, got, 3, 0, 4), bits(whole, o, 0, 5, 9));
}

TEST_F(PagedAttentionSm90a, BitsOfAPromptDoNotDependOnItsChunks) {
  const Problem whole(32, {{0, 140, 1}});
  const std::vector<uint16_t> o = whole.run();
  for (const int64_t chunk : {1, 37, 64}) {
    std::vector<Chunk> chunks;
    for (int64_t at = chunk == 1 ? 126 : 0; at < 140; at += chunk) chunks.push_back({at, std::min(chunk, 140 - at), 1});
    const Problem pieces(32, chunks, static_cast<uint64_t>(chunk));
    const std::vector<uint16_t> got = pieces.run();
    for (size_t n = 0; n < chunks.size(); ++n) {
      const int64_t at = chunks[n].position;
      ASSERT_EQ(bits(pieces, got, n, 0, chunks[n].queries), bits(whole, o, 0, at, at + chunks[n].queries))
          << "chunks of " << chunk << ", from " << at;
    }
  }
}

TEST_F(PagedAttentionSm90a, NaNAmongTheKeysSpreadsToThoseWhoSeeIt) {
  Problem p(16, {{70, 3, 1}, {80, 1, 2}});
  p.cache[p.cache_index(0, 71, 560)] = 0x7fc0;
  const std::vector<uint16_t> o = p.run();
  const auto nans = [&](const std::vector<uint16_t>& values) {
    return std::count_if(values.begin(), values.end(), [](uint16_t x) { return (x & 0x7fff) > 0x7f80; });
  };
  EXPECT_EQ(nans(bits(p, o, 0, 0, 1)), 0);
  EXPECT_EQ(nans(bits(p, o, 0, 1, 3)), 2 * 16 * kV);
  EXPECT_EQ(nans(bits(p, o, 1, 0, 1)), 0);
}

// More than kernel parameters hold. A query that sees one key gets its value.
TEST_F(PagedAttentionSm90a, ManySequencesGoInSeveralLaunches) {
  std::vector<Chunk> chunks;
  for (uint64_t n = 0; n < 963; ++n) chunks.push_back({0, 1, n});
  const Problem p(1, chunks);
  const std::vector<uint16_t> o = p.run();
  for (size_t n = 0; n < chunks.size(); ++n)
    for (int64_t d = 0; d < kV; ++d)
      ASSERT_EQ(o[static_cast<size_t>(p.sequences[n].q_begin * p.o_stride() + d)], p.cache[p.cache_index(n, 0, d)])
          << "sequence " << n << ", column " << d;
}

TEST_F(PagedAttentionSm90a, NothingToDo) {
  const Problem none(16, {}), empty(16, {{5, 0, 1}});
  for (const Problem* p : {&none, &empty})
    for (const uint16_t x : p->run()) ASSERT_EQ(x, kPoison);
}

TEST_F(PagedAttentionSm90a, ScratchForNotEvenOneQueryIsAnError) {
  const Problem p(1, {{2048, 1, 1}});
  EXPECT_THROW(p.run(2 * 16 * 514 - 1), Error);
}

TEST_F(PagedAttentionSm90a, AsksForScratchOnlyForSeveralParts) {
  const PagedSequence sequences[] = {{0, 4, 2044, nullptr}, {4, 6, 4095, nullptr}};
  PagedAttentionArgs args{.shape = {20, 1, kQk, kV, 0, 0, 0, 1}, .sequences = {sequences, 1}, .q = {}, .cache = {}, .o = {}};
  EXPECT_EQ(paged_attention_scratch_sm90a(args), 0);
  args.sequences = sequences;
  EXPECT_EQ(paged_attention_scratch_sm90a(args), 3 * 2 * 32 * 514);
  const PagedSequence prompt[] = {{0, 4096, 100000, nullptr}};
  args.sequences = prompt;
  EXPECT_EQ(paged_attention_scratch_sm90a(args), (int64_t{64} << 20) / 514 * 514);
}

TEST(PagedAttentionSm90aRefuses, WhatItIsNotFor) {
  alignas(16) static uint16_t memory[16];
  const auto bf16 = [&](int64_t rows, int64_t cols) { return Tensor(memory, DType::kBF16, rows, cols); };
  const PagedAttentionArgs good{.shape = {16, 1, kQk, kV, 0, 0, 0, 0.1},
                                .sequences = {},
                                .q = bf16(2, 16 * kQk),
                                .cache = bf16(64, kQk),
                                .o = bf16(2, 16 * kV)};
  EXPECT_EQ(refuse_paged_attention_sm90a(good), "");
  const auto expect = [&](auto change, const char* reason) {
    PagedAttentionArgs a = good;
    change(a);
    EXPECT_NE(refuse_paged_attention_sm90a(a).find(reason), std::string::npos)
        << refuse_paged_attention_sm90a(a) << ", expected " << reason;
  };
  expect([](auto& a) { a.q.dtype = DType::kF32; }, "q holds F32");
  expect([](auto& a) { a.cache.dtype = DType::kF64; }, "the cache holds");
  expect([](auto& a) { a.o.dtype = DType::kF32; }, "o holds");
  expect([](auto& a) { a.shape.kv_heads = 4; }, "4 key heads");
  expect([](auto& a) { a.shape.heads = 129; }, "129 heads");
  expect([](auto& a) { a.shape.qk_dim = 160; }, "keys of 160 columns");
  expect([](auto& a) { a.shape.v_dim = 128; }, "values of 128");
  expect([](auto& a) { a.shape.v_column = 64; }, "from column 64");
  expect([](auto& a) { a.shape.scale = 0; }, "scale");
  expect([](auto& a) { a.q.cols = 15 * kQk; }, "columns");
  expect([](auto& a) { a.cache.rows = 65; }, "whole pages");
  expect([](auto& a) { a.q.stride += 1; }, "q are not 16-byte aligned");
  expect([](auto& a) { a.cache.data = memory + 1; }, "the cache are not 16-byte aligned");
  expect([](auto& a) { a.o.stride += 4; }, "o are not 16-byte aligned");
}

TEST_F(WritePagesSm90a, PutsRowsAtTheirPositions) {
  for (const auto& [width, gap] : {std::pair{kQk, int64_t{8}}, {int64_t{8}, int64_t{0}}, {int64_t{1024}, int64_t{16}}}) {
    const int64_t rows = 90, stride = width + gap, cache_rows = 5 * kPageTokens;
    std::vector<uint16_t> from(static_cast<size_t>(rows * stride));
    for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<uint16_t>(random_words({.seed = 3}, i)[0] & 0x7fff);
    const std::vector<std::vector<int32_t>> pages = {{3, 0, 4}, {2}, {1}};
    const std::vector<hopper::DeviceBuffer> dpages = [&] {
      std::vector<hopper::DeviceBuffer> buffers;
      for (const auto& p : pages) buffers.push_back(hopper::to_device(p));
      return buffers;
    }();
    const std::vector<PagedSequence> sequences = {{1, 71, 63, dpages[0].as<int32_t>()},
                                                  {72, 72, 5, dpages[1].as<int32_t>()},
                                                  {80, 81, 9, dpages[1].as<int32_t>()},
                                                  {72, 80, 0, dpages[2].as<int32_t>()}};
    const size_t page_of[] = {0, 1, 1, 2};
    const hopper::DeviceBuffer source = hopper::to_device(from), cache(static_cast<size_t>(cache_rows * stride) * 2);
    write_pages_sm90a(Tensor(source.data(), DType::kBF16, rows, width, stride), sequences,
                      Tensor(cache.data(), DType::kBF16, cache_rows, width, stride), Stream::on_device());
    std::vector<uint16_t> want(static_cast<size_t>(cache_rows * stride), kPoison);
    for (size_t n = 0; n < sequences.size(); ++n)
      for (int64_t i = sequences[n].q_begin; i < sequences[n].q_end; ++i) {
        const int64_t at = sequences[n].position + i - sequences[n].q_begin;
        const int64_t row = pages[page_of[n]][static_cast<size_t>(at / kPageTokens)] * kPageTokens + at % kPageTokens;
        std::copy_n(from.begin() + i * stride, width, want.begin() + row * stride);
      }
    EXPECT_EQ(hopper::to_host<uint16_t>(cache), want);
  }
}

TEST_F(WritePagesSm90a, ManySequencesGoInSeveralLaunches) {
  const int64_t count = 1400, cache_rows = 22 * kPageTokens, width = 8;
  std::vector<int32_t> pages(22);
  for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<int32_t>(21 - i);
  const hopper::DeviceBuffer dpages = hopper::to_device(pages);
  std::vector<uint16_t> from(static_cast<size_t>(count * width));
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<uint16_t>(i);
  std::vector<PagedSequence> sequences;
  for (int64_t i = 0; i < count; ++i) sequences.push_back({i, i + 1, i, dpages.as<int32_t>()});
  const hopper::DeviceBuffer source = hopper::to_device(from), cache(static_cast<size_t>(cache_rows * width) * 2);
  write_pages_sm90a(Tensor(source.data(), DType::kBF16, count, width), sequences,
                    Tensor(cache.data(), DType::kBF16, cache_rows, width), Stream::on_device());
  const auto got = hopper::to_host<uint16_t>(cache);
  for (int64_t i = 0; i < count; ++i)
    for (int64_t c = 0; c < width; ++c)
      ASSERT_EQ(got[static_cast<size_t>(((21 - i / 64) * 64 + i % 64) * width + c)], from[static_cast<size_t>(i * width + c)]);
}

TEST(WritePagesSm90aRefuses, WhatItIsNotFor) {
  alignas(16) static uint16_t memory[16];
  const Tensor good(memory, DType::kBF16, 2, 8);
  EXPECT_EQ(refuse_write_pages_sm90a(good, good), "");
  EXPECT_NE(refuse_write_pages_sm90a(good, Tensor(memory, DType::kF32, 2, 8)), "");
  EXPECT_NE(refuse_write_pages_sm90a(good, Tensor(memory, DType::kBF16, 2, 16)), "");
  EXPECT_NE(refuse_write_pages_sm90a(Tensor(memory, DType::kBF16, 2, 4), Tensor(memory, DType::kBF16, 2, 4)), "");
  EXPECT_NE(refuse_write_pages_sm90a(good, Tensor(memory + 2, DType::kBF16, 2, 8)), "");
  EXPECT_NE(refuse_write_pages_sm90a(good, Tensor(memory, DType::kBF16, 2, 8, 12)), "");
}

}  // namespace
}  // namespace rorqual
