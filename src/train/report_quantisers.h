// The report's table of what the FP8 quantisers saw.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "model/config.h"

namespace rorqual {

// `quantised`: the value of that key of a line of metrics.jsonl, or null. A section of HTML, or nothing. Error (runtime): it is
// damaged.
std::string quantisers_html(const nlohmann::ordered_json& quantised, int64_t step, const ModelConfig& model);

}  // namespace rorqual
