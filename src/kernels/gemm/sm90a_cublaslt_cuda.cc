#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <bit>
#include <map>
#include <mutex>

#include "hopper/runtime.h"
#include "kernels/gemm/sm90a_cublaslt.h"

namespace rorqual {
namespace {

// D [rows, columns] (+)= op(A)·op(B) as cuBLASLt sees matrices, columns contiguous. Our row-major C is its transpose, so its A
// is our B and the other way round.
struct Operand {
  const void* data;
  int64_t stride;       // from column to column, in elements
  bool transposed;      // memory holds [depth, rows] (A), [columns, depth] (B)
  const float* scale;   // FP8
  bool scale_is_block;  // one per 128×128, not per 128 of the depth
};
struct Product {
  int64_t rows, columns, depth;
  cudaDataType_t operands, out;
  Operand a, b;
  void* d;
  int64_t d_stride;
  bool accumulate;
};

std::string describe(const Product& p) {
  return fmt::format("cuBLASLt, D [{}, {}] over {}, types {} and {}, strides {}, {} and {}", p.rows, p.columns, p.depth,
                     static_cast<int>(p.operands), static_cast<int>(p.out), p.a.stride, p.b.stride, p.d_stride);
}
void check(cublasStatus_t status, const Product& p) {
  if (status != CUBLAS_STATUS_SUCCESS) fail("{}: {}", describe(p), cublasLtGetStatusString(status));
}

// At most 256, what the library tells apart.
uint32_t alignment(const void* p) {
  return 1u << std::min(8, std::countr_zero(reinterpret_cast<uintptr_t>(p) | 256));
}

// All that the choice of an algorithm depends on.
using Shape = std::array<int64_t, 15>;
Shape shape_of(const Product& p) {
  return {p.rows,
          p.columns,
          p.depth,
          p.operands,
          p.out,
          p.a.stride,
          p.b.stride,
          p.d_stride,
          p.a.transposed,
          p.b.transposed,
          p.a.scale_is_block,
          p.b.scale_is_block,
          alignment(p.a.data),
          alignment(p.b.data),
          alignment(p.d)};
}

struct Plan {
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t a, b, d;
  cublasLtMatmulAlgo_t algorithm;
};

class CublasLt {
 public:
  void run(const Product& p, const Stream& stream) {
    if (p.rows == 0 || p.columns == 0) return;
    const std::lock_guard lock(mutex_);
    if (handle_ == nullptr) {
      check(cublasLtCreate(&handle_), p);
      workspace_ = hopper::DeviceBuffer(kWorkspaceBytes);
    }
    const auto [found, is_new] = plans_.try_emplace(shape_of(p));
    Plan& plan = found->second;
    if (is_new) {
      try {
        make(p, plan);
      } catch (...) {
        plans_.erase(found);
        throw;
      }
    }
    set_scales(p, plan);
    const float one = 1, zero = 0;
    check(cublasLtMatmul(handle_, &plan.operation, &one, p.a.data, &plan.a, p.b.data, &plan.b, p.accumulate ? &one : &zero, p.d,
                         &plan.d, p.d, &plan.d, &plan.algorithm, workspace_.data(), workspace_.bytes(),
                         static_cast<cudaStream_t>(stream.device_stream())),
          p);
  }

 private:
  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;

  template <class T>
  void set(Plan& plan, cublasLtMatmulDescAttributes_t attribute, const T& value, const Product& p) {
    check(cublasLtMatmulDescSetAttribute(&plan.operation, attribute, &value, sizeof value), p);
  }

  void set_scales(const Product& p, Plan& plan) {
    if (p.operands != CUDA_R_8F_E4M3) return;
    const auto mode = [](const Operand& x) -> int32_t {
      return x.scale_is_block ? CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F : CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F;
    };
    set(plan, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, mode(p.a), p);
    set(plan, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, mode(p.b), p);
    set(plan, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, p.a.scale, p);
    set(plan, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, p.b.scale, p);
  }

  void make(const Product& p, Plan& plan) {
    check(cublasLtMatmulDescInit(&plan.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), p);
    set(plan, CUBLASLT_MATMUL_DESC_TRANSA, p.a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N, p);
    set(plan, CUBLASLT_MATMUL_DESC_TRANSB, p.b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N, p);
    set_scales(p, plan);
    const auto layout = [&](cublasLtMatrixLayoutOpaque_t& to, cudaDataType_t type, int64_t rows, int64_t columns,
                            bool transposed, int64_t stride) {
      if (transposed) std::swap(rows, columns);
      check(cublasLtMatrixLayoutInit(&to, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(columns), stride), p);
    };
    layout(plan.a, p.operands, p.rows, p.depth, p.a.transposed, p.a.stride);
    layout(plan.b, p.operands, p.depth, p.columns, p.b.transposed, p.b.stride);
    layout(plan.d, p.out, p.rows, p.columns, false, p.d_stride);

    cublasLtMatmulPreferenceOpaque_t preference;
    check(cublasLtMatmulPreferenceInit(&preference), p);
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      check(cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof value), p);
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kWorkspaceBytes});
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_NONE});
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(p.a.data));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(p.b.data));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(p.d));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(p.d));
    cublasLtMatmulHeuristicResult_t best{};
    int count = 0;
    check(cublasLtMatmulAlgoGetHeuristic(handle_, &plan.operation, &plan.a, &plan.b, &plan.d, &plan.d, &preference, 1, &best,
                                         &count),
          p);
    if (count == 0) fail("{}: no algorithm", describe(p));
    check(best.state, p);
    plan.algorithm = best.algo;
  }

  std::mutex mutex_;
  cublasLtHandle_t handle_ = nullptr;
  hopper::DeviceBuffer workspace_;
  std::map<Shape, Plan> plans_;
};

// Never destroyed: CUDA may be gone by then.
CublasLt& cublaslt() {
  static CublasLt& instance = *new CublasLt;
  return instance;
}

cudaDataType_t cuda_type(DType dtype) {
  return dtype == DType::kE4M3 ? CUDA_R_8F_E4M3 : dtype == DType::kBF16 ? CUDA_R_16BF : CUDA_R_32F;
}
bool is_out(DType dtype) {
  return dtype == DType::kBF16 || dtype == DType::kF32;
}

// Strides that a matrix of one row need not have.
int64_t stride_of(const Tensor& t) {
  return std::max(t.stride, t.cols);
}

std::string refuse_plain(const char* name, const ScaledTensor& t) {
  if (t.dtype() != DType::kBF16 || !t.is_plain()) return fmt::format("{} holds {}, not BF16", name, dtype_name(t.dtype()));
  return {};
}

}  // namespace

std::string refuse_linear_cublaslt(const LinearArgs& args) {
  if (args.accumulator != Accumulator{}) return "another accumulator than FP32";
  for (const LinearProblem& p : args.problems) {
    if (std::string reason = refuse_plain("A", p.a); !reason.empty()) return reason;
    if (p.b.dtype != DType::kBF16) return fmt::format("the weight holds {}, not BF16", dtype_name(p.b.dtype));
    if (p.b.layout != PackedWeight::Layout::kRows) return "the weight is in panels, which are for CPUs";
    if (!is_out(p.c.dtype)) return fmt::format("C holds {}, not BF16 or F32", dtype_name(p.c.dtype));
    if (p.a.cols() != p.b.k || p.c.rows != p.a.rows() || p.c.cols != p.b.n)
      return fmt::format("[{}, {}] · [{}, {}]ᵀ into [{}, {}]", p.a.rows(), p.a.cols(), p.b.n, p.b.k, p.c.rows, p.c.cols);
  }
  return {};
}

void linear_cublaslt(const LinearArgs& args, const Stream& stream) {
  const std::string reason = refuse_linear_cublaslt(args);
  CHECK(reason.empty(), "linear_cublaslt: {}", reason);
  for (const LinearProblem& p : args.problems)
    cublaslt().run({.rows = p.b.n,
                    .columns = p.a.rows(),
                    .depth = p.b.k,
                    .operands = CUDA_R_16BF,
                    .out = cuda_type(p.c.dtype),
                    .a = {p.b.data, p.b.k, true, nullptr, false},
                    .b = {p.a.codes.data, stride_of(p.a.codes), false, nullptr, false},
                    .d = p.c.data,
                    .d_stride = stride_of(p.c),
                    .accumulate = args.accumulate},
                   stream);
}

std::string refuse_weight_gradient_cublaslt(const WeightGradientArgs& args) {
  if (args.accumulator != Accumulator{}) return "another accumulator than FP32";
  for (const WeightGradientProblem& p : args.problems) {
    if (std::string reason = refuse_plain("A", p.a); !reason.empty()) return reason;
    if (std::string reason = refuse_plain("B", p.b); !reason.empty()) return reason;
    if (p.c.dtype != DType::kF32) return fmt::format("C holds {}, not F32", dtype_name(p.c.dtype));
    if (p.a.rows() != p.b.rows() || p.c.rows != p.a.cols() || p.c.cols != p.b.cols() || !p.c.contiguous())
      return fmt::format("[{}, {}]ᵀ · [{}, {}] into [{}, {}], stride {}", p.a.rows(), p.a.cols(), p.b.rows(), p.b.cols(),
                         p.c.rows, p.c.cols, p.c.stride);
  }
  return {};
}

void weight_gradient_cublaslt(const WeightGradientArgs& args, const Stream& stream) {
  const std::string reason = refuse_weight_gradient_cublaslt(args);
  CHECK(reason.empty(), "weight_gradient_cublaslt: {}", reason);
  for (const WeightGradientProblem& p : args.problems) {
    if (p.a.rows() == 0) continue;
    cublaslt().run({.rows = p.c.cols,
                    .columns = p.c.rows,
                    .depth = p.a.rows(),
                    .operands = CUDA_R_16BF,
                    .out = CUDA_R_32F,
                    .a = {p.b.codes.data, stride_of(p.b.codes), false, nullptr, false},
                    .b = {p.a.codes.data, stride_of(p.a.codes), true, nullptr, false},
                    .d = p.c.data,
                    .d_stride = p.c.cols,
                    .accumulate = true},
                   stream);
  }
}

void multiply_fp8_cublaslt(const Fp8ProductCublaslt& p, const Stream& stream) {
  const int64_t m = p.a.rows, n = p.b.rows, k = p.a.cols;
  CHECK(p.b.cols == k && p.c.rows == m && p.c.cols == n && p.a.dtype == DType::kE4M3 && p.b.dtype == DType::kE4M3 &&
            is_out(p.c.dtype),
        "multiply_fp8_cublaslt: {} [{}, {}] · {} [{}, {}]ᵀ into {} [{}, {}]", dtype_name(p.a.dtype), m, k,
        dtype_name(p.b.dtype), n, p.b.cols, dtype_name(p.c.dtype), p.c.rows, p.c.cols);
  CHECK(m % 4 == 0 && n % 4 == 0 && k % 16 == 0, "multiply_fp8_cublaslt: m {}, n {}, k {}", m, n, k);
  for (const void* data : std::initializer_list<const void*>{p.a.data, p.b.data, p.c.data, p.a_scale, p.b_scale})
    CHECK(alignment(data) >= 16, "multiply_fp8_cublaslt: {} is not aligned to 16 bytes", data);
  cublaslt().run({.rows = n,
                  .columns = m,
                  .depth = k,
                  .operands = CUDA_R_8F_E4M3,
                  .out = cuda_type(p.c.dtype),
                  .a = {p.b.data, stride_of(p.b), true, p.b_scale, p.b_blocks},
                  .b = {p.a.data, stride_of(p.a), false, p.a_scale, false},
                  .d = p.c.data,
                  .d_stride = stride_of(p.c),
                  .accumulate = p.accumulate},
                 stream);
}

}  // namespace rorqual
