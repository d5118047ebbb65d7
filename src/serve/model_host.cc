#include "serve/model_host.h"

#include <ctime>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/machine.h"
#include "base/units.h"

namespace rorqual {
namespace {

using Json = nlohmann::ordered_json;

// A fraction of JinjaOptions' default: the server's thread renders, and waits for it.
constexpr int64_t kTemplateWork = int64_t{1} << 27;
constexpr const char* kProbe = "rorqual_probe";

std::optional<ChatTemplate> template_of(const std::string& name, const std::filesystem::path& folder) {
  try {
    return ChatTemplate::load(folder);
  } catch (const Error& e) {
    info("model {} continues texts and does not chat: {}", name, e.what());
    return {};
  }
}

std::string render_or_nothing(const ChatTemplate& t, const Json& request) {
  try {
    return t.render(request, {kTemplateWork, {}});
  } catch (const Error&) {
    return {};
  }
}

Json user_message() {
  return {{"role", "user"}, {"content", "x"}};
}

bool shows_tools(const ChatTemplate& t) {
  const Json tool = {{"type", "function"},
                     {"function", {{"name", kProbe}, {"description", "x"}, {"parameters", {{"type", "object"}}}}}};
  return render_or_nothing(
             t, {{"messages", Json::array({user_message()})}, {"tools", Json::array({tool})}, {"add_generation_prompt", true}})
             .find(kProbe) != std::string::npos;
}

ToolFormat format_of_calls(const ChatTemplate& t) {
  const Json call = {{"id", "x"}, {"type", "function"}, {"function", {{"name", kProbe}, {"arguments", "{}"}}}};
  const Json assistant = {{"role", "assistant"}, {"content", nullptr}, {"tool_calls", Json::array({call})}};
  const std::string text = render_or_nothing(t, {{"messages", Json::array({user_message(), assistant})}});
  if (text.find(std::string("function<｜tool▁sep｜>") + kProbe + "\n```json\n") != text.npos) return ToolFormat::kV3;
  if (text.find(std::string(kProbe) + "<｜tool▁sep｜>") != text.npos) return ToolFormat::kV31;
  return ToolFormat::kNone;
}

}  // namespace

ServedModel::ServedModel(const std::string& model_name, const std::filesystem::path& model_path, const HostSettings& settings)
    : name(model_name),
      path(model_path),
      created(static_cast<int64_t>(std::time(nullptr))),
      loaded(path, settings.precision, settings.ema, settings.engine.draft_tokens > 0),
      chat_template(template_of(name, loaded.source().tokenizer_directory)),
      template_folder(loaded.source().tokenizer_directory.string()),
      constraints(loaded.tokenizer()),
      engine(loaded, settings.engine) {
  if (!chat_template) return;
  takes_tools = shows_tools(*chat_template);
  tool_format = format_of_calls(*chat_template);
}

std::string ServedModel::render(const Json& request) const {
  CHECK(chat_template.has_value());
  try {
    return chat_template->render(request, {kTemplateWork, {}});
  } catch (const Error& e) {
    std::string why = e.what();
    for (size_t at; (at = why.find(template_folder)) != why.npos;) why.replace(at, template_folder.size(), "template");
    fail_usage("the model's chat template refuses the messages: {}", why);
  }
}

void ModelHost::load(const std::string& name, const std::filesystem::path& path, const ModelFacts& facts) {
  {
    const std::lock_guard lock(mutex_);
    if (models_.contains(name)) fail_usage("a model '{}' is loaded already", name);
    if (!loading_.insert(name).second) fail_usage("model '{}' is being loaded already", name);
  }
  std::shared_ptr<ServedModel> model;
  std::exception_ptr error;
  try {
    const int64_t available = machine_memory().available_bytes;
    if (available > 0 && facts.memory_bytes > available)
      throw TooLarge(fmt::format("model '{}' needs {:.1f} GiB of memory, {:.1f} are free: unload others first", name,
                                 gib(facts.memory_bytes), gib(available)));
    const double begin = seconds_now();
    model = std::make_shared<ServedModel>(name, path, settings_);
    info("model {} is ready after {:.1f} s: context {}{}{}", name, seconds_now() - begin, model->engine.context_tokens(),
         model->chat_template ? "" : ", no chat template", model->takes_tools ? ", takes tools" : "");
  } catch (...) {
    error = std::current_exception();
  }
  const std::lock_guard lock(mutex_);
  loading_.erase(name);
  if (error) std::rethrow_exception(error);
  models_[name] = std::move(model);
}

bool ModelHost::unload(const std::string& name) {
  std::shared_ptr<ServedModel> model;
  {
    const std::lock_guard lock(mutex_);
    const auto it = models_.find(name);
    if (it == models_.end()) return false;
    model = std::move(it->second);
    models_.erase(it);
  }
  info("model {} is unloaded", name);
  return true;
}

std::shared_ptr<ServedModel> ModelHost::find(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto it = models_.find(name);
  return it == models_.end() ? nullptr : it->second;
}

std::vector<std::shared_ptr<ServedModel>> ModelHost::all() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<ServedModel>> all;
  for (const auto& [name, model] : models_) all.push_back(model);
  return all;
}

bool ModelHost::loading(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  return loading_.contains(name);
}

}  // namespace rorqual
