#include "train/report.h"

#include "base/log.h"
#include "cli/command.h"

namespace rorqual {

void add_report(CLI::App& app) {
  struct Options {
    std::string run, out;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = add_command(app, "report", "One self-contained HTML page about a run",
                                  "rorqual report runs/first\nrorqual report runs/first --out first.html");
  command->add_option("RUN", options->run, "run directory")->required()->type_name("RUN");
  command->add_option("--out", options->out, "page to write (default RUN/report.html)")->type_name("FILE");
  command->callback([options] {
    const std::filesystem::path run = options->run;
    const std::filesystem::path out = options->out.empty() ? run / "report.html" : std::filesystem::path(options->out);
    write_report(run, out);
    info("the report of {} lies in {}", run.string(), out.string());
  });
}

}  // namespace rorqual
