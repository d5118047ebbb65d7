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

constexpr std::array kForward{
    KernelRow<EmbeddingForwardArgs>{"reference", Isa::kReference, accept<EmbeddingForwardArgs>, forward_reference}};
constexpr std::array kBackward{
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
