// The router on Hopper (sm_90a): F32, at most 512 experts in at most 32 groups. Streams of the device; `expert` in its memory.
// Choices and weights are those of the scalar truth for the same scores, bit for bit; scores may differ in the last bits.
#pragma once

#include <string>

#include "kernels/router/router.h"

namespace rorqual {

void router_forward_sm90a(const RouterForwardArgs& args, const Stream& stream);
std::string refuse_router_forward_sm90a(const RouterForwardArgs& args);

// With a balance loss, args.count is needed.
void router_backward_sm90a(const RouterBackwardArgs& args, const Stream& stream);
std::string refuse_router_backward_sm90a(const RouterBackwardArgs& args);

// router_statistics in device memory. Sums have an order that the sizes alone give.
struct RouterStatisticsSm90aArgs {
  RouterShape shape;
  Tensor scores;                    // [tokens, experts] F32
  const int32_t* expert = nullptr;  // as chosen by forward
  int64_t sequence_length = 0;
  double coefficient = 0;
  int32_t* count = nullptr;   // [sequences, experts], written: tokens of each sequence routed to each expert
  int64_t* load = nullptr;    // [experts], added to; or null
  double* loss = nullptr;     // [1], written: the balance loss of all sequences, times `coefficient`; or null
  double* scratch = nullptr;  // router_statistics_scratch_sm90a() of them, if there is a loss
};
void router_statistics_sm90a(const RouterStatisticsSm90aArgs& args, const Stream& stream);
std::string refuse_router_statistics_sm90a(const RouterStatisticsSm90aArgs& args);
int64_t router_statistics_scratch_sm90a(int64_t tokens, int64_t sequence_length);

}  // namespace rorqual
