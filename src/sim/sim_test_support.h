// The small model that the simulator's tests price: the tests' recipe, with experts for a mesh and layers for a pipeline.
#pragma once

#include "train/recipe.h"

namespace rorqual {

inline const Recipe& small_recipe() {
  static const Recipe recipe = read_whole_recipe(
      "tests/mini.toml", {"model.num_hidden_layers=8", "model.hidden_size=256", "model.moe_intermediate_size=128",
                          "model.n_routed_experts=16", "model.num_experts_per_tok=4", "train.sequence_length=128"});
  return recipe;
}

}  // namespace rorqual
