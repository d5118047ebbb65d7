// How far the gradient of one micro-batch is from the FP32 one, for recipes that differ in number formats.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "experiment/training.h"

namespace rorqual {

// ‖g − g₃₂‖ / ‖g₃₂‖ over all tensors of a kind.
struct GradientError {
  std::string arm;
  double all = 0;
  std::map<std::string, double> by_kind;  // names without layer and expert: "mlp.experts.down_proj.weight"
};

// Of the micro-batch that follows the training of the run in `directory`, with the weights of its newest checkpoint, or as
// initialised. Only the arms' number formats are used.
std::vector<GradientError> gradient_errors(const ExperimentRequest& request, const std::filesystem::path& directory,
                                           bool initialised, const std::vector<Arm>& arms, const Stream& stream);

}  // namespace rorqual
