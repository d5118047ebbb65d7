#include "bench/quantisers.h"

#include <emmintrin.h>
#include <fmt/format.h>

#include <cstring>

#include "base/rng.h"
#include "bench/compare.h"
#include "exchange/exchange.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/gemm/gemm.h"
#include "kernels/quantise/quantise.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "kernels/swiglu/swiglu.h"
#include "tensor/arena.h"

namespace rorqual {
namespace {

using Json = nlohmann::ordered_json;

constexpr MemoryClass kClass = MemoryClass::kScratch;
constexpr int64_t kCopyTask = int64_t{1} << 20;
constexpr double kSettle_s = 1e-3;

struct Pass {
  std::string name;
  int64_t bytes = 0;  // read and written
  std::function<void()> run;
};

// 16-byte stores past the caches: no line is read before it is written.
void copy_streaming(std::byte* to, const std::byte* from, int64_t bytes) {
  auto* t = reinterpret_cast<__m128i*>(to);
  const auto* f = reinterpret_cast<const __m128i*>(from);
  for (int64_t i = 0; i < bytes / 16; ++i) _mm_stream_si128(t + i, _mm_load_si128(f + i));
  _mm_sfence();
}

class Passes {
 public:
  Passes(int64_t rows, int64_t cols, const Stream& stream) : rows_(rows), cols_(cols), stream_(stream) {
    x_ = arena_.tensor(kClass, DType::kF32, rows, cols);
    stream.parallel(rows, [&](int64_t r) {
      float* row = x_.row<float>(r);
      uint64_t state = static_cast<uint64_t>(r) * 0x9e3779b97f4a7c15u + 1;
      for (int64_t c = 0; c < cols; ++c) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        row[c] = static_cast<float>(static_cast<int32_t>(state >> 32)) * 0x1p-29f;
      }
    });
    x16_ = arena_.tensor(kClass, DType::kBF16, rows, cols);
    convert({x_, x16_}, stream);
    to_ = arena_.tensor(kClass, DType::kF32, rows, cols);
    add_quantise(x_, DType::kE4M3, "quantise F32 to E4M3");
    add_quantise(x16_, DType::kE4M3, "quantise BF16 to E4M3");
    add_quantise(x_, DType::kE5M6, "quantise F32 to E5M6");
    add_quantise(x16_, DType::kE5M6, "quantise BF16 to E5M6");
    add_norm();
    add_swiglu();
    add_dispatch();
    add_requantise();
    add_pack();
  }

  const std::vector<Pass>& passes() const { return passes_; }

  // Reads and writes `bytes` in all.
  void copy(int64_t bytes, bool streaming) const {
    const int64_t half = std::min(bytes / 2, x_.bytes()) / 64 * 64;
    stream_.parallel((half + kCopyTask - 1) / kCopyTask, [&](int64_t i) {
      const int64_t begin = i * kCopyTask, n = std::min(kCopyTask, half - begin);
      auto* to = static_cast<std::byte*>(to_.data) + begin;
      const auto* from = static_cast<const std::byte*>(x_.data) + begin;
      if (streaming)
        copy_streaming(to, from, n);
      else
        std::memcpy(to, from, static_cast<size_t>(n));
    });
  }

 private:
  ScaledTensor codes(DType dtype, int64_t rows, int64_t cols, ScaledTensor::Group group = ScaledTensor::Group::kRow) {
    const bool by_row = group == ScaledTensor::Group::kRow;
    return {arena_.tensor(kClass, dtype, rows, cols),
            arena_.tensor(kClass, DType::kF32, by_row ? rows : scale_groups(rows), by_row ? scale_groups(cols) : cols), group};
  }
  void add(const std::string& name, int64_t bytes, std::function<void()> run) {
    passes_.push_back({name, bytes, std::move(run)});
  }

  void add_quantise(const Tensor& x, DType dtype, const char* name) {
    const ScaledTensor y = codes(dtype, rows_, cols_);
    add(name, x.bytes() + y.bytes(), [=, this] { quantise({x, y, {}}, stream_); });
  }
  void add_norm() {
    const Tensor w = arena_.tensor(kClass, DType::kF32, 1, cols_);
    for (int64_t i = 0; i < cols_; ++i) w.ptr<float>()[i] = 1;
    const ScaledTensor y = codes(DType::kE4M3, rows_, cols_);
    add("RMSNorm and quantise F32", x_.bytes() + y.bytes(), [=, this] { rmsnorm_forward({x_, w, y, 1e-6}, stream_); });
  }
  void add_swiglu() {
    const ScaledTensor h = codes(DType::kE4M3, rows_, cols_ / 2), cache = codes(DType::kE4M3, rows_, cols_);
    add("SwiGLU and quantise BF16", x16_.bytes() + h.bytes(),
        [=, this] { swiglu_forward({.gate_up = x16_, .weight = {}, .h = h}, stream_); });
    add("SwiGLU, quantise and cache BF16", x16_.bytes() + h.bytes() + cache.bytes(),
        [=, this] { swiglu_forward({.gate_up = x16_, .weight = {}, .h = h, .cache = cache}, stream_); });
  }
  // Each token to two of 16 experts, drawn evenly.
  void add_dispatch() {
    constexpr int64_t kExperts = 16, kTop = 2;
    const int64_t tokens = rows_ / kTop;
    std::vector<int32_t> expert;
    for (int64_t t = 0; t < tokens; ++t) {
      const auto first = static_cast<int32_t>(random_below({.seed = 1}, static_cast<uint64_t>(t), kExperts - 1));
      const auto rest = static_cast<uint64_t>(kExperts - 1 - first);
      expert.push_back(first);
      expert.push_back(first + 1 + static_cast<int32_t>(random_below({.seed = 2}, static_cast<uint64_t>(t), rest)));
    }
    plan_ = plan_dispatch(expert, tokens, kTop, identity_placement(kExperts, 1), 1);
    const ScaledTensor from = codes(DType::kE4M3, tokens, cols_), to = codes(DType::kE4M3, plan_.rows, cols_);
    quantise({x_.row_range(0, tokens), from, {}}, stream_);
    add("dispatch E4M3", 2 * to.bytes(), [=, this] { dispatch_rows(plan_, from, to, stream_); });
  }
  void add_requantise() {
    const ScaledTensor from = codes(DType::kE4M3, rows_, cols_);
    const ScaledTensor to = codes(DType::kE4M3, rows_, cols_, ScaledTensor::Group::kColumn);
    quantise({x_, from, {}}, stream_);
    add("requantise columns E4M3", from.bytes() + to.bytes(), [=, this] {
      const RequantiseProblem problem{from, to};
      requantise_columns({{&problem, 1}, {}}, stream_);
    });
  }
  void add_pack() {
    const auto packed = [&](int64_t n, int64_t k) {
      return PackedWeight{arena_.bytes(kClass, PackedWeight::bytes(DType::kE4M3, n, k)), DType::kE4M3, n, k,
                          arena_.tensor(kClass, DType::kF32, 1, PackedWeight::scale_count(n, k)).ptr<float>()};
    };
    const PackedWeight straight = packed(rows_, cols_), across = packed(cols_, rows_);
    add("quantise and pack a weight both ways", x_.bytes() + 2 * PackedWeight::bytes(DType::kE4M3, rows_, cols_), [=, this] {
      const PackWeightArgs pack{x_, straight, across, {}};
      pack_weights({&pack, 1}, stream_);
    });
  }

  const int64_t rows_, cols_;
  const Stream& stream_;
  Arena arena_;
  Tensor x_, x16_, to_;
  DispatchPlan plan_;
  std::vector<Pass> passes_;
};

Json measure(const Passes& passes, const Pass& pass, int threads, int rounds) {
  const Contestant contestants[] = {[&](int64_t) { pass.run(); }, [&](int64_t) { passes.copy(pass.bytes, false); },
                                    [&](int64_t) { passes.copy(pass.bytes, true); }};
  const bool alone = threads == 1;
  const Comparison c = compare(contestants, {.rounds = rounds, .settle_s = alone ? 0 : kSettle_s, .thread_time = alone});
  const size_t faster = c.ratio(1, 2) > 1 ? 2 : 1;
  const double gb = 1e-9 * static_cast<double>(pass.bytes);
  return {{"kernel", pass.name},
          {"threads", threads},
          {"bytes", pass.bytes},
          {"gb_per_s", gb / c.seconds[0]},
          {"copy_gb_per_s", gb / c.seconds[faster]},
          {"share", c.ratio(faster, 0)}};
}

}  // namespace

nlohmann::ordered_json bench_quantisers(const std::vector<int>& threads, int64_t rows, int64_t cols, int rounds,
                                        const std::function<void(const Json& row)>& progress) {
  Json out = Json::array();
  for (const int n : threads) {
    ThreadPool pool(n);
    const Stream stream(pool);
    const Passes passes(rows, cols, stream);
    for (const Pass& pass : passes.passes()) {
      Json row = measure(passes, pass, n, rounds);
      progress(row);
      out.push_back(std::move(row));
    }
  }
  return out;
}

std::string quantiser_table(const Json& rows) {
  std::string text = fmt::format("{:<38} {:>7} {:>9} {:>8} {:>8} {:>6}\n", "kernel", "threads", "MB", "GB/s", "copy", "share");
  for (const Json& r : rows)
    text += fmt::format("{:<38} {:>7} {:>9.1f} {:>8.2f} {:>8.2f} {:>5.0f}%\n", r["kernel"].get<std::string>(),
                        r["threads"].get<int>(), 1e-6 * static_cast<double>(r["bytes"].get<int64_t>()),
                        r["gb_per_s"].get<double>(), r["copy_gb_per_s"].get<double>(), 100 * r["share"].get<double>());
  return text;
}

}  // namespace rorqual
