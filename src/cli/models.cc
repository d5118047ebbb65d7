#include <fmt/format.h>

#include <memory>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "cli/command.h"
#include "serve/model_store.h"

namespace rorqual {
namespace {

using Json = nlohmann::ordered_json;

struct ModelsCommand {
  std::string path, name;
  bool json = false;
};

std::string in_gib(int64_t bytes) {
  return bytes >= (int64_t{1} << 30) ? fmt::format("{:.1f} GiB", gib(bytes)) : fmt::format("{:.1f} MiB", mib(bytes));
}

// With where the link leads.
Json described(const ModelFacts& f, const std::filesystem::path& link) {
  std::error_code error;
  Json j = {{"name", f.name}, {"path", std::filesystem::weakly_canonical(link, error).string()}};
  j.update(json_of(f));
  return j;
}

void run_add(const ModelsCommand& c) {
  const ModelStore store(ModelStore::default_folder());
  const std::string name = store.add(c.path, c.name);
  if (c.json)
    print_json({{"name", name}});
  else
    print_text(name + "\n");
}

void run_list(const ModelsCommand& c) {
  const ModelStore store(ModelStore::default_folder());
  Json models = Json::array();
  std::string text;
  for (const std::string& name : store.names()) {
    const ModelFacts f = model_facts(name, store.path_of(name));
    if (!f.error.empty())
      text += fmt::format("{:<24} {}\n", name, f.error);
    else
      text += fmt::format("{:<24} {:>10}  {:.1f}M parameters, {:.1f}M active, {}, context {}{}\n", name, in_gib(f.size_bytes),
                          static_cast<double>(f.total_parameters) / 1e6, static_cast<double>(f.active_parameters) / 1e6,
                          f.precision, f.context, f.chat_template ? ", chats" : "");
    models.push_back(described(f, store.folder() / name));
  }
  if (c.json) return print_json({{"models", std::move(models)}});
  print_text(text);
  if (models.empty()) info("there is no model yet: 'rorqual models add PATH' adds one");
}

void run_show(const ModelsCommand& c) {
  const ModelStore store(ModelStore::default_folder());
  const Json j = described(model_facts(c.name, store.path_of(c.name)), store.folder() / c.name);
  if (c.json) return print_json(j);
  std::string text;
  for (const auto& [key, value] : j.items()) {
    if (value.is_null() || (value.is_array() && value.empty())) continue;
    text += fmt::format("{}: {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
  }
  print_text(text);
}

void run_remove(const ModelsCommand& c) {
  const ModelStore store(ModelStore::default_folder());
  store.remove(c.name);
  if (c.json) print_json({{"removed", c.name}});
}

}  // namespace

void add_models(CLI::App& app) {
  CLI::App* models = add_command(app, "models", "The models folder: what `serve` and `chat` know by name",
                                 "rorqual models add runs/tiny --name tiny\nrorqual models list");
  models->require_subcommand(1);
  const auto command = [&](const char* name, const char* what, const char* example) {
    auto c = std::make_shared<ModelsCommand>();
    CLI::App* sub = add_command(*models, name, what, example);
    add_json_flag(*sub, c->json);
    return std::pair(sub, c);
  };
  const auto [add, a] = command("add", "Link a model or run directory; nothing is copied", "rorqual models add runs/tiny");
  add->add_option("PATH", a->path, "model or run directory")->required()->type_name("DIR");
  add->add_option("--name", a->name, "what it is called (default: the directory's name)")->type_name("NAME");
  add->callback([c = a] { run_add(*c); });
  const auto [list, l] = command("list", "What there is", "rorqual models list --json");
  list->callback([c = l] { run_list(*c); });
  const auto [show, s] = command("show", "What is known of a model without loading it", "rorqual models show tiny");
  show->add_option("NAME", s->name, "the model")->required();
  show->callback([c = s] { run_show(*c); });
  const auto [remove, r] = command("remove", "Remove the link; the model stays", "rorqual models remove tiny");
  remove->add_option("NAME", r->name, "the model")->required();
  remove->callback([c = r] { run_remove(*c); });
}

}  // namespace rorqual
