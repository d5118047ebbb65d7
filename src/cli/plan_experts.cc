#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <memory>

#include "base/error.h"
#include "base/file.h"
#include "cli/command.h"
#include "cli/plan.h"
#include "plan/expert_placement.h"
#include "plan/load_chart.h"

namespace rorqual {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMostSlots = 1 << 14;

struct Options {
  std::string load, svg;
  PlacementShape shape;
  bool json = false;
};

// [layers][experts] of FP32, as all arithmetic of the placement is.
std::vector<std::vector<float>> read_loads(const std::string& path) {
  const Json json = [&] {
    try {
      return Json::parse(read_file(path));
    } catch (const Json::exception& e) {
      fail("{} is not JSON: {}", path, e.what());
    }
  }();
  const auto expect = [&](bool holds, const std::string& what) {
    if (!holds)
      fail("{}: {}; it must hold an array of layers, each an array of its experts' loads, as in [[3, 0, 5], [1, 2, 2]]", path,
           what);
  };
  expect(json.is_array() && !json.empty(), "it holds no array of layers");
  std::vector<std::vector<float>> loads;
  for (size_t layer = 0; layer < json.size(); ++layer) {
    const Json& row = json[layer];
    expect(row.is_array() && !row.empty(), fmt::format("layer {} is no array of loads", layer));
    expect(row.size() == json[0].size(), fmt::format("layer {} has {} loads where layer 0 has {}: every layer needs as many",
                                                     layer, row.size(), json[0].size()));
    loads.emplace_back();
    for (size_t e = 0; e < row.size(); ++e) {
      expect(row[e].is_number(), fmt::format("layer {}, expert {} is no number", layer, e));
      const auto load = row[e].get<double>();
      expect(load >= 0 && load <= static_cast<double>(std::numeric_limits<float>::max()),
             fmt::format("layer {}, expert {}: a load is finite in FP32 and not negative, not {}", layer, e, row[e].dump()));
      loads.back().push_back(static_cast<float>(load));
    }
  }
  return loads;
}

struct Result {
  std::vector<Placement> placements;  // [layers]
  std::vector<LayerLoads> loads;      // [layers]
};

Result place_all(const std::vector<std::vector<float>>& loads, const PlacementShape& shape) {
  Result result;
  for (const std::vector<float>& load : loads) {
    result.placements.push_back(place_experts(load, shape));
    result.loads.push_back({contiguous_gpu_loads(load, shape.gpus), gpu_loads(load, result.placements.back(), shape.gpus)});
  }
  return result;
}

size_t most_copies(const Placement& placement, int64_t* expert = nullptr) {
  size_t most = 0;
  for (int64_t e = 0; e < placement.experts(); ++e) {
    if (placement.copies(e).size() <= most) continue;
    most = placement.copies(e).size();
    if (expert != nullptr) *expert = e;
  }
  return most;
}

Json to_json(const Result& result) {
  size_t width = 0;  // of log2phy: the most copies of any expert of any layer
  for (const Placement& p : result.placements) width = std::max(width, most_copies(p));
  Json phy2log = Json::array(), log2phy = Json::array(), logcnt = Json::array(), balance = Json::array();
  for (size_t layer = 0; layer < result.placements.size(); ++layer) {
    const Placement& p = result.placements[layer];
    Json slots = Json::array(), counts = Json::array();
    for (int64_t e = 0; e < p.experts(); ++e) {
      std::vector<int32_t> copies(p.copies(e).begin(), p.copies(e).end());
      counts.push_back(copies.size());
      copies.resize(width, -1);
      slots.push_back(std::move(copies));
    }
    phy2log.push_back(p.expert_of_slot);
    log2phy.push_back(std::move(slots));
    logcnt.push_back(std::move(counts));
    balance.push_back(max_over_mean(result.loads[layer].after));
  }
  return {{"phy2log", std::move(phy2log)},
          {"log2phy", std::move(log2phy)},
          {"logcnt", std::move(logcnt)},
          {"max_over_mean", std::move(balance)}};
}

std::string facts_of(const PlacementShape& s) {
  std::string text =
      fmt::format("{} experts in {} slots, {} on each of {} GPUs", s.experts, s.replicas, s.replicas / s.gpus, s.gpus);
  if (!s.hierarchical())
    return text + fmt::format("; placed globally, as {} groups do not divide over {} nodes", s.groups, s.nodes);
  return text + (s.nodes > 1 ? fmt::format("; {} groups kept whole on {} nodes", s.groups, s.nodes) : "; one node");
}

std::string table_of(const Result& result, const PlacementShape& shape) {
  std::string text =
      facts_of(shape) + "\n\n         largest GPU load over the mean\n layer        before       after   most copies\n";
  double worst_before = 0, worst_after = 0;
  for (size_t layer = 0; layer < result.loads.size(); ++layer) {
    const double before = max_over_mean(result.loads[layer].before), after = max_over_mean(result.loads[layer].after);
    int64_t expert = 0;
    const size_t copies = most_copies(result.placements[layer], &expert);
    text += fmt::format("{:6}  {:12.3f}{:12.3f}   {}\n", layer, before, after,
                        copies == 1 ? std::string("none") : fmt::format("{} of expert {}", copies, expert));
    worst_before = std::max(worst_before, before);
    worst_after = std::max(worst_after, after);
  }
  if (result.loads.size() > 1) text += fmt::format(" worst  {:12.3f}{:12.3f}\n", worst_before, worst_after);
  return text + "\nbefore: experts in order and without copies; after: a copy of an expert takes an equal share of its load\n";
}

void run(const Options& options) {
  const std::vector<std::vector<float>> loads = read_loads(options.load);
  PlacementShape shape = options.shape;
  shape.experts = static_cast<int64_t>(loads[0].size());
  check_placement_shape(shape);
  const Result result = place_all(loads, shape);
  if (!options.svg.empty()) {
    const int64_t per_node = shape.gpus % shape.nodes == 0 ? shape.gpus / shape.nodes : shape.gpus;
    write_file_atomically(options.svg,
                          draw_gpu_loads(result.loads, per_node, "Load of the GPUs by expert placement", facts_of(shape)));
  }
  if (options.json) {
    print_json(to_json(result));
  } else {
    print_text(table_of(result, shape));
  }
}

}  // namespace

void add_plan_experts(CLI::App& plan) {
  auto options = std::make_shared<Options>();
  PlacementShape& shape = options->shape;
  CLI::App* command =
      add_command(plan, "experts", "Which GPU holds which experts, with copies of the busy ones",
                  "rorqual plan experts --load loads.json --replicas 288 --groups 8 --nodes 4 --gpus 32 --svg loads.svg");
  command->add_option("--load", options->load, "JSON: an array of layers, each an array of its experts' loads")
      ->required()
      ->type_name("FILE");
  command->add_option("--replicas", shape.replicas, "slots for experts on all GPUs")
      ->required()
      ->check(integer_in(1, kMostSlots));
  command->add_option("--groups", shape.groups, "groups of consecutive experts that a node keeps whole")
      ->required()
      ->check(integer_in(1, kMostSlots));
  command->add_option("--nodes", shape.nodes, "nodes; where they do not divide the groups, placement is global")
      ->required()
      ->check(integer_in(1, kMostSlots));
  command->add_option("--gpus", shape.gpus, "GPUs of all nodes")->required()->check(integer_in(1, kMostSlots));
  command->add_option("--svg", options->svg, "write a picture of the GPUs' loads before and after")->type_name("FILE");
  add_json_flag(*command, options->json);
  command->callback([options] { run(*options); });
}

}  // namespace rorqual
