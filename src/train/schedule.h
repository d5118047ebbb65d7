// What changes over a run, as pure functions of tokens seen and steps done (report §4.2).
#pragma once

#include "train/recipe.h"

namespace rorqual {

// Of step `step` (from 1) that begins after `tokens` tokens: linear warm-up by steps, constant, cosine, constant, by tokens.
double learning_rate(const TrainRecipe& t, int64_t step, int64_t tokens);
// Sequences of the step: from batch_sequences_start to batch_sequences linearly over batch_ramp_tokens, rounded down to whole
// units (micro-batches on every lane).
int64_t batch_sequences(const TrainRecipe& t, int64_t grad_lanes, int64_t tokens);
double bias_speed(const TrainRecipe& t, int64_t tokens);
double mtp_lambda(const TrainRecipe& t, int64_t tokens);

}  // namespace rorqual
