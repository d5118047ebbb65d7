#include "kernels/common/all.h"

#include "kernels/adamw/adamw.h"
#include "kernels/attention/attention.h"
#include "kernels/attention/paged_attention.h"
#include "kernels/cross_entropy/cross_entropy.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/embedding/embedding.h"
#include "kernels/gemm/gemm.h"
#include "kernels/quantise/quantise.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "kernels/rope/rope.h"
#include "kernels/router/router.h"
#include "kernels/swiglu/swiglu.h"

namespace rorqual {

// One line per table: an operation that is missing here is missing from `rorqual doctor` (all_test.cc looks for it).
std::vector<KernelSummary> all_kernels() {
  std::vector<KernelSummary> all;
  append_summaries("linear", linear_kernels(), all);
  append_summaries("weight gradient", weight_gradient_kernels(), all);
  append_summaries("rmsnorm forward", rmsnorm_forward_kernels(), all);
  append_summaries("rmsnorm input gradient", rmsnorm_input_gradient_kernels(), all);
  append_summaries("rmsnorm weight gradient", rmsnorm_weight_gradient_kernels(), all);
  append_summaries("swiglu forward", swiglu_forward_kernels(), all);
  append_summaries("swiglu backward", swiglu_backward_kernels(), all);
  append_summaries("quantise", quantise_kernels(), all);
  append_summaries("quantise dispatch", quantise_dispatch_kernels(), all);
  append_summaries("dequantise", dequantise_kernels(), all);
  append_summaries("requantise columns", requantise_columns_kernels(), all);
  append_summaries("rope", rope_kernels(), all);
  append_summaries("convert", convert_kernels(), all);
  append_summaries("gather rows", gather_rows_kernels(), all);
  append_summaries("combine rows", combine_rows_kernels(), all);
  append_summaries("attention forward", attention_forward_kernels(), all);
  append_summaries("attention backward", attention_backward_kernels(), all);
  append_summaries("paged attention", paged_attention_kernels(), all);
  append_summaries("router forward", router_forward_kernels(), all);
  append_summaries("router backward", router_backward_kernels(), all);
  append_summaries("cross-entropy", cross_entropy_kernels(), all);
  append_summaries("adamw", adamw_kernels(), all);
  append_summaries("embedding forward", embedding_forward_kernels(), all);
  append_summaries("embedding backward", embedding_backward_kernels(), all);
  return all;
}

}  // namespace rorqual
