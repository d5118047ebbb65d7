// The table of embedding kernels, the checks of their arguments and the partition of their work.
#include <algorithm>
#include <array>

#include "kernels/embedding/kernels.h"

namespace rorqual {
namespace embedding {

// About 64 KiB read and written per task.
int64_t forward_rows_per_task(int64_t d) {
  return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, d));
}

// Each task owns columns and walks all tokens, so no two tasks meet. Whole cache lines of the gradient; at least about 16k
// elements.
int64_t backward_cols_per_task(int64_t tokens, int64_t d) {
  const int64_t wanted = 16384 / std::max<int64_t>(1, tokens);
  return std::max<int64_t>(64, std::min((wanted + 15) / 16 * 16, (d + 15) / 16 * 16));
}

namespace {

void check_tokens(const int32_t* token, int64_t tokens, int64_t vocabulary) {
  CHECK(token != nullptr || tokens == 0, "embedding: no tokens given");
  for (int64_t t = 0; t < tokens; ++t)
    CHECK(token[t] >= 0 && token[t] < vocabulary, "embedding: token[{}] is {}, the table has {} rows", t, token[t], vocabulary);
}

template <class Args>
std::string accept(const Args&) {
  return {};
}

std::string refuse_forward(const EmbeddingForwardArgs& a) {
  if (a.table.dtype != DType::kF32) return "the table is not F32";
  return a.y.dtype == DType::kF32 || a.y.dtype == DType::kBF16 ? "" : "y is neither F32 nor BF16";
}

std::string refuse_backward(const EmbeddingBackwardArgs& a) {
  if (a.d_table.dtype != DType::kF32) return "the gradient of the table is not F32";
  return a.d_y.dtype == DType::kF32 || a.d_y.dtype == DType::kBF16 ? "" : "d_y is neither F32 nor BF16";
}

template <const VectorKernels& kernels>
void forward(const EmbeddingForwardArgs& a, const Stream& stream) {
  const auto copy = kernels.copy[a.y.dtype == DType::kBF16];
  const int64_t step = forward_rows_per_task(a.y.cols);
  stream.parallel((a.y.rows + step - 1) / step, [&](int64_t task) {
    for (int64_t t = task * step; t < std::min(a.y.rows, (task + 1) * step); ++t)
      copy(a.table.row<float>(a.token[t]), a.y.cols, a.y.raw_row(t));
  });
}

template <const VectorKernels& kernels>
void backward(const EmbeddingBackwardArgs& a, const Stream& stream) {
  const auto add = kernels.add[a.d_y.dtype == DType::kBF16];
  const int64_t cols = a.d_y.cols, step = backward_cols_per_task(a.d_y.rows, cols);
  stream.parallel((cols + step - 1) / step, [&](int64_t task) {
    const int64_t begin = task * step, count = std::min(cols - begin, step);
    add(a.token, a.d_y.rows, a.d_y.col_range(begin, count).data, a.d_y.stride, count, a.d_table.ptr<float>() + begin,
        a.d_table.stride);
  });
}

constexpr std::array kForward{
    KernelRow<EmbeddingForwardArgs>{"avx512", Isa::kAvx512, refuse_forward, forward<kAvx512>},
    KernelRow<EmbeddingForwardArgs>{"avx2", Isa::kAvx2, refuse_forward, forward<kAvx2>},
    KernelRow<EmbeddingForwardArgs>{"reference", Isa::kReference, accept<EmbeddingForwardArgs>, forward_reference}};
constexpr std::array kBackward{
    KernelRow<EmbeddingBackwardArgs>{"avx512", Isa::kAvx512, refuse_backward, backward<kAvx512>},
    KernelRow<EmbeddingBackwardArgs>{"avx2", Isa::kAvx2, refuse_backward, backward<kAvx2>},
    KernelRow<EmbeddingBackwardArgs>{"reference", Isa::kReference, accept<EmbeddingBackwardArgs>, backward_reference}};

}  // namespace
}  // namespace embedding

std::span<const KernelRow<EmbeddingForwardArgs>> embedding_forward_kernels() {
  return embedding::kForward;
}

std::span<const KernelRow<EmbeddingBackwardArgs>> embedding_backward_kernels() {
  return embedding::kBackward;
}

void embedding_forward(const EmbeddingForwardArgs& args, const Stream& stream) {
  CHECK(args.table.cols == args.y.cols, "embedding: table has {} columns, y {}", args.table.cols, args.y.cols);
  embedding::check_tokens(args.token, args.y.rows, args.table.rows);
  run_best(embedding_forward_kernels(), args, stream);
}

void embedding_backward(const EmbeddingBackwardArgs& args, const Stream& stream) {
  CHECK(args.d_table.cols == args.d_y.cols, "embedding: d_table has {} columns, d_y {}", args.d_table.cols, args.d_y.cols);
  embedding::check_tokens(args.token, args.d_y.rows, args.d_table.rows);
  run_best(embedding_backward_kernels(), args, stream);
}

}  // namespace rorqual
