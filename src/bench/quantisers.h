// The passes that quantise, as a share of what copying as many bytes would reach.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <vector>

namespace rorqual {

// Rows {kernel, threads, bytes, gb_per_s, copy_gb_per_s, share}: bytes read and written by the pass, its matrices far larger
// than a cache. The copy moves as many bytes, half read and half written, by memcpy or by stores past the caches, whichever is
// faster; pass and copy take turns. `rows`, `cols`: of the matrices.
nlohmann::ordered_json bench_quantisers(const std::vector<int>& threads, int64_t rows, int64_t cols, int rounds,
                                        const std::function<void(const nlohmann::ordered_json& row)>& progress);

std::string quantiser_table(const nlohmann::ordered_json& rows);

}  // namespace rorqual
