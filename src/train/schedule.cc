#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace rorqual {

double learning_rate(const TrainRecipe& t, int64_t step, int64_t tokens) {
  double rate = t.learning_rate;
  if (t.last_tokens > 0 && tokens >= t.last_tokens) {
    rate = t.learning_rate_last;
  } else if (t.cosine_tokens > 0 && tokens >= t.constant_tokens) {
    const double progress =
        std::min(1.0, static_cast<double>(tokens - t.constant_tokens) / static_cast<double>(t.cosine_tokens));
    rate = t.learning_rate_end + (t.learning_rate - t.learning_rate_end) * 0.5 * (1 + std::cos(std::numbers::pi * progress));
  }
  if (step <= t.warmup_steps) rate *= static_cast<double>(step) / static_cast<double>(t.warmup_steps);
  return rate;
}

int64_t batch_sequences(const TrainRecipe& t, int64_t grad_lanes, int64_t tokens) {
  if (t.batch_sequences_start == 0 || t.batch_ramp_tokens == 0 || tokens >= t.batch_ramp_tokens) return t.batch_sequences;
  const int64_t unit = t.micro_batch_sequences * grad_lanes;
  const double progress = static_cast<double>(tokens) / static_cast<double>(t.batch_ramp_tokens);
  const auto wanted = static_cast<int64_t>(static_cast<double>(t.batch_sequences - t.batch_sequences_start) * progress) +
                      t.batch_sequences_start;
  return std::max(unit, wanted / unit * unit);
}

double bias_speed(const TrainRecipe& t, int64_t tokens) {
  return t.bias_speed_tokens > 0 && tokens >= t.bias_speed_tokens ? 0 : t.bias_speed;
}

double mtp_lambda(const TrainRecipe& t, int64_t tokens) {
  return t.mtp_lambda_tokens > 0 && tokens >= t.mtp_lambda_tokens ? t.mtp_lambda_end : t.mtp_lambda;
}

}  // namespace rorqual
