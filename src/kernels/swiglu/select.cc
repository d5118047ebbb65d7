// SwiGLU: checks of arguments, the cut into tasks, the tables of rows.
#include <array>

#include "kernels/common/partition.h"
#include "kernels/common/quantise_rows.h"
#include "kernels/swiglu/kernels.h"

namespace rorqual {
namespace {

void check_shapes(const Tensor& gate_up, const Tensor& h) {
  CHECK(gate_up.rows == h.rows && gate_up.cols == 2 * h.cols, "[{}, {}] for [{}, {}]", gate_up.rows, gate_up.cols, h.rows,
        h.cols);
}
void check_per_row(const Tensor& weight, const Tensor& gate_up) {
  if (!weight) return;
  CHECK(weight.rows == 1 && weight.cols == gate_up.rows, "[{}, {}] for {} rows", weight.rows, weight.cols, gate_up.rows);
  CHECK(weight.dtype == (gate_up.dtype == DType::kF64 ? DType::kF64 : DType::kF32), "{} for {}", dtype_name(weight.dtype),
        dtype_name(gate_up.dtype));
}

// What the rows of an instruction set are made of.
struct Kernels {
  decltype(&swiglu_reference::forward) forward;
  decltype(&swiglu_reference::backward) backward;
  const QuantiseKernels& quantise;
  // Null in the reference.
  decltype(&swiglu_avx2::forward_quantised) forward_quantised;
  decltype(&swiglu_avx2::forward_of_codes) forward_of_codes;
  decltype(&swiglu_avx2::backward_of_codes) backward_of_codes;
};
constexpr Kernels kReference = {
    swiglu_reference::forward, swiglu_reference::backward, kQuantiseReference, nullptr, nullptr, nullptr};
constexpr Kernels kAvx2 = {swiglu_avx2::forward,           swiglu_avx2::backward,         kQuantiseAvx2,
                           swiglu_avx2::forward_quantised, swiglu_avx2::forward_of_codes, swiglu_avx2::backward_of_codes};
constexpr Kernels kAvx512 = {
    swiglu_avx512::forward,           swiglu_avx512::backward,         kQuantiseAvx512,
    swiglu_avx512::forward_quantised, swiglu_avx512::forward_of_codes, swiglu_avx512::backward_of_codes};

// What forward_of_codes and backward_of_codes take.
bool are_codes_in_units(const ScaledTensor& gate_up) {
  return gate_up.dtype() == DType::kE4M3 && gate_up.cols() % 128 == 0;
}

constexpr int64_t kChunk = 1024;  // columns of h that are computed and quantised while they lie in the first-level cache

double weight_of(const Tensor& weight, int64_t t) {
  if (!weight) return 1;
  return weight.dtype == DType::kF64 ? weight.ptr<double>()[t] : weight.ptr<float>()[t];
}

void check_coded(const ScaledTensor& x) {
  if (is_coded(x.dtype())) check_rows_coded(x);
}

// Columns of h of one row; gate_up is decoded first if it is coded.
struct ForwardRow {
  const Kernels& kernels;
  const SwiGluForwardArgs& args;
  std::array<float, kChunk + kScaleGroup> gate = {}, up = {}, scratch = {};

  void compute(int64_t t, int64_t begin, int64_t n, void* h, DType h_type) {
    const ScaledTensor& x = args.gate_up;
    const int64_t width = args.h.cols();
    const double weight = weight_of(args.weight, t);
    if (is_coded(x.dtype())) {
      const float* g = decoded(kernels.quantise, x, t, begin, n, gate.data());
      const float* u = decoded(kernels.quantise, x, t, width + begin, n, up.data());
      return kernels.forward(g, u, DType::kF32, weight, h, h_type, n);
    }
    const std::byte* row = x.codes.raw_row(t);
    kernels.forward(row + bytes_of(x.dtype(), begin), row + bytes_of(x.dtype(), width + begin), x.dtype(), weight, h, h_type,
                    n);
  }
  const void* operator()(int64_t t, int64_t begin, int64_t n) {
    compute(t, begin, n, scratch.data(), DType::kF32);
    return scratch.data();
  }
};

void check_forward(const SwiGluForwardArgs& args) {
  const ScaledTensor &x = args.gate_up, &cache = args.cache;
  check_shapes(x.codes, args.h.codes);
  check_per_row(args.weight, x.codes);
  check_coded(x);
  check_coded(args.h);
  if (!cache) return;
  check_shapes(cache.codes, args.h.codes);
  check_rows_coded(cache);
  CHECK(!is_coded(x.dtype()), "a cache of gate_up, which is one already");
}

// A scale of each group of h, and of the cache if there is one: values need not be stored.
bool is_in_groups(const Kernels& kernels, const SwiGluForwardArgs& args) {
  if (kernels.forward_quantised == nullptr || !is_coded(args.h.dtype())) return false;
  if (args.quantiser.granularity != Granularity::kGroup) return false;
  return !args.cache || args.cache_quantiser.granularity == Granularity::kGroup;
}

void forward_in_groups(const Kernels& kernels, const SwiGluForwardArgs& args, int64_t begin, int64_t end) {
  const ScaledTensor& x = args.gate_up;
  const int64_t width = args.h.cols();
  CountedRange of_h(args.quantiser), of_cache(args.cache_quantiser);
  ForwardRow row{kernels, args};
  for (int64_t t = begin; t < end; ++t) {
    const double weight = weight_of(args.weight, t);
    const std::byte* values = x.codes.raw_row(t);
    const QuantiseRow h = quantise_row_of(args.h, t, args.quantiser, of_h.counts());
    const int64_t ahead = bytes_to_rows_ahead(x.codes, t);
    if (are_codes_in_units(x)) {
      kernels.forward_of_codes(reinterpret_cast<const uint8_t*>(values), x.scales.row<float>(t), weight, ahead, h);
      continue;
    }
    if (is_coded(x.dtype())) {
      for (int64_t c = 0; c < width; c += kChunk) {
        const int64_t n = std::min(kChunk, width - c);
        const float* g = decoded(kernels.quantise, x, t, c, n, row.gate.data());
        const float* u = decoded(kernels.quantise, x, t, width + c, n, row.up.data());
        kernels.forward_quantised(g, u, DType::kF32, weight, 0, quantise_row_of(args.h, t, args.quantiser, of_h.counts(), c, n),
                                  nullptr, nullptr);
      }
      continue;
    }
    const std::byte* ups = values + bytes_of(x.dtype(), width);
    const auto cache = [&](int64_t c, int64_t n) {
      return quantise_row_of(args.cache, t, args.cache_quantiser, of_cache.counts(), c, n);
    };
    if (args.cache && width % kScaleGroup == 0) {
      const QuantiseRow of_gate = cache(0, width), of_up = cache(width, width);
      kernels.forward_quantised(values, ups, x.dtype(), weight, ahead, h, &of_gate, &of_up);
      continue;
    }
    if (args.cache) {  // a group holds ends of both
      QuantiseRow both = cache(0, 2 * width);
      both.x = values;
      both.x_type = x.dtype();
      kernels.quantise.row(both);
    }
    kernels.forward_quantised(values, ups, x.dtype(), weight, ahead, h, nullptr, nullptr);
  }
}

template <const Kernels& kKernels>
void run_forward(const SwiGluForwardArgs& args, const Stream& stream) {
  check_forward(args);
  const int64_t rows = args.h.rows(), width = args.h.cols();
  const bool code_h = is_coded(args.h.dtype()), code_cache = static_cast<bool>(args.cache);
  const int64_t bytes = row_bytes(args.gate_up.dtype(), 2 * width) + row_bytes(args.h.dtype(), width) +
                        (code_cache ? row_bytes(args.cache.dtype(), 2 * width) : 0);
  if (width > 0 && is_in_groups(kKernels, args)) {
    parallel_ranges(stream, rows, bytes, [&](int64_t begin, int64_t end) { forward_in_groups(kKernels, args, begin, end); });
    return;
  }
  const auto make_h = [&] { return row_task(ForwardRow{kKernels, args}, args.h); };
  const auto make_cache = [&] {
    const auto values = [&](int64_t t, int64_t, int64_t) -> const void* { return args.gate_up.codes.raw_row(t); };
    return row_task(values, args.cache);
  };
  const QuantiseShape shape_h{
      .rows = code_h ? rows : 0, .cols = width, .source = DType::kF32, .chunk = kChunk, .bytes_per_row = bytes};
  const QuantiseShape shape_cache{
      .rows = code_cache ? rows : 0, .cols = 2 * width, .source = args.gate_up.dtype(), .bytes_per_row = bytes};
  const QuantiseCall h(kKernels.quantise, stream, shape_h, args.quantiser, make_h);
  const QuantiseCall cache(kKernels.quantise, stream, shape_cache, args.cache_quantiser, make_cache);
  if (width == 0) return;
  parallel_ranges(
      stream, rows, bytes,
      [&](int64_t begin, int64_t end) {
        if (code_h) {
          h.range(begin, end);
        } else {
          ForwardRow row{kKernels, args};
          for (int64_t t = begin; t < end; ++t)
            for (int64_t c = 0; c < width; c += kChunk)
              row.compute(t, c, std::min(kChunk, width - c), args.h.codes.raw_row(t) + bytes_of(args.h.dtype(), c),
                          args.h.dtype());
        }
        if (code_cache) cache.range(begin, end);
      },
      std::max(code_h ? h.granule() : 1, code_cache ? cache.granule() : 1));
}

// One row of d_gate_up, and its d_weight.
struct BackwardRow {
  const Kernels& kernels;
  const SwiGluBackwardArgs& args;

  void compute(int64_t t, void* d_gate_up, DType d_type) const {
    const ScaledTensor& x = args.gate_up;
    const int64_t width = args.d_h.cols;
    const void* row = x.codes.raw_row(t);
    DType type = x.dtype();
    if (kernels.backward_of_codes != nullptr && are_codes_in_units(x) && d_type == DType::kF32) {
      put_weight(t,
                 kernels.backward_of_codes(static_cast<const uint8_t*>(row), x.scales.row<float>(t), weight_of(args.weight, t),
                                           args.d_h.raw_row(t), args.d_h.dtype, static_cast<float*>(d_gate_up), width));
      return;
    }
    if (is_coded(type)) {
      auto* scratch = static_cast<float*>(thread_scratch(0, 2 * width * static_cast<int64_t>(sizeof(float))));
      row = decoded(kernels.quantise, x, t, 0, 2 * width, scratch);
      type = DType::kF32;
    }
    put_weight(t, kernels.backward(row, type, weight_of(args.weight, t), args.d_h.raw_row(t), args.d_h.dtype, d_gate_up, d_type,
                                   width));
  }
  void put_weight(int64_t t, double d_weight) const {
    if (!args.d_weight) return;
    if (args.d_weight.dtype == DType::kF64)
      args.d_weight.ptr<double>()[t] = d_weight;
    else
      args.d_weight.ptr<float>()[t] = static_cast<float>(d_weight);
  }
  const void* operator()(int64_t t, int64_t, int64_t n) const {
    void* scratch = thread_scratch(1, n * static_cast<int64_t>(sizeof(float)));
    compute(t, scratch, DType::kF32);
    return scratch;
  }
};

template <const Kernels& kKernels>
void run_backward(const SwiGluBackwardArgs& args, const Stream& stream) {
  const Tensor &x = args.gate_up.codes, &d_x = args.d_gate_up.codes;
  check_shapes(x, args.d_h);
  check_shapes(d_x, args.d_h);
  check_per_row(args.weight, x);
  check_per_row(args.d_weight, x);
  check_coded(args.gate_up);
  check_coded(args.d_gate_up);
  CHECK(d_x.data != x.data || x.rows == 0 || (d_x.dtype == x.dtype && d_x.stride == x.stride && !is_coded(x.dtype)),
        "in place, but types or strides differ, or codes");
  const int64_t bytes = row_bytes(x.dtype, x.cols) + row_bytes(args.d_h.dtype, args.d_h.cols) + row_bytes(d_x.dtype, x.cols);
  if (is_coded(d_x.dtype)) {
    const QuantiseShape shape{.rows = x.rows, .cols = x.cols, .source = DType::kF32, .bytes_per_row = bytes};
    return quantise_rows(kKernels.quantise, stream, shape, args.quantiser, [&] {
      return row_task(BackwardRow{kKernels, args}, args.d_gate_up);
    });
  }
  parallel_ranges(stream, x.rows, bytes, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) BackwardRow{kKernels, args}.compute(t, d_x.raw_row(t), d_x.dtype);
  });
}

template <class Args>
std::string refuse_nothing(const Args&) {
  return {};
}
template <class Args>
std::string refuse_f64(const Args& args) {
  bool any = args.gate_up.codes.dtype == DType::kF64;
  if constexpr (requires { args.h.codes; }) any = any || args.h.codes.dtype == DType::kF64;
  if constexpr (requires { args.d_h; }) any = any || args.d_h.dtype == DType::kF64 || args.d_gate_up.codes.dtype == DType::kF64;
  return any ? "F64 belongs to the reference" : "";
}

}  // namespace

std::span<const KernelRow<SwiGluForwardArgs>> swiglu_forward_kernels() {
  static const std::array rows = {
      KernelRow<SwiGluForwardArgs>{"avx512", Isa::kAvx512, refuse_f64, run_forward<kAvx512>},
      KernelRow<SwiGluForwardArgs>{"avx2", Isa::kAvx2, refuse_f64, run_forward<kAvx2>},
      KernelRow<SwiGluForwardArgs>{"reference", Isa::kReference, refuse_nothing, run_forward<kReference>},
  };
  return rows;
}

std::span<const KernelRow<SwiGluBackwardArgs>> swiglu_backward_kernels() {
  static const std::array rows = {
      KernelRow<SwiGluBackwardArgs>{"avx512", Isa::kAvx512, refuse_f64, run_backward<kAvx512>},
      KernelRow<SwiGluBackwardArgs>{"avx2", Isa::kAvx2, refuse_f64, run_backward<kAvx2>},
      KernelRow<SwiGluBackwardArgs>{"reference", Isa::kReference, refuse_nothing, run_backward<kReference>},
  };
  return rows;
}

void swiglu_forward(const SwiGluForwardArgs& args, const Stream& stream) {
  run_best(swiglu_forward_kernels(), args, stream);
}
void swiglu_backward(const SwiGluBackwardArgs& args, const Stream& stream) {
  run_best(swiglu_backward_kernels(), args, stream);
}

}  // namespace rorqual
