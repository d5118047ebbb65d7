#include "model/flops.h"

namespace rorqual {

double training_flops_per_token(const ModelConfig& c, int64_t sequence_length) {
  const TensorList list(c);
  double weights = 0;
  for (const TensorSpec& s : list.specs()) {
    const bool multiplied =
        s.role == Role::kLinear || s.role == Role::kRouter || (s.role == Role::kExpert && s.expert < c.num_experts_per_tok);
    if (multiplied) weights += static_cast<double>(s.count());
  }
  const auto depth = static_cast<double>(c.num_nextn_predict_layers);
  weights += (1 + depth) * static_cast<double>(c.vocab_size * c.hidden_size);  // the head, tied or not, once per depth
  const double blocks = static_cast<double>(c.num_hidden_layers) + depth;
  const double attention = blocks * static_cast<double>(c.num_attention_heads * (c.qk_head_dim() + c.value_head_dim())) *
                           static_cast<double>(sequence_length + 1) / 2;
  return 3 * 2 * (weights + attention);
}

}  // namespace rorqual
