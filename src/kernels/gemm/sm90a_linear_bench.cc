// The FP8 products at the shapes whose speed on H800 was published (specification §2.4), dense, grouped and masked, each by
// turns with cuBLASLt's FP8 of the same scales and with BF16. FLOPs: 2·M·N·K; bytes: operands and result once, without scales,
// as published.
#include <fmt/format.h>

#include <span>

#include "kernels/common/sm90a_figure.h"
#include "kernels/gemm/sm90a.h"
#include "kernels/gemm/sm90a_linear_testing.h"
#include "kernels/gemm/sm90a_peers.h"

namespace rorqual {
namespace {

using ::rorqual::testing::add_figure;
using ::rorqual::testing::DeviceMemory;
using ::rorqual::testing::Figure;
using ::rorqual::testing::sized;

struct Shape {
  int64_t groups, m, n, k;
  bool masked = false;
};

// One set of operands: `groups` weights, and the rows of all groups in one matrix.
struct Operands {
  ScaledTensor a;
  Tensor b, b_scale, c;
  Tensor a_scale_columns, b_scale_padded;  // as cuBLASLt wants them, of one group
  std::vector<LinearProblem> problems;
};

// Masked: every group has room for twice its rows.
Operands make_operands(DeviceMemory& memory, const Shape& s, DType dtype, ScaleRule rule) {
  const int64_t room = s.masked ? 2 * s.m : s.m;
  const bool fp8 = dtype == DType::kE4M3;
  Operands o;
  o.a = fp8 ? memory.codes(s.groups * room, s.k, ScaledTensor::Group::kRow, rule) : memory.random(dtype, s.groups * room, s.k);
  o.b = memory.random(dtype, s.groups * s.n, s.k);
  o.c = memory.blank(DType::kBF16, s.groups * room, s.n);
  const int32_t* rows_in_use = nullptr;
  if (s.masked) rows_in_use = memory.values(std::vector<int32_t>(static_cast<size_t>(s.groups), static_cast<int32_t>(s.m)));
  const int64_t scales = PackedWeight::scale_count(s.n, s.k);
  if (fp8) o.b_scale = memory.scales(1, (s.groups * scales + 3) / 4 * 4, rule);
  for (int64_t g = 0; g < s.groups; ++g) {
    PackedWeight weight{o.b.row_range(g * s.n, s.n).data, dtype, s.n, s.k};
    weight.layout = PackedWeight::Layout::kRows;
    if (fp8) weight.scale = o.b_scale.ptr<float>() + g * scales;
    o.problems.push_back({o.a.row_range(g * room, room), weight, o.c.row_range(g * room, room),
                          rows_in_use == nullptr ? nullptr : rows_in_use + g});
  }
  return o;
}

LinearArgs args_of(const Operands& o, ScaleRule rule) {
  return {.problems = o.problems, .scales = rule};
}

// Dense products, or one call for each group.
void add_cublaslt_fp8(Figure& figure, const Shape& s, const std::shared_ptr<std::vector<Operands>>& sets) {
  const int64_t steps = scale_groups(s.k), padded_steps = (steps + 3) / 4 * 4;
  for (Operands& o : *sets) {
    o.a_scale_columns = figure.memory.scales(1, steps * s.m, ScaleRule::kFp32);
    o.b_scale_padded = figure.memory.scales(1, scale_groups(s.n) * padded_steps, ScaleRule::kFp32);
  }
  figure.add("cublaslt_fp8", "", [=](int set, const Stream& stream) {
    const Operands& o = (*sets)[static_cast<size_t>(set)];
    for (int64_t g = 0; g < s.groups; ++g)
      product_peers().fp8(o.a.codes.row_range(g * s.m, s.m), o.a_scale_columns, o.b.row_range(g * s.n, s.n), o.b_scale_padded,
                          o.c.row_range(g * s.m, s.m), true, false, stream);
  });
}

void linear_figure(Figure& figure, Shape s, ScaleRule rule) {
  s = {sized(s.groups, 2), sized(s.m, 64), sized(s.n, 192), sized(s.k, 256), s.masked};
  const auto macs = static_cast<double>(s.groups * s.m * s.n * s.k);
  const int64_t bytes = s.groups * (s.m * s.k + s.n * s.k + 2 * s.m * s.n);
  figure.set_work({.flops = 2 * macs, .bytes = static_cast<double>(bytes)}, bytes);
  auto fp8 = std::make_shared<std::vector<Operands>>();
  for (int set = 0; set < figure.set_count(); ++set) fp8->push_back(make_operands(figure.memory, s, DType::kE4M3, rule));
  figure.add("ours", refuse_linear_sm90a(args_of(fp8->front(), rule)),
             [=](int set, const Stream& stream) { linear_sm90a(args_of((*fp8)[static_cast<size_t>(set)], rule), stream); });
  if (s.masked || !product_peers().linear) return;
  add_cublaslt_fp8(figure, s, fp8);
  auto bf16 = std::make_shared<std::vector<Operands>>();
  for (int set = 0; set < figure.set_count(); ++set) bf16->push_back(make_operands(figure.memory, s, DType::kBF16, rule));
  figure.add("cublaslt_bf16", "", [=](int set, const Stream& stream) {
    product_peers().linear(args_of((*bf16)[static_cast<size_t>(set)], rule), stream);
  });
}

// Every tile by turns, the chosen one first: counters vs_ROWSxCOLUMNS… above 1 say that the choice is right.
void tiles_figure(Figure& figure, Shape s) {
  s = {sized(s.groups, 2), sized(s.m, 64), sized(s.n, 192), sized(s.k, 256), s.masked};
  const int64_t bytes = s.groups * (s.m * s.k + s.n * s.k + 2 * s.m * s.n);
  figure.set_work({.flops = 2 * static_cast<double>(s.groups * s.m * s.n * s.k), .bytes = static_cast<double>(bytes)}, bytes);
  auto sets = std::make_shared<std::vector<Operands>>();
  for (int set = 0; set < figure.set_count(); ++set)
    sets->push_back(make_operands(figure.memory, s, DType::kE4M3, ScaleRule::kFp32));
  const auto args = [sets](int set) { return args_of((*sets)[static_cast<size_t>(set)], ScaleRule::kFp32); };
  figure.add("chosen", refuse_linear_sm90a(args(0)), [=](int set, const Stream& stream) { linear_sm90a(args(set), stream); });
  for (const gemm::LinearTile& tile : gemm::linear_tiles()) {
    const char* share = tile.share == gemm::Share::kA ? "_a" : tile.share == gemm::Share::kB ? "_b" : "";
    figure.add(fmt::format("{}x{}{}", tile.rows, tile.columns, share), "",
               [=](int set, const Stream& stream) { gemm::linear_with_tile(args(set), tile, stream); });
  }
}

struct Weight {
  int64_t n, k;
};
constexpr Weight kDense[] = {{2112, 7168}, {24576, 1536}, {32768, 512}, {7168, 16384}, {4096, 7168}, {7168, 2048}};
constexpr Weight kExperts[] = {{4096, 7168}, {7168, 2048}};

std::string name_of(const Shape& s) {
  return s.groups == 1 && !s.masked ? fmt::format("{}x{}/m{}", s.n, s.k, s.m)
                                    : fmt::format("{}x{}/{}x{}", s.n, s.k, s.groups, s.m);
}
void add(const char* kind, const Shape& s, ScaleRule rule = ScaleRule::kFp32) {
  add_figure(fmt::format("{}/{}{}", kind, name_of(s), rule == ScaleRule::kPow2 ? "/pow2" : ""),
             [=](Figure& figure) { linear_figure(figure, s, rule); });
}

// Of the shapes, one is enough for the emulator.
template <size_t kCount>
std::span<const Weight> shapes(const Weight (&all)[kCount]) {
  return std::span(all).first(static_cast<size_t>(sized(kCount, 1)));
}

const bool kRegistered = [] {
  for (const int64_t m : {64, 128, 4096})
    for (const auto& [n, k] : shapes(kDense)) add("fp8_linear", {1, m, n, k});
  add("fp8_linear", {1, 4096, 4096, 7168}, ScaleRule::kPow2);
  for (const int64_t m : {4096, 128, 64}) {
    for (const auto& [n, k] : shapes(kDense))
      add_figure("tiles/" + name_of({1, m, n, k}), [=](Figure& figure) { tiles_figure(figure, {1, m, n, k}); });
    if (hopper::is_emulated()) break;
  }
  for (const auto& [n, k] : shapes(kExperts)) {
    add("fp8_grouped", {4, 8192, n, k});
    add("fp8_grouped", {8, 4096, n, k});
    for (const int64_t groups : {1, 2, 4}) add("fp8_masked", {groups, 1024 / groups, n, k, true});
  }
  return true;
}();

}  // namespace
}  // namespace rorqual
