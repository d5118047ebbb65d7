// Scalar truth of the embedding. Conversion rounds to nearest even; a BF16 value from an F64 table goes through F32.
#include <algorithm>
#include <type_traits>

#include "kernels/embedding/kernels.h"

namespace rorqual::embedding {
namespace {

template <class From, class To>
void copy_rows(const EmbeddingForwardArgs& a, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const From* from = a.table.row<From>(a.token[t]);
    To* to = a.y.row<To>(t);
    for (int64_t c = 0; c < a.y.cols; ++c) to[c] = static_cast<To>(from[c]);
  }
}

// Tokens ascending, so that every element of the table receives its addends in one order.
template <class From, class To>
void add_columns(const EmbeddingBackwardArgs& a, int64_t begin, int64_t end) {
  for (int64_t t = 0; t < a.d_y.rows; ++t) {
    const From* from = a.d_y.row<From>(t);
    To* to = a.d_table.row<To>(a.token[t]);
    for (int64_t c = begin; c < end; ++c) to[c] += static_cast<To>(from[c]);
  }
}

}  // namespace

void forward_reference(const EmbeddingForwardArgs& args, const Stream& stream) {
  const int64_t step = forward_rows_per_task(args.y.cols);
  const int64_t tasks = (args.y.rows + step - 1) / step;
  visit_float(args.table.dtype, [&](auto from) {
    visit_float(args.y.dtype, [&](auto to) {
      stream.parallel(tasks, [&](int64_t task) {
        copy_rows<decltype(from), decltype(to)>(args, task * step, std::min(args.y.rows, (task + 1) * step));
      });
    });
  });
}

void backward_reference(const EmbeddingBackwardArgs& args, const Stream& stream) {
  const int64_t step = backward_cols_per_task(args.d_y.rows, args.d_y.cols);
  const int64_t tasks = (args.d_y.cols + step - 1) / step;
  visit_float(args.d_y.dtype, [&](auto from) {
    visit_float(args.d_table.dtype, [&](auto to) {
      using To = decltype(to);
      if constexpr (std::is_same_v<To, Bf16>) {
        CHECK(false, "embedding: d_table is BF16; gradients are accumulated in F32 or F64");
      } else {
        stream.parallel(tasks, [&](int64_t task) {
          add_columns<decltype(from), To>(args, task * step, std::min(args.d_y.cols, (task + 1) * step));
        });
      }
    });
  });
}

}  // namespace rorqual::embedding
