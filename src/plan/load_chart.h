// A picture of what a placement does: every GPU's load, layer by layer, before and after.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace rorqual {

struct LayerLoads {
  std::vector<double> before, after;  // [gpus]
};
// An SVG with a row for each layer. `title` and `facts` stand above; GPUs of a node stand together.
std::string draw_gpu_loads(const std::vector<LayerLoads>& layers, int64_t gpus_per_node, const std::string& title,
                           const std::string& facts);

}  // namespace rorqual
