#include "cli/command.h"

int main(int argc, char** argv) {
  using namespace rorqual;
  // The list of commands, in the order of --help. A new command: its file, its line in command.h, its line here.
  static constexpr AddCommand kCommands[] = {
      add_train,  add_generate, add_chat,       add_serve,     add_models,        add_score,
      add_export, add_verify,   add_inspect,    add_tokenizer, add_chat_template, add_report,
      add_plan,   add_simulate, add_experiment, add_bench,     add_doctor,        add_completion,
  };
  return run_program(argc, argv, kCommands);
}
