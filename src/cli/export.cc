#include "checkpoint/export.h"

#include <memory>

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/gguf_export.h"
#include "cli/command.h"

namespace rorqual {
namespace {

struct Options {
  std::string model, to;
  std::string dtype = "bf16";
  bool ema = false;
};

void run(const Options& options) {
  const bool gguf = options.to.ends_with(".gguf");
  if (gguf && options.dtype == "fp8") fail_usage("--dtype fp8: a GGUF file has f32, bf16 or q8_0");
  if (!gguf && options.dtype == "q8_0")
    fail_usage("--dtype q8_0: a Hugging Face directory has f32, bf16 or fp8; name a file with --to FILE.gguf");
  const ModelSource source = open_model(options.model);
  if (gguf) {
    const GgmlType type = options.dtype == "f32" ? kGgmlF32 : options.dtype == "q8_0" ? kGgmlQ8 : kGgmlBf16;
    export_gguf(source, options.to, {.type = type, .ema = options.ema});
  } else {
    ExportOptions how;
    how.dtype = options.dtype == "f32" ? DType::kF32 : options.dtype == "fp8" ? DType::kE4M3 : DType::kBF16;
    how.ema = options.ema;
    export_model(source, options.to, how);
  }
  info("{} written to {}", source.description, options.to);
}

}  // namespace

void add_export(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = add_command(app, "export", "Write a model as a Hugging Face directory or a GGUF file",
                                  "rorqual export runs/tiny --to tiny-hf --dtype fp8\n"
                                  "rorqual export runs/tiny --to tiny.gguf --dtype q8_0");
  command->add_option("MODEL", options->model, "run or Hugging Face directory")->required()->type_name("MODEL");
  command->add_option("--to", options->to, "new directory, or new file that ends in .gguf")->required()->type_name("PATH");
  command->add_option("--dtype", options->dtype, "of the weights: f32, bf16, fp8 (directory) or q8_0 (GGUF)")
      ->check(CLI::IsMember({"f32", "bf16", "fp8", "q8_0"}))
      ->capture_default_str();
  command->add_flag("--ema", options->ema, "the averaged weights of a run");
  command->callback([options] { run(*options); });
}

}  // namespace rorqual
