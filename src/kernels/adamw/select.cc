// The table of AdamW kernels, the checks of their arguments and the partition of their work.
#include <algorithm>
#include <array>

#include "kernels/adamw/kernels.h"

namespace rorqual {
namespace adamw_detail {

Partition cut_work(const AdamWArgs& args) {
  Partition p;
  int64_t elements = kBlockElements;  // of the open task; full at the start, so that the first block opens one
  for (size_t i = 0; i < args.tensors.size(); ++i) {
    const int64_t count = args.tensors[i].w.count();
    for (int64_t begin = 0; begin < count; begin += kBlockElements) {
      const int64_t n = std::min(kBlockElements, count - begin);
      if (elements + n > kBlockElements) {
        p.task_begin.push_back(static_cast<int64_t>(p.blocks.size()));
        elements = 0;
      }
      elements += n;
      p.blocks.push_back({static_cast<int64_t>(i), begin, n});
    }
  }
  p.task_begin.push_back(static_cast<int64_t>(p.blocks.size()));
  return p;
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
  CHECK(!t.copy && !t.copy_transposed, "adamw: a coded copy of tensor {}, which GPUs make", i);
}

std::string accept(const AdamWArgs&) {
  return {};
}

std::string refuse_vector(const AdamWArgs& args) {
  for (const AdamWTensor& t : args.tensors)
    if (t.w.dtype != DType::kF32) return "weights are not F32";
  return {};
}

template <const RunBlock& run_block>
void run_vector(const AdamWArgs& args, const Stream& stream) {
  const Partition work = cut_work(args);
  std::vector<Coefficients<float>> constants;
  for (const AdamWTensor& t : args.tensors) constants.push_back(coefficients<float>(args, t.decay));
  const auto from = [](const Tensor& x, int64_t begin) -> void* {
    return static_cast<std::byte*>(x.data) + begin * size_of(x.dtype);
  };
  stream.parallel(work.tasks(), [&](int64_t task) {
    for (int64_t i = work.task_begin[task]; i < work.task_begin[task + 1]; ++i) {
      const BlockRange& b = work.blocks[i];
      const AdamWTensor& t = args.tensors[static_cast<size_t>(b.tensor)];
      run_block({.w = t.w.ptr<float>() + b.begin,
                 .g = t.g.ptr<float>() + b.begin,
                 .m = from(t.m, b.begin),
                 .v = from(t.v, b.begin),
                 .m_is_bf16 = t.m.dtype == DType::kBF16,
                 .v_is_bf16 = t.v.dtype == DType::kBF16,
                 .count = b.count,
                 .c = constants[static_cast<size_t>(b.tensor)]});
    }
  });
}

constexpr std::array kRows{KernelRow<AdamWArgs>{"avx512", Isa::kAvx512, refuse_vector, run_vector<kAvx512>},
                           KernelRow<AdamWArgs>{"avx2", Isa::kAvx2, refuse_vector, run_vector<kAvx2>},
                           KernelRow<AdamWArgs>{"reference", Isa::kReference, accept, run_reference}};

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
