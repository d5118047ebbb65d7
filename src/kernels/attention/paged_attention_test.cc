#include "kernels/attention/paged_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/rng.h"
#include "kernels/attention/kernels.h"
#include "kernels/attention/problem_test.h"

namespace rorqual::attention {
namespace {

constexpr DType kDTypes[] = {DType::kF64, DType::kF32, DType::kBF16};

// A sequence's first query position and its number of queries.
struct Chunk {
  int64_t position = 0, queries = 1;
};

struct PagedSizes {
  int64_t heads = 1, kv_heads = 1, qk = 8, v = 8;
  bool shared = false;  // the value is the key's leading columns, as in absorbed MLA
  std::vector<Chunk> chunks;
  double scale = 0.2;
};

double draw(uint64_t seed, int64_t r, int64_t c) {
  return random_normal({.seed = seed}, static_cast<uint64_t>(r * 4096 + c));
}

// Sequence n's key at position p is the same numbers wherever its page lies, and its query at p likewise.
struct PagedProblem {
  PagedProblem(const PagedSizes& s, DType dtype, uint64_t seed, uint64_t placing = 0) : sizes(s) {
    const int64_t width = s.shared ? s.kv_heads * s.qk : s.kv_heads * (s.qk + s.v);
    shape = {s.heads, s.kv_heads, s.qk, s.v, s.qk, s.shared ? 0 : s.kv_heads * s.qk, s.shared ? s.qk : s.v, s.scale};
    int64_t rows = 1, count = 1;  // a row that belongs to nobody before, and a page
    for (const Chunk& c : s.chunks) {
      rows += c.queries + 1;
      count += (c.position + c.queries + kPageTokens - 1) / kPageTokens;
    }
    q = Buffer(dtype, rows, s.heads * s.qk, 3);
    o = Buffer(dtype, rows, s.heads * s.v, 5);
    cache = Buffer(dtype, count * kPageTokens, width, 2);
    int64_t row = 1, page = 0;
    pages.resize(s.chunks.size());
    for (size_t n = 0; n < s.chunks.size(); ++n) {
      const Chunk& c = s.chunks[n];
      sequences.push_back({row, row + c.queries, c.position, nullptr});
      for (int64_t p = 0; p < c.position + c.queries; ++p) {
        if (p % kPageTokens == 0) {
          pages[n].push_back(
              static_cast<int32_t>((static_cast<uint64_t>(page++) * 1 + placing) % static_cast<uint64_t>(count)));
        }
        const int64_t at = pages[n].back() * kPageTokens + p % kPageTokens;
        for (int64_t d = 0; d < width; ++d) cache.set(at, d, draw(seed + 2 * n, p, d));
      }
      for (int64_t i = 0; i < c.queries; ++i)
        for (int64_t d = 0; d < s.heads * s.qk; ++d) q.set(row + i, d, draw(seed + 2 * n + 1, c.position + i, d));
      row += c.queries + 1;
    }
    for (size_t n = 0; n < s.chunks.size(); ++n) sequences[n].pages = pages[n].data();
  }

  PagedAttentionArgs args() const { return {shape, sequences, q.tensor(), cache.tensor(), o.tensor()}; }

  PagedSizes sizes;
  PagedAttentionShape shape;
  std::vector<PagedSequence> sequences;
  std::vector<std::vector<int32_t>> pages;
  Buffer q, cache, o;
};

// By plain formulas in double. Of u = half an epsilon of the compute type: a score is off by at most (qk + 3)·u of the sum of
// its products' magnitudes (times scale), and exp of it by that and 4u relative to the range of the scores; a weight's relative
// error counts twice (itself and the sum it is divided by); sums of n keys add n·u. Products of errors are covered by a factor
// of two. The result is rounded to the type of o.
Expected truth_of(const PagedProblem& p) {
  const PagedAttentionShape& s = p.shape;
  Expected want(p.o.rows(), p.o.cols());
  const double u = p.q.dtype() == DType::kF64 ? 0x1p-53 : 0x1p-24, out = p.q.dtype() == DType::kBF16 ? 0x1p-8 : 2 * u;
  for (const PagedSequence& sequence : p.sequences)
    for (int64_t row = sequence.q_begin; row < sequence.q_end; ++row)
      for (int64_t h = 0; h < s.heads; ++h) {
        const int64_t keys = sequence.position + row - sequence.q_begin + 1, kv = h / (s.heads / s.kv_heads);
        const auto at = [&](int64_t j) { return sequence.pages[j / kPageTokens] * kPageTokens + j % kPageTokens; };
        std::vector<double> score(static_cast<size_t>(keys));
        double largest = -INFINITY, least = INFINITY, magnitude = 0, sum = 0;
        for (int64_t j = 0; j < keys; ++j) {
          double x = 0, size = 0;
          for (int64_t d = 0; d < s.qk_dim; ++d) {
            const double product = p.q.get(row, h * s.qk_dim + d) * p.cache.get(at(j), kv * s.k_head_stride + d) * s.scale;
            x += product;
            size += std::abs(product);
          }
          score[static_cast<size_t>(j)] = x;
          largest = std::max(largest, x);
          least = std::min(least, x);
          magnitude = std::max(magnitude, size);
        }
        for (double& x : score) sum += x = std::exp(x - largest);
        const double weight_error =
            2 * (static_cast<double>(s.qk_dim + 3) * magnitude + 4 * (1 + largest - least)) * u + static_cast<double>(keys) * u;
        for (int64_t d = 0; d < s.v_dim; ++d) {
          double value = 0, size = 0;
          for (int64_t j = 0; j < keys; ++j) {
            const double term = score[static_cast<size_t>(j)] / sum * p.cache.get(at(j), s.v_column + kv * s.v_head_stride + d);
            value += term;
            size += std::abs(term);
          }
          want.add(row, h * s.v_dim + d, value,
                   2 * size * (2 * weight_error + static_cast<double>(keys) * u) + out * std::abs(value) + 1e-37);
        }
      }
  return want;
}

void run(const KernelRow<PagedAttentionArgs>& row, PagedProblem& p, int threads = 1) {
  ThreadPool pool(threads);
  p.o.poison();
  row.run(p.args(), Stream(pool));
}

template <class Body>
void for_each_row(Body&& body) {
  for (const auto& row : paged_attention_kernels()) {
    if (row.isa > cpu_isa()) continue;
    int dtypes = 0;
    for (const DType dtype : kDTypes) {
      if (!row.refuse(PagedProblem({.chunks = {{0, 1}}}, dtype, 1).args()).empty()) continue;
      ++dtypes;
      SCOPED_TRACE(fmt::format("{} on {}", row.name, dtype_name(dtype)));
      body(row, dtype);
    }
    EXPECT_GT(dtypes, 0) << row.name;
  }
}

std::vector<PagedSizes> all_sizes() {
  std::vector<PagedSizes> sizes;
  for (int64_t i = 1; i <= 40; ++i) {
    const int64_t kv = 1 + i % 3, group = 1 + i % 5;
    const bool shared = i % 2 == 0;
    const int64_t qk = 1 + (i * 7) % 40, v = shared ? 1 + (i * 5) % qk : 1 + (i * 13) % 40;
    sizes.push_back({kv * group, kv, qk, v, shared, {{i, 1}, {0, i}, {130 - i, 3}, {63 + i % 3, 2}, {i % 2, 17}}});
  }
  sizes.push_back({8, 1, 160, 128, true, {{300, 1}, {0, 70}, {127, 5}}});
  sizes.push_back({16, 1, 80, 64, true, {{500, 1}}});
  sizes.push_back({4, 2, 100, 100, false, {{64, 66}, {192, 1}}});
  sizes.push_back({7, 7, 33, 17, false, {{128, 64}}});
  return sizes;
}

TEST(PagedAttention, EveryRowMatchesPlainFormulas) {
  const std::vector<PagedSizes> sizes = all_sizes();
  for (const DType dtype : kDTypes)
    for (size_t i = 0; i < sizes.size(); ++i) {
      PagedProblem p(sizes[i], dtype, i);
      const Expected want = truth_of(p);
      for (const auto& row : paged_attention_kernels()) {
        if (row.isa > cpu_isa() || !row.refuse(p.args()).empty()) continue;
        run(row, p);
        ASSERT_EQ(difference("o", p.o, want), "") << row.name << " on " << dtype_name(dtype) << ", size " << i;
      }
    }
}

// Mistakes that the comparison must see: the last key left out, another page, the scores of the neighbouring row.
TEST(PagedAttention, ComparisonSeesPlantedMistakes) {
  for_each_row([&](const auto& row, DType dtype) {
    PagedProblem p({.heads = 4, .qk = 24, .v = 16, .shared = true, .chunks = {{130, 2}}}, dtype, 5);
    const Expected want = truth_of(p);
    run(row, p);
    ASSERT_EQ(difference("o", p.o, want), "");
    const PagedSequence right = p.sequences[0];
    p.sequences[0].position = 129;
    run(row, p);
    EXPECT_NE(difference("o", p.o, want), "") << "a key short";
    p.sequences[0] = right;
    std::swap(p.pages[0][0], p.pages[0][2]);
    for (int64_t r = 0; r < p.cache.rows(); ++r)
      for (int64_t c = 0; c < p.cache.cols(); ++c)
        if (std::isnan(p.cache.get(r, c))) p.cache.set(r, c, 0);
    run(row, p);
    EXPECT_NE(difference("o", p.o, want), "") << "pages in another order";
  });
}

TEST(PagedAttention, LargeScores) {
  for_each_row([&](const auto& row, DType dtype) {
    PagedProblem p({.heads = 3, .qk = 16, .v = 16, .shared = true, .chunks = {{90, 4}}, .scale = 30}, dtype, 3);
    run(row, p);
    EXPECT_EQ(difference("o", p.o, truth_of(p)), "");
  });
}

std::vector<double> values(const Buffer& b, int64_t row, int64_t rows) {
  std::vector<double> out;
  for (int64_t r = row; r < row + rows; ++r)
    for (int64_t c = 0; c < b.cols(); ++c) out.push_back(b.get(r, c));
  return out;
}

// The same queries alone, one by one, in chunks, beside others, on other pages, by more threads: the same bits.
TEST(PagedAttention, BitsDependOnTheQueryAlone) {
  for_each_row([&](const auto& row, DType dtype) {
    for (const bool shared : {true, false}) {
      const PagedSizes base{12, shared ? 1 : 3, 20, 18, shared, {{0, 150}}};
      PagedProblem whole(base, dtype, 7);
      run(row, whole);
      const std::vector<double> want = values(whole.o, 1, 150);
      for (int threads = 2; threads <= 3; ++threads) {
        run(row, whole, threads);
        ASSERT_EQ(values(whole.o, 1, 150), want) << threads << " threads";
      }
      for (const int64_t chunk : {1, 37, 64, 100}) {
        std::vector<double> got;
        for (int64_t at = chunk == 1 ? 125 : 0; at < 150; at += chunk) {
          PagedSizes sizes = base;
          const int64_t n = std::min<int64_t>(chunk, 150 - at);
          sizes.chunks = {{at, n}, {at % 70, 2}, {5, 40}};
          PagedProblem piece(sizes, dtype, 7, static_cast<uint64_t>(at + 1));
          run(row, piece, 2);
          const std::vector<double> part = values(piece.o, 1, n);
          got.insert(got.end(), part.begin(), part.end());
        }
        const std::vector<double> tail(want.end() - static_cast<std::ptrdiff_t>(got.size()), want.end());
        ASSERT_EQ(got, tail) << "chunks of " << chunk;
      }
    }
  });
}

TEST(PagedAttention, FastRowsAreChosen) {
  const auto name = [](DType dtype, Isa isa) {
    return select_row(paged_attention_kernels(), PagedProblem({.chunks = {{0, 1}}}, dtype, 1).args(), isa).name;
  };
  EXPECT_EQ(name(DType::kBF16, Isa::kAmx), "avx512_bf16");
  EXPECT_EQ(name(DType::kF32, Isa::kAvx512), "avx512_f32");
  EXPECT_EQ(name(DType::kBF16, Isa::kAvx2), "avx2_bf16");
  EXPECT_EQ(name(DType::kF64, Isa::kAmx), "reference");
}

TEST(WritePages, PutsRowsAtTheirPositions) {
  std::vector<float> rows(6), cache(3 * 64 * 2, -1.0f);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i);
  const int32_t a[] = {2, 0}, b[] = {1};
  const PagedSequence sequences[] = {{0, 2, 63, a}, {2, 3, 5, b}};
  ThreadPool pool(1);
  write_pages(Tensor(rows.data(), DType::kF32, 3, 2), sequences, Tensor(cache.data(), DType::kF32, 192, 2), Stream(pool));
  EXPECT_EQ(cache[(2 * 64 + 63) * 2 + 1], 1);
  EXPECT_EQ(cache[0], 2);
  EXPECT_EQ(cache[(64 + 5) * 2], 4);
  EXPECT_EQ(std::count(cache.begin(), cache.end(), -1.0f), 3 * 64 * 2 - 6);
}

}  // namespace
}  // namespace rorqual::attention
