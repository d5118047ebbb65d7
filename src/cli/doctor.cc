#include "base/cpu.h"
#include "cli/command.h"

namespace rorqual {
void add_doctor(CLI::App& app) {
  CLI::App* command = add_command(app, "doctor", "What this machine can do, and anything wrong", "rorqual doctor");
  command->callback([] { print_text(cpu_model() + "\n"); });
}
}  // namespace rorqual
