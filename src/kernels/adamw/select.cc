// The table of AdamW kernels, the checks of their arguments and the partition of their work.
#include <algorithm>
#include <array>

#include "kernels/adamw/kernels.h"

namespace rorqual {
namespace adamw_detail {

std::vector<BlockRange> cut_blocks(const AdamWArgs& args) {
  std::vector<BlockRange> blocks;
  for (size_t i = 0; i < args.tensors.size(); ++i) {
    const int64_t count = args.tensors[i].w.count();
    for (int64_t begin = 0; begin < count; begin += kBlockElements)
      blocks.push_back({static_cast<int64_t>(i), begin, std::min(kBlockElements, count - begin)});
  }
  return blocks;
}

namespace {

void check_tensor(const AdamWTensor& t, size_t i) {
  const int64_t count = t.w.count();
  CHECK(t.w.dtype == DType::kF32 || t.w.dtype == DType::kF64, "adamw: weights of tensor {} are {}", i, dtype_name(t.w.dtype));
  CHECK(t.g.dtype == t.w.dtype, "adamw: tensor {} has {} weights and {} gradients", i, dtype_name(t.w.dtype),
        dtype_name(t.g.dtype));
  for (const Tensor& x : {t.w, t.g, t.m, t.v})
    CHECK(x.count() == count && x.contiguous(), "adamw: tensor {} has {} weights, a part has {}x{} stride {}", i, count, x.rows,
          x.cols, x.stride);
  for (const Tensor& x : {t.m, t.v})
    CHECK(x.dtype == t.w.dtype || (t.w.dtype == DType::kF32 && x.dtype == DType::kBF16),
          "adamw: tensor {} has {} weights and {} moments", i, dtype_name(t.w.dtype), dtype_name(x.dtype));
}

std::string accept(const AdamWArgs&) {
  return {};
}

constexpr std::array kRows{KernelRow<AdamWArgs>{"reference", Isa::kReference, accept, run_reference}};

}  // namespace
}  // namespace adamw_detail

std::span<const KernelRow<AdamWArgs>> adamw_kernels() {
  return adamw_detail::kRows;
}

void adamw(const AdamWArgs& args, const Stream& stream) {
  CHECK(args.step >= 1, "adamw: step {} (the first is 1)", args.step);
  for (size_t i = 0; i < args.tensors.size(); ++i) adamw_detail::check_tensor(args.tensors[i], i);
  run_best(adamw_kernels(), args, stream);
}

}  // namespace rorqual
