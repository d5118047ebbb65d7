// Speed of encoding and training. The text is the file that RORQUAL_BENCH_TEXT names, without it the sources of this program
// (run from the repository root).
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <filesystem>

#include "base/file.h"
#include "data/pretokenizer.h"
#include "data/tokenizer_impl.h"
#include "data/tokenizer_test_util.h"

namespace rorqual {
namespace {

const std::string& bench_text() {
  static const std::string text = [] {
    if (const char* path = std::getenv("RORQUAL_BENCH_TEXT")) return read_file(path);
    std::string all;
    for (const auto& entry : std::filesystem::recursive_directory_iterator("src")) {
      if (entry.is_regular_file()) all += read_file(entry.path());
    }
    return all;
  }();
  return text;
}

void count_bytes(benchmark::State& state) {
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * bench_text().size()));
}

void BM_Split(benchmark::State& state) {
  for (auto _ : state) {
    int64_t pieces = 0;
    for_each_piece(bench_text(), [&](std::string_view) { ++pieces; });
    benchmark::DoNotOptimize(pieces);
  }
  count_bytes(state);
}
BENCHMARK(BM_Split)->Unit(benchmark::kMillisecond);

void BM_Encode(benchmark::State& state) {
  std::vector<int32_t> ids;
  for (auto _ : state) {
    ids.clear();
    deepseek().encode(bench_text(), ids);
  }
  count_bytes(state);
  state.counters["bytes_per_token"] = static_cast<double>(bench_text().size()) / static_cast<double>(ids.size());
}
BENCHMARK(BM_Encode)->Unit(benchmark::kMillisecond);

void BM_EncodeWithoutCache(benchmark::State& state) {
  std::vector<int32_t> ids;
  for (auto _ : state) {
    ids.clear();
    for_each_piece(bench_text(), [&](std::string_view piece) { deepseek().impl().bpe.encode(piece, ids); });
  }
  count_bytes(state);
}
BENCHMARK(BM_EncodeWithoutCache)->Unit(benchmark::kMillisecond);

void BM_EncodeOneLetter(benchmark::State& state) {
  const std::string text(100'000, 'a');
  for (auto _ : state) benchmark::DoNotOptimize(deepseek().encode(text));
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * text.size()));
}
BENCHMARK(BM_EncodeOneLetter)->Unit(benchmark::kMillisecond);

void BM_Decode(benchmark::State& state) {
  const std::vector<int32_t> ids = deepseek().encode(bench_text());
  for (auto _ : state) benchmark::DoNotOptimize(deepseek().decode(ids));
  count_bytes(state);
}
BENCHMARK(BM_Decode)->Unit(benchmark::kMillisecond);

void BM_Train8192(benchmark::State& state) {
  ThreadPool pool(static_cast<int>(state.range(0)));
  const std::vector<std::string_view> documents = {bench_text()};
  for (auto _ : state) benchmark::DoNotOptimize(train_tokenizer({}, documents, Stream(pool)).vocab_size());
  count_bytes(state);
}
BENCHMARK(BM_Train8192)->Arg(1)->Unit(benchmark::kMillisecond)->UseRealTime()->Iterations(1);

}  // namespace
}  // namespace rorqual
