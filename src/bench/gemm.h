// `rorqual bench gemm`: our products of packed weights against oneDNN's, and the quantisers against copying.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace rorqual {

struct GemmShapeMNK {
  int64_t m = 0, n = 0, k = 0;
};
// 1024³, 2048³, 4096³, and one, four and sixteen rows with weights of 2048² and 7168².
std::vector<GemmShapeMNK> default_gemm_shapes();
// "1024x2048x512"; Error (usage) otherwise.
GemmShapeMNK parse_gemm_shape(const std::string& text);

struct GemmBenchRequest {
  std::vector<int> threads;  // one table of rows each
  std::vector<GemmShapeMNK> shapes = default_gemm_shapes();
  int rounds = 7;
  // Up to this many rows a product is a decode step, which finds its weights in memory, not in a cache: all contestants then go
  // round through copies of the weight that together exceed the last cache. 0: every weight stays where it is.
  int64_t most_streamed_rows = 16;
};

// {"machine", "rows": [{m, n, k, threads, kernel, scales, weights, gflops, peer, peer_kernel, peer_gflops, ratio,
// share_of_ceiling}], "notes"}. `progress` is told each row as it is measured. Each side's result is held against the product
// in double of its own operands, on a grid of elements: Error if it is beyond (K + 8)·2^-24 · Σ|a·b|.
nlohmann::ordered_json bench_gemm(const GemmBenchRequest& request,
                                  const std::function<void(const nlohmann::ordered_json& row)>& progress);

// For people: the rows as a table.
std::string gemm_table(const nlohmann::ordered_json& rows);

// The bound of the comparison, and its check on a grid of rows and columns: `value_a(i, k)` and `value_b(j, k)` are the
// operands' exact values. Empty, or what is wrong.
std::string compare_with_double(const float* c, const GemmShapeMNK& shape,
                                const std::function<double(int64_t, int64_t)>& value_a,
                                const std::function<double(int64_t, int64_t)>& value_b);

}  // namespace rorqual
