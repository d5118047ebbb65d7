#include "serve/chat_template.h"

#include <memory>

#include "base/file.h"
#include "cli/command.h"

namespace rorqual {

void add_chat_template(CLI::App& app) {
  struct Options {
    std::string model, messages;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = add_command(
      app, "chat-template", "Print the text that a model's chat template makes of messages",
      "echo '{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"add_generation_prompt\": true}' > messages.json\n"
      "rorqual chat-template my-model --messages messages.json");
  command->add_option("MODEL", options->model, "folder with tokenizer_config.json or chat_template.jinja")
      ->required()
      ->type_name("DIR");
  command
      ->add_option("--messages", options->messages,
                   "JSON object with \"messages\"; its other members (add_generation_prompt, tools, …) reach the template too")
      ->required()
      ->type_name("FILE");
  add_json_flag(*command, options->json);
  command->callback([options] {
    const ChatTemplate chat_template = ChatTemplate::load(options->model);
    const std::string text = chat_template.render(parse_chat_request(read_file(options->messages), options->messages));
    if (options->json) {
      print_json({{"text", text}});
    } else {
      print_text(text);
    }
  });
}

}  // namespace rorqual
