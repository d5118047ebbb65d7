#include "bench/gemm.h"

#include <unistd.h>

#include <charconv>
#include <cmath>
#include <cstring>
#include <memory>
#include <optional>

#include "base/machine.h"
#include "base/rng.h"
#include "bench/compare.h"
#include "bench/onednn.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/peak.h"
#include "kernels/quantise/quantise.h"
#include "tensor/arena.h"

namespace rorqual {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kPeer = "onednn-bf16-prepacked";
// OpenMP's and our own threads spin for a while after their last work; a turn begins when those of the other side sleep.
constexpr double kSettle_s = 25e-3;
constexpr MemoryClass kClass = MemoryClass::kScratch;
// Where an operand has no other kernel than the reference, larger products would take minutes.
constexpr double kMostReferenceGflop = 1;
constexpr int kPeaks = 10;
constexpr int64_t kMostCopies = 512;  // of weights too small to fill a cache

// Normal numbers from a table, because drawing each would take longer than measuring.
void fill_normal(const Tensor& t, uint64_t seed, const Stream& stream) {
  constexpr size_t kTable = 1 << 16;
  std::vector<float> table(kTable);
  for (size_t i = 0; i < kTable; ++i) table[i] = static_cast<float>(random_normal({.seed = seed}, i));
  stream.parallel(t.rows, [&](int64_t r) {
    float* row = t.row<float>(r);
    uint64_t state = seed * 0x9e3779b97f4a7c15u + static_cast<uint64_t>(r) * 0xbf58476d1ce4e5b9u + 1;
    for (int64_t c = 0; c < t.cols; ++c) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      row[c] = table[state >> 48];
    }
  });
}

int64_t last_cache_bytes() {
  const long l3 = ::sysconf(_SC_LEVEL3_CACHE_SIZE);
  return l3 > 0 ? l3 : int64_t{64} << 20;
}

// How many copies of a weight everybody goes round through: the smallest of them, in FP8, exceeds the last cache.
int64_t copies_of(const GemmShapeMNK& s, const GemmBenchRequest& request) {
  if (s.m > request.most_streamed_rows) return 1;
  const int64_t wanted = last_cache_bytes() * 5 / 4 / (s.n * s.k) + 1;
  const int64_t all_bytes = (1 + 1 + 2 + 2) * s.n * s.k;  // a copy of each contestant's
  const int64_t room = machine_memory().available_bytes / 2 / all_bytes;
  return std::max<int64_t>(1, std::min({wanted, room, kMostCopies}));
}

// One of our products, with its operands.
struct Ours {
  std::string scales;  // pow2, fp32, none
  ScaleRule rule = ScaleRule::kPow2;
  ScaledTensor a;
  std::vector<PackedWeight> weights;
  Tensor c;

  LinearProblem problem(int64_t i) const { return {a, weights[static_cast<size_t>(i) % weights.size()], c}; }
  std::string kernel() const {
    const LinearProblem p = problem(0);
    const LinearArgs args{.problems = {&p, 1}, .scales = rule};
    return std::string(select_row(linear_kernels(), args, allowed_isa()).name);
  }
  void run(int64_t i, const Stream& stream) const {
    const LinearProblem p = problem(i);
    linear({.problems = {&p, 1}, .scales = rule}, stream);
  }
  // Exact values of the operands. FP8: the scalar truth's code of the source under the scale that the kernel chose.
  double value_a(int64_t i, int64_t k) const {
    if (a.is_plain()) return static_cast<float>(a.codes.row<Bf16>(i)[k]);
    return static_cast<double>(static_cast<float>(a.codes.row<E4M3>(i)[k])) * a.scales.row<float>(i)[k / kScaleGroup];
  }
  double value_b(const Tensor& source, int64_t j, int64_t k) const {
    const float w = source.row<float>(j)[k];
    if (a.is_plain()) return static_cast<float>(Bf16(w));
    const float scale = weights[0].scale[j / kScaleGroup * scale_groups(source.cols) + k / kScaleGroup];
    return static_cast<double>(static_cast<float>(E4M3(scaled(w, scale)))) * scale;
  }
};

void copy_weight(Ours& o, int64_t copies, Arena& arena) {
  const PackedWeight& first = o.weights[0];
  const int64_t bytes = PackedWeight::bytes(first.dtype, first.n, first.k);
  const int64_t scales = first.scale ? PackedWeight::scale_count(first.n, first.k) : 0;
  while (static_cast<int64_t>(o.weights.size()) < copies) {
    PackedWeight copy = o.weights[0];
    copy.data = arena.bytes(kClass, bytes);
    std::memcpy(copy.data, o.weights[0].data, static_cast<size_t>(bytes));
    if (scales > 0) {
      copy.scale = arena.tensor(kClass, DType::kF32, 1, scales).ptr<float>();
      std::memcpy(copy.scale, o.weights[0].scale, static_cast<size_t>(scales) * sizeof(float));
    }
    o.weights.push_back(copy);
  }
}

Ours make_ours(DType dtype, ScaleRule rule, const Tensor& a, const Tensor& w, Arena& arena, const Stream& stream) {
  Ours o;
  o.rule = rule;
  const bool fp8 = dtype == DType::kE4M3;
  o.scales = !fp8 ? "none" : rule == ScaleRule::kPow2 ? "pow2" : "fp32";
  o.a.codes = arena.tensor(kClass, dtype, a.rows, a.cols);
  PackedWeight packed{arena.bytes(kClass, PackedWeight::bytes(dtype, w.rows, w.cols)), dtype, w.rows, w.cols, nullptr};
  if (fp8) {
    o.a.scales = arena.tensor(kClass, DType::kF32, a.rows, scale_groups(a.cols));
    packed.scale = arena.tensor(kClass, DType::kF32, 1, PackedWeight::scale_count(w.rows, w.cols)).ptr<float>();
    quantise({a, o.a, {.rule = rule}}, stream);
  } else {
    convert({a, o.a.codes}, stream);
  }
  const PackWeightArgs pack{w, packed, {}, {.rule = rule}};
  pack_weights({&pack, 1}, stream);
  o.weights.push_back(packed);
  o.c = arena.tensor(kClass, DType::kF32, a.rows, w.rows);
  return o;
}

// The faster of oneDNN's two ways to say this product.
std::unique_ptr<OneDnnProduct> make_peer(const std::shared_ptr<OneDnn>& onednn, const Tensor& a, const Tensor& w,
                                         const Tensor& c, int64_t copies, int threads) {
  using Primitive = OneDnnProduct::Primitive;
  std::vector<std::unique_ptr<OneDnnProduct>> both;
  for (const Primitive primitive : {Primitive::kMatmul, Primitive::kInnerProduct}) {
    both.push_back(std::make_unique<OneDnnProduct>(onednn, primitive, a, c));
    both.back()->add_weight(w);
  }
  const Contestant runs[] = {[&](int64_t) { both[0]->run(0); }, [&](int64_t) { both[1]->run(0); }};
  const Comparison comparison = compare(runs, {.rounds = 3, .batch_s = 10e-3, .thread_time = threads == 1});
  std::unique_ptr<OneDnnProduct> best = std::move(both[comparison.ratio(0, 1) > 1 ? 1 : 0]);
  both.clear();
  for (int64_t i = 1; i < copies; ++i) best->add_weight(w);
  return best;
}

void check_result(const std::string& what, const std::string& wrong) {
  if (!wrong.empty()) fail("{}: {}: the speeds mean nothing", what, wrong);
}

class ShapeBench {
 public:
  ShapeBench(const GemmShapeMNK& s, const GemmBenchRequest& request, const std::shared_ptr<OneDnn>& onednn,
             const Stream& stream)
      : s_(s), request_(request), stream_(stream), copies_(copies_of(s, request)) {
    a_ = arena_.tensor(kClass, DType::kF32, s.m, s.k);
    w_ = arena_.tensor(kClass, DType::kF32, s.n, s.k);
    fill_normal(a_, 1, stream);
    fill_normal(w_, 2, stream);
    add(DType::kE4M3, ScaleRule::kPow2);
    add(DType::kE4M3, ScaleRule::kFp32);
    add(DType::kBF16, ScaleRule::kPow2);
    if (!onednn) return;
    const Tensor w16 = arena_.tensor(kClass, DType::kBF16, s.n, s.k);
    convert({w_, w16}, stream);
    peer_c_ = arena_.tensor(kClass, DType::kF32, s.m, s.n);
    a16_ = arena_.tensor(kClass, DType::kBF16, s.m, s.k);
    convert({a_, a16_}, stream);
    peer_ = make_peer(onednn, a16_, w16, peer_c_, copies_, stream.threads());
  }

  // `peak`: GFLOP/s of the instruction alone, the most seen so far.
  std::vector<Json> rows(double& peak) {
    std::vector<Contestant> contestants;
    for (const Ours& o : ours_) contestants.push_back([&o, this](int64_t i) { o.run(i, stream_); });
    if (peer_) contestants.push_back([this](int64_t i) { peer_->run(i % copies_); });
    const bool alone = stream_.threads() == 1;
    const Comparison comparison =
        compare(contestants, {.rounds = request_.rounds, .settle_s = alone ? 0 : kSettle_s, .thread_time = alone});
    check_results();
    for (int i = 0; i < kPeaks; ++i) peak = std::max(peak, measure_peak_flops(DType::kBF16, stream_));
    std::vector<Json> rows;
    for (size_t i = 0; i < ours_.size(); ++i) {
      const double gflops = gflop() / comparison.seconds[i];
      Json row = {{"m", s_.m}, {"n", s_.n}, {"k", s_.k}, {"threads", stream_.threads()}, {"kernel", ours_[i].kernel()}};
      row["scales"] = ours_[i].scales;
      row["weights"] = copies_ > 1 ? "streamed" : "resident";
      row["gflops"] = gflops;
      if (peer_) {
        row["peer"] = kPeer;
        row["peer_kernel"] = peer_->name();
        row["peer_gflops"] = gflop() / comparison.seconds.back();
        row["ratio"] = comparison.ratio(ours_.size(), i);
      }
      row["share_of_ceiling"] = gflops / peak;
      rows.push_back(row);
    }
    return rows;
  }

  const std::vector<std::string>& notes() const { return notes_; }

 private:
  double gflop() const { return 2e-9 * static_cast<double>(s_.m) * static_cast<double>(s_.n) * static_cast<double>(s_.k); }

  void add(DType dtype, ScaleRule rule) {
    Ours o = make_ours(dtype, rule, a_, w_, arena_, stream_);
    if (o.kernel() == "reference" && gflop() > kMostReferenceGflop) {
      notes_.push_back(fmt::format("{}x{}x{}: {} with scales {} has no kernel but the reference here: left out", s_.m, s_.n,
                                   s_.k, dtype_name(dtype), o.scales));
      return;
    }
    copy_weight(o, copies_, arena_);
    ours_.push_back(std::move(o));
  }

  void check_results() const {
    const std::string shape = fmt::format("{}x{}x{}", s_.m, s_.n, s_.k);
    for (const Ours& o : ours_)
      check_result(fmt::format("{} of {}, scales {}", o.kernel(), shape, o.scales),
                   compare_with_double(
                       o.c.ptr<float>(), s_, [&](int64_t i, int64_t k) { return o.value_a(i, k); },
                       [&](int64_t j, int64_t k) { return o.value_b(w_, j, k); }));
    if (!peer_) return;
    check_result(fmt::format("oneDNN's {} of {}", peer_->name(), shape),
                 compare_with_double(
                     peer_c_.ptr<float>(), s_, [&](int64_t i, int64_t k) { return static_cast<float>(a16_.row<Bf16>(i)[k]); },
                     [&](int64_t j, int64_t k) { return static_cast<float>(Bf16(w_.row<float>(j)[k])); }));
  }

  const GemmShapeMNK s_;
  const GemmBenchRequest& request_;
  const Stream& stream_;
  const int64_t copies_;
  Arena arena_;
  Tensor a_, w_, a16_, peer_c_;
  std::vector<std::string> notes_;
  std::vector<Ours> ours_;
  std::unique_ptr<OneDnnProduct> peer_;
};

}  // namespace

std::vector<GemmShapeMNK> default_gemm_shapes() {
  std::vector<GemmShapeMNK> shapes;
  for (const int64_t n : {1024, 2048, 4096}) shapes.push_back({n, n, n});
  for (const int64_t n : {2048, 7168})
    for (const int64_t m : {1, 4, 16}) shapes.push_back({m, n, n});
  return shapes;
}

GemmShapeMNK parse_gemm_shape(const std::string& text) {
  int64_t sizes[3] = {};
  const char *at = text.data(), *const end = text.data() + text.size();
  for (int i = 0; i < 3; ++i) {
    const auto [next, error] = std::from_chars(at, end, sizes[i]);
    const bool last = i == 2;
    if (error != std::errc() || sizes[i] < 1 || sizes[i] > 65536 || (last ? next != end : next == end || *next != 'x'))
      fail_usage("'{}' is no shape: write MxNxK, each from 1 to 65536, as in 16x7168x7168", text);
    at = next + 1;
  }
  return {sizes[0], sizes[1], sizes[2]};
}

std::string compare_with_double(const float* c, const GemmShapeMNK& s, const std::function<double(int64_t, int64_t)>& value_a,
                                const std::function<double(int64_t, int64_t)>& value_b) {
  // A sum of K products that are exact in FP32, in any order, errs by at most K roundings of partial sums, none of which
  // exceeds Σ|a·b|; an FP32 scale adds its own rounding to each group's sum and one to the scales' product.
  const double unit = static_cast<double>(s.k + 8) * 0x1p-24;
  const int64_t grid_rows = std::min<int64_t>(s.m, 4), grid_cols = std::min<int64_t>(s.n, 64);
  for (int64_t p = 0; p < grid_rows; ++p) {
    const int64_t i = grid_rows == 1 ? 0 : p * (s.m - 1) / (grid_rows - 1);
    for (int64_t q = 0; q < grid_cols; ++q) {
      const int64_t j = grid_cols == 1 ? 0 : q * (s.n - 1) / (grid_cols - 1);
      double sum = 0, magnitude = 0;
      for (int64_t k = 0; k < s.k; ++k) {
        const double product = value_a(i, k) * value_b(j, k);
        sum += product;
        magnitude += std::abs(product);
      }
      const double found = c[i * s.n + j];
      if (!(std::abs(found - sum) <= unit * magnitude))
        return fmt::format("element ({}, {}) is {:.9g}, the product in double {:.9g}, allowed distance {:.3g}", i, j, found,
                           sum, unit * magnitude);
    }
  }
  return {};
}

nlohmann::ordered_json bench_gemm(const GemmBenchRequest& request, const std::function<void(const Json& row)>& progress) {
  Json notes = Json::array(), rows = Json::array();
  std::string why;
  const std::shared_ptr<OneDnn> onednn = OneDnn::load(why);
  if (!onednn) notes.push_back(why);
  for (const int threads : request.threads) {
    ThreadPool pool(threads);
    const Stream stream(pool);
    double peak = 0;
    if (onednn && !onednn->set_threads(threads))
      fail("oneDNN's OpenMP does not take {} threads: unset OMP_THREAD_LIMIT, OMP_DYNAMIC", threads);
    for (const GemmShapeMNK& shape : request.shapes) {
      ShapeBench bench(shape, request, onednn, stream);
      for (const std::string& note : bench.notes()) notes.push_back(note);
      for (Json& row : bench.rows(peak)) {
        progress(row);
        rows.push_back(std::move(row));
      }
    }
  }
  Json out;
  out["cpu"] = cpu_model();
  out["isa"] = isa_name(allowed_isa());
  if (onednn) out["onednn"] = onednn->version();
  out["rows"] = std::move(rows);
  out["notes"] = std::move(notes);
  return out;
}

std::string gemm_table(const Json& rows) {
  std::string text = fmt::format("{:>5} {:>5} {:>5} {:>7}  {:<14} {:<6} {:<9} {:>8} {:>8} {:>6} {:>8}\n", "m", "n", "k",
                                 "threads", "kernel", "scales", "weights", "GFLOP/s", "oneDNN", "ratio", "ceiling");
  for (const Json& r : rows) {
    const bool peer = r.contains("peer");
    text += fmt::format("{:>5} {:>5} {:>5} {:>7}  {:<14} {:<6} {:<9} {:>8.1f} {:>8} {:>6} {:>7.0f}%\n", r["m"].get<int64_t>(),
                        r["n"].get<int64_t>(), r["k"].get<int64_t>(), r["threads"].get<int>(), r["kernel"].get<std::string>(),
                        r["scales"].get<std::string>(), r["weights"].get<std::string>(), r["gflops"].get<double>(),
                        peer ? fmt::format("{:.1f}", r["peer_gflops"].get<double>()) : "",
                        peer ? fmt::format("{:.2f}", r["ratio"].get<double>()) : "", 100 * r["share_of_ceiling"].get<double>());
  }
  return text;
}

}  // namespace rorqual
