// Gradients of logits, a warp per token; and the statistics of the balance loss. Sums over experts are in double, lanes first,
// then a tree over the warp.
#include "kernels/router/sm90a_warp.h"

namespace rorqual::router_sm90a_detail {
namespace {

// What a warp knows of its token's choices: top_k of each.
struct Choices {
  int32_t* expert;
  float* gradient;  // of the weight
  float* score;
};

HOPPER_DEVICE Choices choices_of_warp(int top_k) {
  uint8_t* mine = shared_memory() + warp_index() * top_k * 12;
  return {reinterpret_cast<int32_t*>(mine), reinterpret_cast<float*>(mine + top_k * 4),
          reinterpret_cast<float*>(mine + top_k * 8)};
}

// d loss / d score from the balance loss: (b_i − Σ b·s / Σ s) / Σ s.
template <int kPer>
HOPPER_DEVICE void balance_gradient(const float (&s)[kPer], const int32_t* count, int experts, double unit, float (&ds)[kPer]) {
  double sum = 0, dot = 0;
  HOPPER_UNROLL
  for (int j = 0; j < kPer; ++j) {
    ds[j] = expert_of(j) < experts ? static_cast<float>(unit * static_cast<double>(load(count + expert_of(j)))) : 0.0f;
    sum += static_cast<double>(s[j]);
    dot += static_cast<double>(ds[j]) * static_cast<double>(s[j]);
  }
  sum = warp_sum(sum) + kTiny;
  dot = warp_sum(dot);
  const auto mean = static_cast<float>(dot / sum), inverse = static_cast<float>(1 / sum);
  HOPPER_UNROLL
  for (int j = 0; j < kPer; ++j) ds[j] = (ds[j] - mean) * inverse;
}

// Adds d loss / d score from the routing weights; sums run over ascending experts.
template <int kPer>
HOPPER_DEVICE void weight_gradient(const Shape& shape, const Choices& choices, float (&ds)[kPer]) {
  float sum = 0, dot = 0;
  for (int k = 0; k < shape.top_k; ++k) {
    sum += choices.score[k];
    dot += choices.gradient[k] * choices.score[k];
  }
  sum += static_cast<float>(kTiny);
  const float mean = divide(dot, sum);
  for (int k = 0; k < shape.top_k; ++k) {
    const float gradient = choices.gradient[k];
    const float mine = shape.scale * (shape.normalise ? divide(gradient - mean, sum) : gradient);
    HOPPER_UNROLL
    for (int j = 0; j < kPer; ++j)
      if (expert_of(j) == choices.expert[k]) ds[j] += mine;
  }
}

template <int kPer>
HOPPER_DEVICE void through_scores(bool softmax, const float (&s)[kPer], float (&d)[kPer]) {
  if (!softmax) {
    HOPPER_UNROLL
    for (int j = 0; j < kPer; ++j) d[j] *= s[j] * (1.0f - s[j]);
    return;
  }
  double dot = 0;
  HOPPER_UNROLL
  for (int j = 0; j < kPer; ++j) dot += static_cast<double>(d[j]) * static_cast<double>(s[j]);
  const auto mean = static_cast<float>(warp_sum(dot));
  HOPPER_UNROLL
  for (int j = 0; j < kPer; ++j) d[j] = s[j] * (d[j] - mean);
}

template <int kPer>
HOPPER_KERNEL_BLOCKS(kThreads, kPer > 8 ? 2 : 3)
void router_backward_kernel(HOPPER_PARAMETER BackwardJob job) {
  const Shape& shape = job.shape;
  const Choices choices = choices_of_warp(shape.top_k);
  for (int token = block_index() * kWarps + warp_index(); token < job.tokens; token += block_count() * kWarps) {
    const float* row = job.scores + token * job.scores_stride;
    float s[kPer], d[kPer] = {};
    read_row(s, row, shape.experts, 0.0f);
    for (int k = lane_index(); k < shape.top_k; k += kWarp) {
      const int32_t expert = load(job.expert + static_cast<int64_t>(token) * shape.top_k + k);
      choices.expert[k] = expert;
      choices.gradient[k] = load(job.d_weight + token * job.d_weight_stride + k);
      choices.score[k] = load(row + expert);
    }
    if (job.count != nullptr)
      balance_gradient(s, job.count + static_cast<int64_t>(token / job.sequence_length) * shape.experts, shape.experts,
                       job.unit, d);
    sync_warp();
    weight_gradient(shape, choices, d);
    sync_warp();
    through_scores(shape.softmax, s, d);
    write_row(job.d_logits + token * job.d_logits_stride, d, shape.experts);
  }
}

// ---- Statistics

// A block per sequence: its tokens per expert.
HOPPER_KERNEL(1024)
void router_count_kernel(HOPPER_PARAMETER StatisticsJob job) {
  auto* count = reinterpret_cast<int*>(shared_memory());
  const int experts = job.shape.experts;
  for (int i = thread_index(); i < experts; i += block_threads()) count[i] = 0;
  sync_threads();
  const int64_t choices = static_cast<int64_t>(job.sequence_length) * job.shape.top_k;
  const int32_t* expert = job.expert + block_index() * choices;
  constexpr int kAhead = 8;  // loads in flight
  for (int64_t first = thread_index(); first < choices; first += kAhead * block_threads()) {
    int chosen[kAhead];
    HOPPER_UNROLL
    for (int j = 0; j < kAhead; ++j) {
      const int64_t i = first + j * block_threads();
      chosen[j] = i < choices ? load_once(expert + i) : -1;
    }
    HOPPER_UNROLL
    for (int j = 0; j < kAhead; ++j)
      if (chosen[j] >= 0) atomic_add(count + chosen[j], 1);
  }
  sync_threads();
  for (int i = thread_index(); i < experts; i += block_threads())
    job.count[static_cast<int64_t>(block_index()) * experts + i] = count[i];
}

// A block per slice of a sequence: Σ over its tokens of Σ_i f_i · s'_ti. A warp adds its tokens in ascending order.
template <int kPer>
HOPPER_KERNEL_BLOCKS(kThreads, 2)
void router_loss_kernel(HOPPER_PARAMETER StatisticsJob job) {
  auto* of_warps = reinterpret_cast<double*>(shared_memory());
  const int experts = job.shape.experts, slices = (job.sequence_length + kSliceTokens - 1) / kSliceTokens;
  const int sequence = block_index() / slices, slice = block_index() % slices, warp = warp_index();
  const int32_t* counts = job.count + static_cast<int64_t>(sequence) * experts;
  double count[kPer];
  HOPPER_UNROLL
  for (int j = 0; j < kPer; ++j) count[j] = expert_of(j) < experts ? static_cast<double>(load(counts + expert_of(j))) : 0;
  const int end = (slice + 1) * kSliceTokens < job.sequence_length ? (slice + 1) * kSliceTokens : job.sequence_length;
  double loss = 0;
  for (int token = slice * kSliceTokens + warp; token < end; token += kWarps) {
    float s[kPer];
    read_row(s, job.scores + (static_cast<int64_t>(sequence) * job.sequence_length + token) * job.scores_stride, experts, 0.0f);
    double sum = 0, dot = 0;
    HOPPER_UNROLL
    for (int j = 0; j < kPer; ++j) {
      sum += static_cast<double>(s[j]);
      dot += count[j] * static_cast<double>(s[j]);
    }
    sum = warp_sum(sum);
    dot = warp_sum(dot);
    loss += job.unit * dot / (sum + kTiny);
  }
  if (lane_index() == 0) of_warps[warp] = loss;
  sync_threads();
  if (thread_index() != 0) return;
  for (int i = 1; i < kWarps; ++i) loss += of_warps[i];
  job.scratch[block_index()] = loss;
}

// One block: the loads of all sequences, and the loss of all slices.
HOPPER_KERNEL(512)
void router_finish_kernel(HOPPER_PARAMETER StatisticsJob job) {
  if (job.load != nullptr)
    for (int i = thread_index(); i < job.shape.experts; i += block_threads()) {
      int64_t sum = 0;
      for (int q = 0; q < job.sequences; ++q) sum += job.count[static_cast<int64_t>(q) * job.shape.experts + i];
      job.load[i] += sum;
    }
  if (job.loss == nullptr || warp_index() != 0) return;
  const int slices = job.sequences * ((job.sequence_length + kSliceTokens - 1) / kSliceTokens);
  double sum = 0;
  for (int i = lane_index(); i < slices; i += kWarp) sum += job.scratch[i];
  sum = warp_sum(sum);
  if (lane_index() == 0) *job.loss = job.coefficient * sum;
}

}  // namespace

void launch(const BackwardJob& job, int multiprocessors, DeviceStream stream) {
  by_experts(job.shape.experts, [&]<int kPer>() {
    const LaunchShape shape = shape_for(job.tokens, multiprocessors, kPer > 8 ? 2 : 3, kWarps * job.shape.top_k * 12);
    HOPPER_LAUNCH(router_backward_kernel<kPer>, shape, stream, job);
  });
}

void launch(const StatisticsJob& job, DeviceStream stream) {
  const auto sequences = static_cast<uint32_t>(job.sequences);
  HOPPER_LAUNCH(router_count_kernel,
                (LaunchShape{.blocks = sequences, .threads = 1024, .shared_bytes = kMostExperts * sizeof(int)}), stream, job);
  if (job.loss != nullptr)
    by_experts(job.shape.experts, [&]<int kPer>() {
      const auto slices = static_cast<uint32_t>((job.sequence_length + kSliceTokens - 1) / kSliceTokens);
      HOPPER_LAUNCH(router_loss_kernel<kPer>,
                    (LaunchShape{.blocks = sequences * slices, .threads = kThreads, .shared_bytes = kWarps * sizeof(double)}),
                    stream, job);
    });
  if (job.load != nullptr || job.loss != nullptr) HOPPER_LAUNCH(router_finish_kernel, LaunchShape{.threads = 512}, stream, job);
}

}  // namespace rorqual::router_sm90a_detail
