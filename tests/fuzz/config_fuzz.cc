// Reads arbitrary bytes as a Hugging Face config.json. An accepted config must survive being written and read again, and a
// small one must give a tensor list.
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"
#include "model/config.h"
#include "model/tensor_list.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rorqual;
  const auto json = nlohmann::json::parse(std::string_view(reinterpret_cast<const char*>(data), size), nullptr, false);
  if (json.is_discarded()) return 0;
  try {
    const ModelConfig config = config_from_hugging_face(json, "fuzz");
    const auto written = config_to_hugging_face(config, "bfloat16", 0, 1);
    const ModelConfig once = config_from_hugging_face(nlohmann::json::parse(written.dump()), "fuzz, written");
    const auto again = config_to_hugging_face(once, "bfloat16", 0, 1);
    if (again != written) std::abort();
    const int64_t tensors = (config.num_hidden_layers + config.num_nextn_predict_layers) * (config.n_routed_experts + 1);
    if (config.num_hidden_layers < 100 && config.n_routed_experts < 100 && config.num_nextn_predict_layers < 10 &&
        tensors < 10000 && TensorList(config).parameters().total <= 0)
      std::abort();
  } catch (const Error& error) {
    // What rorqual has written it must read.
    if (std::string_view(error.what()).starts_with("fuzz, written")) std::abort();
  }
  return 0;
}
