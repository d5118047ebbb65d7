// Floating-point operations that a model asks for, as papers count them: 2 per weight a token meets, attention's causal half,
// three times the forward pass for a training step; what recompute adds is not counted.
#pragma once

#include "model/tensor_list.h"

namespace rorqual {

// Of one trained token in sequences of `sequence_length`, MTP modules and their use of the head included.
double training_flops_per_token(const ModelConfig& config, int64_t sequence_length);

}  // namespace rorqual
