// What a recipe's model needs of memory, as the plain numbers that plan/memory.h spreads over ranks: measured by dry runs of
// one block of each kind with the trainer's own code, so that plan and run cannot drift apart.
#pragma once

#include "plan/memory.h"
#include "train/recipe.h"

namespace rorqual {

// The recipe must be complete and valid.
ModelNeeds model_needs(const Recipe& recipe);

// The plan's question for the recipe's final batch. Error (usage): the batch does not divide over the mesh.
MemoryPlanRequest memory_plan_request(const Recipe& recipe, const Mesh& mesh, PipelineKind schedule);

}  // namespace rorqual
