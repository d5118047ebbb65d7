#include <cmath>
#include <memory>

#include "base/error.h"
#include "base/file.h"
#include "base/units.h"
#include "cli/command.h"
#include "cli/plan.h"
#include "plan/cluster.h"
#include "plan/memory_chart.h"
#include "sim/step.h"
#include "train/model_memory.h"

namespace rorqual {
namespace {

using Json = nlohmann::ordered_json;

// Devices by name; what they have stands in the cluster's file.
const std::map<std::string, std::string>& device_clusters() {
  static const std::map<std::string, std::string> table = {{"h800-80g", "h800"}, {"h100-80g", "h100"}, {"h200-141g", "h200"}};
  return table;
}

struct PlanMemoryCommand {
  std::string recipe, mesh, schedule = "1f1b", device, cluster, svg;
  std::vector<std::string> set;
  uint64_t device_memory = 0;
  int64_t cache_tokens = 0;
  bool json = false;
};

// 0: no device was named.
int64_t device_bytes_of(const PlanMemoryCommand& c) {
  if (c.device_memory > 0) {
    if (!c.device.empty()) fail_usage("--device and --device-memory both say what a device has: give one of them");
    if (c.device_memory > (uint64_t{1} << 50)) fail_usage("--device-memory {}: more than a PiB", c.device_memory);
    return static_cast<int64_t>(c.device_memory);
  }
  if (!c.device.empty()) return load_cluster(device_clusters().at(c.device)).device.memory_bytes;
  return c.cluster.empty() ? 0 : load_cluster(c.cluster).device.memory_bytes;
}

// The layers of every stage as `rorqual simulate` cuts them on the cluster.
std::vector<int64_t> stages_on(const std::string& name, const Recipe& recipe, const MemoryPlanRequest& request) {
  StepOptions options;
  options.schedule = request.schedule;
  options.batch_sequences = recipe.train.batch_sequences;
  options.micro_batch_sequences = recipe.train.micro_batch_sequences;
  return balanced_stages(simulated_model(recipe), load_cluster(name), request.mesh, options);
}

Json bytes_json(const MemoryBytes& bytes) {
  Json j = Json::object();
  for (int i = 0; i < kPlanMemoryClasses; ++i) {
    const auto c = static_cast<PlanMemory>(i);
    j[std::string(plan_memory_key(c))] = bytes[c];
  }
  return j;
}

Json load_json(double load) {
  return std::isfinite(load) ? Json(load) : Json(nullptr);
}

Json rank_json(const RankMemory& r, const Mesh& mesh, int64_t device_bytes) {
  const int64_t per = mesh.dp * mesh.ep;
  Json j = {{"pp", r.pp_i},
            {"first_rank", r.pp_i * per},
            {"ranks", per},
            {"stages", r.stages},
            {"layers", r.layers},
            {"peak_activations", r.peak_activations},
            {"bytes", bytes_json(r.expected)},
            {"device_bytes", r.expected.device()},
            {"host_bytes", r.expected.host()},
            {"routed",
             {{"expected_rows", r.expected_rows},
              {"worst_rows", r.worst_rows},
              {"expected_bytes", r.row_bytes},
              {"worst_layer_bytes", r.worst_layer_bytes},
              {"worst_bytes", r.worst_bytes}}}};
  if (device_bytes > 0) {
    j["fits"] = r.expected.device() <= device_bytes;
    j["load_that_fits"] = load_json(r.load_that_fits(device_bytes));
  }
  return j;
}

Json plan_json(const PlanMemoryCommand& c, const ModelNeeds& needs, const MemoryPlanRequest& request, const MemoryPlan& plan,
               int64_t device_bytes) {
  Json j = {{"recipe", c.recipe},
            {"mesh", to_string(request.mesh)},
            {"ranks", request.mesh.ranks()},
            {"schedule", c.schedule},
            {"micro_batches", request.micro_batches},
            {"rows_per_micro_batch", needs.rows},
            {"largest", plan.largest().expected.device()}};
  if (device_bytes > 0) {
    j["device_memory"] = device_bytes;
    j["fits"] = plan.largest().expected.device() <= device_bytes;
  }
  for (const RankMemory& r : plan.ranks) j["per_rank"].push_back(rank_json(r, request.mesh, device_bytes));
  j["classes"] = Json::array();
  for (int i = 0; i < kPlanMemoryClasses; ++i) {
    const auto k = static_cast<PlanMemory>(i);
    j["classes"].push_back({{"key", plan_memory_key(k)}, {"lifetime", plan_memory_lifetime(k)}, {"host", is_host_memory(k)}});
  }
  j["phases"] = Json::array();
  for (const BlockNeeds& block : needs.kinds)
    for (const BlockNeeds::Phase& phase : block.phases)
      j["phases"].push_back({{"block", block.kind}, {"phase", phase.name}, {"saved_bytes", phase.saved.device()}});
  return j;
}

std::string in_gib(int64_t bytes) {
  return fmt::format("{:.2f}", gib(bytes));
}

int64_t kept(const MemoryBytes& b) {
  return b[PlanMemory::kActivations] + b[PlanMemory::kLinearInputs] + b[PlanMemory::kAttentionOutputs] +
         b[PlanMemory::kSwiGluInputs];
}

std::string rank_table(const MemoryPlan& plan, int64_t device_bytes) {
  std::string out =
      fmt::format("{:>4}  {:<9} {:>8} {:>10} {:>8} {:>6} {:>8} {:>8} {:>8} {:>9}{}\n", "pp", "layers", "weights", "gradients",
                  "moments", "alive", "kept", "working", "rows", "total", device_bytes > 0 ? "  fits to load" : "");
  for (const RankMemory& r : plan.ranks) {
    const MemoryBytes& b = r.expected;
    const int64_t weights =
        b[PlanMemory::kMasterWeights] + b[PlanMemory::kFp8Weights] + b[PlanMemory::kBf16Weights] + b[PlanMemory::kFullWeights];
    const int64_t rest =
        b.device() - weights - b[PlanMemory::kGradients] - b[PlanMemory::kMoments] - kept(b) - b[PlanMemory::kRoutedRows];
    out += fmt::format("{:>4}  {:<9} {:>8} {:>10} {:>8} {:>6} {:>8} {:>8} {:>8} {:>9}", r.pp_i,
                       fmt::format("{}", fmt::join(r.layers, "+")), in_gib(weights), in_gib(b[PlanMemory::kGradients]),
                       in_gib(b[PlanMemory::kMoments]), r.peak_activations, in_gib(kept(b)), in_gib(rest),
                       in_gib(b[PlanMemory::kRoutedRows]), in_gib(b.device()));
    if (device_bytes > 0) {
      const double load = r.load_that_fits(device_bytes);
      out += b.device() > device_bytes ? "  too large" : std::isfinite(load) ? fmt::format("  {:.2f}", load) : "  fits";
    }
    out += "\n";
  }
  return out;
}

std::string class_table(const RankMemory& r) {
  std::string out = fmt::format("{:<20} {:>10}  lives for\n", fmt::format("pp {} in full", r.pp_i), "GiB");
  for (int i = 0; i < kPlanMemoryClasses; ++i) {
    const auto c = static_cast<PlanMemory>(i);
    if (r.expected[c] > 0)
      out += fmt::format("  {:<18} {:>10}  a {}\n", plan_memory_name(c), in_gib(r.expected[c]), plan_memory_lifetime(c));
  }
  if (r.worst_rows > r.expected_rows)
    out += fmt::format(
        "Routing sends its experts {} rows a micro-batch where loads are equal, {} at worst: {} GiB more where that befalls "
        "one\n"
        "layer of one micro-batch, {} GiB more where it befalls all.\n",
        r.expected_rows, r.worst_rows, in_gib(r.worst_layer_bytes), in_gib(r.worst_bytes));
  return out;
}

void run_plan_memory(const PlanMemoryCommand& c) {
  const int64_t device_bytes = device_bytes_of(c);
  const Mesh mesh = parse_mesh(c.mesh);
  const Recipe recipe = read_whole_recipe(find_recipe(c.recipe), c.set);
  MemoryPlanRequest request = memory_plan_request(recipe, mesh, parse_pipeline_kind(c.schedule));
  request.cache_tokens = c.cache_tokens;
  if (!c.cluster.empty()) request.stage_begin = stages_on(c.cluster, recipe, request);
  const ModelNeeds needs = model_needs(recipe);
  const MemoryPlan plan = plan_memory(needs, request);
  const std::string title = fmt::format("{} on {}", c.recipe, to_string(mesh));
  const std::string subtitle =
      fmt::format("{} ranks, {}, {} micro-batches of {} rows", mesh.ranks(), c.schedule, request.micro_batches, needs.rows);
  if (!c.svg.empty()) write_file_atomically(c.svg, memory_svg_chart(plan, title, subtitle, device_bytes));
  if (c.json) return print_json(plan_json(c, needs, request, plan, device_bytes));
  const RankMemory& largest = plan.largest();
  std::string text =
      fmt::format("{}: {}. GiB of one rank:\n", title, subtitle) + rank_table(plan, device_bytes) + "\n" + class_table(largest);
  if (device_bytes > 0)
    text += fmt::format("{} GiB of {} on the fullest rank: {}\n", in_gib(largest.expected.device()), in_gib(device_bytes),
                        largest.expected.device() <= device_bytes ? "fits" : "does not fit");
  print_text(text);
}

}  // namespace

void add_plan_memory(CLI::App& plan) {
  auto c = std::make_shared<PlanMemoryCommand>();
  CLI::App* command = add_command(plan, "memory", "What every rank of a mesh holds in memory, by class",
                                  "rorqual plan memory v3-671b --mesh pp=16,ep=64,dp=2 --schedule dualpipe --device h800-80g\n"
                                  "rorqual plan memory small --json");
  command->add_option("RECIPE", c->recipe, "name of a recipe, or a .toml file")->required()->type_name("RECIPE");
  command->add_option("--mesh", c->mesh, "ranks by axis, as pp=16,dp=2,ep=64; one rank if left out")->type_name("MESH");
  command->add_option("--schedule", c->schedule, "of the pipeline")->check(CLI::IsMember(pipeline_kind_names()));
  std::vector<std::string> devices;
  for (const auto& [name, cluster] : device_clusters()) devices.push_back(name);
  command->add_option("--device", c->device, "whether it fits this device")->check(CLI::IsMember(devices));
  command
      ->add_option(
          "--cluster", c->cluster,
          "cut the layers as simulate and plan search do on this cluster (else evenly), and whether it fits its device")
      ->type_name("FILE");
  command->add_option("--device-memory", c->device_memory, "whether it fits so many bytes, as 80GiB")
      ->transform(CLI::AsSizeValue(true))
      ->type_name("SIZE");
  command->add_option("--cache-tokens", c->cache_tokens, "tokens whose latents a rank keeps beside, to serve them")
      ->check(integer_in(0, int64_t{1} << 40));
  command->add_option("--set", c->set, "change a key of the recipe")->type_name("KEY=VALUE")->allow_extra_args(false);
  command->add_option("--svg", c->svg, "draw the ranks' memory into this file")->type_name("FILE");
  add_json_flag(*command, c->json);
  command->callback([c] { run_plan_memory(*c); });
}

}  // namespace rorqual
