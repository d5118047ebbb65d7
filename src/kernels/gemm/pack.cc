// Weights into panels: every element converted once, from the source's type to the panel's. Conversions are exact or round to
// nearest even, so AVX-512 (FP32 sources) and scalar code give the same bytes.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "base/cpu.h"
#include "kernels/gemm/check.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/kernels.h"
#include "kernels/gemm/pack_fp8.h"

namespace rorqual {
namespace {

// One panel of one weight.
struct PackTask {
  const PackWeightArgs* args = nullptr;
  bool transposed = false;
  int64_t panel_begin = 0, panel_end = 0;
};

constexpr int64_t kElementsPerTask = 1 << 16;

template <class To, class From>
void pack_panel(const PackWeightArgs& args, bool transposed, int64_t panel) {
  const PackedWeight& w = transposed ? args.transposed : args.packed;
  To* out = static_cast<To*>(w.data) + panel * gemm::panel_elements(w.dtype, w.k);
  const int64_t n0 = panel * 16, width = std::min<int64_t>(16, w.n - n0);
  if (width < 16 || w.k % 2 != 0) std::fill_n(out, gemm::panel_elements(w.dtype, w.k), To{});
  const auto* source = static_cast<const From*>(args.source.data);
  const int64_t stride = args.source.stride;
  int64_t begin = 0;  // the steps before are packed
  if constexpr (std::is_same_v<From, float> && !std::is_same_v<To, double>) {
    const gemm::PackPanel pack_panel = gemm::pack_panel_of(allowed_isa());
    if (width == 16 && pack_panel != nullptr)
      begin = pack_panel(source + n0 * (transposed ? 1 : stride), stride, transposed, w.k, w.dtype, out);
  }
  if (transposed) {
    for (int64_t k = begin; k < w.k; ++k)
      for (int64_t n = 0; n < width; ++n)
        out[gemm::panel_index<To>(n, k)] = static_cast<To>(static_cast<compute_t<From>>(source[k * stride + n0 + n]));
  } else {
    for (int64_t n = 0; n < width; ++n)
      for (int64_t k = begin; k < w.k; ++k)
        out[gemm::panel_index<To>(n, k)] = static_cast<To>(static_cast<compute_t<From>>(source[(n0 + n) * stride + k]));
  }
}

void add_tasks(const PackWeightArgs& args, bool transposed, std::vector<PackTask>& tasks) {
  const PackedWeight& w = transposed ? args.transposed : args.packed;
  if (!w) return;
  const int64_t panels = (w.n + 15) / 16;
  const int64_t step = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, gemm::panel_elements(w.dtype, w.k)));
  for (int64_t p = 0; p < panels; p += step) tasks.push_back({&args, transposed, p, std::min(p + step, panels)});
}

}  // namespace

void pack_weights(std::span<const PackWeightArgs> list, const Stream& stream) {
  std::vector<PackTask> tasks;
  std::vector<const PackWeightArgs*> fp8;
  for (const PackWeightArgs& args : list) {
    gemm::check(args);
    for (const PackedWeight& w : {args.packed, args.transposed})
      CHECK(w.layout == PackedWeight::Layout::kPanels, "pack_weights: into rows, which are a GPU's");
    if ((args.packed ? args.packed : args.transposed).dtype == DType::kE4M3) {
      fp8.push_back(&args);
      continue;
    }
    add_tasks(args, false, tasks);
    add_tasks(args, true, tasks);
  }
  stream.parallel(static_cast<int64_t>(tasks.size()), [&](int64_t t) {
    const PackTask& task = tasks[static_cast<size_t>(t)];
    const PackWeightArgs& args = *task.args;
    visit_float((task.transposed ? args.transposed : args.packed).dtype, [&](auto to) {
      visit_float(args.source.dtype, [&](auto from) {
        for (int64_t p = task.panel_begin; p < task.panel_end; ++p)
          pack_panel<decltype(to), decltype(from)>(args, task.transposed, p);
      });
    });
  });
  gemm::pack_fp8(fp8, stream);
}

}  // namespace rorqual
