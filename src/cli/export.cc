#include "checkpoint/export.h"

#include <memory>

#include "base/error.h"
#include "base/log.h"
#include "cli/command.h"

namespace rorqual {
namespace {

struct Options {
  std::string model, to;
  std::string dtype = "bf16";
  bool ema = false;
};

void run(const Options& options) {
  const ModelSource source = open_model(options.model);
  ExportOptions how;
  how.dtype = options.dtype == "f32" ? DType::kF32 : DType::kBF16;
  how.ema = options.ema;
  export_model(source, options.to, how);
  info("{} written to {}", source.description, options.to);
}

}  // namespace

void add_export(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = add_command(app, "export", "Write a model as a Hugging Face directory",
                                  "rorqual export runs/tiny --to tiny-hf --dtype bf16");
  command->add_option("MODEL", options->model, "run or Hugging Face directory")->required()->type_name("MODEL");
  command->add_option("--to", options->to, "new directory")->required()->type_name("DIR");
  command->add_option("--dtype", options->dtype, "of the weights; routing biases are F32 always")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->capture_default_str();
  command->add_flag("--ema", options->ema, "the averaged weights of a run");
  command->callback([options] { run(*options); });
}

}  // namespace rorqual
