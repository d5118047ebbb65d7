#include <dlfcn.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <set>
#include <sstream>

#include "base/cpu.h"
#include "base/error.h"
#include "base/file.h"
#include "base/machine.h"
#include "base/threads.h"
#include "base/units.h"
#include "cli/command.h"
#include "kernels/common/all.h"

namespace rorqual {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kGiB = int64_t{1} << 30;
// The demo's corpus, shards and checkpoints take about half of this; the recipe tiny's tensors as well.
constexpr int64_t kLittleMemory = 2 * kGiB, kLittleDisk = 2 * kGiB;

std::string in_gib(int64_t bytes) {
  return fmt::format("{:.1f} GiB", gib(bytes));
}

// The flags of /proc/cpuinfo that kernels ask for, or might.
std::vector<std::string> cpu_features() {
  static const std::set<std::string> kInteresting = {"fma",        "f16c",     "avx2",        "avx512f",     "avx512bw",
                                                     "avx512dq",   "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
                                                     "avx512vbmi", "amx_tile", "amx_bf16",    "amx_int8",    "amx_fp16"};
  std::vector<std::string> found;
  std::istringstream info(read_file("/proc/cpuinfo"));
  for (std::string line; std::getline(info, line);) {
    if (!line.starts_with("flags")) continue;
    std::istringstream flags(line.substr(line.find(':') + 1));
    for (std::string flag; flags >> flag;)
      if (kInteresting.contains(flag)) found.push_back(flag);
    break;
  }
  return found;
}

Json describe_cpu(Json& problems, Json& notes) {
  const MachineCpus cpus = machine_cpus();
  Json cpu = {{"model", cpu_model()}, {"features", cpu_features()}, {"best_isa", isa_name(cpu_isa())},
              {"isa", nullptr},       {"logical", cpus.logical},    {"allowed", cpus.allowed},
              {"quota", nullptr},     {"threads", nullptr}};
  if (cpus.quota) cpu["quota"] = *cpus.quota;
  try {
    cpu["isa"] = isa_name(allowed_isa());
    if (allowed_isa() < cpu_isa())
      notes.push_back(fmt::format("RORQUAL_ISA holds the kernels down to {}; this CPU can do {}", isa_name(allowed_isa()),
                                  isa_name(cpu_isa())));
  } catch (const Error& error) {
    problems.push_back(error.what());
  }
  if (cpu_isa() == Isa::kReference)
    problems.push_back("this CPU lacks AVX2: only the scalar reference kernels run, hundreds of times slower");
  else if (cpu_isa() < Isa::kAmx)
    notes.push_back(
        fmt::format("no AMX: bf16 products run on {}, several times slower than on a CPU with AMX", isa_name(cpu_isa())));
  try {
    const int threads = default_thread_count();
    cpu["threads"] = threads;
    const double usable = cpus.quota ? std::min(*cpus.quota, static_cast<double>(cpus.allowed)) : cpus.allowed;
    if (threads > cpus.allowed)
      problems.push_back(
          fmt::format("OMP_NUM_THREADS asks for {} threads, but this process may use {} CPUs: set it to {} or less", threads,
                      cpus.allowed, cpus.allowed));
    else if (threads > usable + 0.5)
      problems.push_back(
          fmt::format("{} threads share the {:.1f} CPUs that the control group grants: set OMP_NUM_THREADS to {}", threads,
                      usable, std::max(1, static_cast<int>(usable))));
  } catch (const Error& error) {
    problems.push_back(error.what());
  }
  return cpu;
}

Json describe_memory(Json& problems) {
  const MachineMemory memory = machine_memory();
  if (memory.available_bytes < kLittleMemory)
    problems.push_back(fmt::format("only {} of memory are available: choose a small recipe, or close other programs",
                                   in_gib(memory.available_bytes)));
  Json out = {{"total_bytes", memory.total_bytes}, {"available_bytes", memory.available_bytes}, {"limit_bytes", nullptr}};
  if (memory.limit_bytes) out["limit_bytes"] = *memory.limit_bytes;
  return out;
}

// Per operation, the kernels that this CPU and RORQUAL_ISA allow, best first: the first that takes a call's types and shapes
// runs. `left_out` are those that need another instruction set.
Json describe_kernels(Isa allowed) {
  Json operations = Json::array();
  for (const KernelSummary& row : all_kernels()) {
    if (operations.empty() || operations.back()["operation"] != row.operation)
      operations.push_back({{"operation", row.operation}, {"kernels", Json::array()}, {"left_out", Json::array()}});
    operations.back()[row.isa <= allowed ? "kernels" : "left_out"].push_back(row.name);
  }
  return operations;
}

Json program_in_path(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path ? path : "");
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::filesystem::path candidate = std::filesystem::path(folder) / name;
    if (::access(candidate.c_str(), X_OK) == 0) return candidate.string();
  }
  return nullptr;
}

struct CloseLibrary {
  void operator()(void* library) const { ::dlclose(library); }
};
using Library = std::unique_ptr<void, CloseLibrary>;

Json describe_mpi(Json& problems) {
  Json mpi = {{"launcher", program_in_path("mpirun")}, {"library", nullptr}};
  for (const char* name : {"libmpi.so.40", "libmpi.so.12", "libmpich.so.12"}) {
    if (!Library(::dlopen(name, RTLD_LAZY | RTLD_LOCAL))) continue;
    mpi["library"] = name;
    break;
  }
  if (mpi["library"].is_null() && !mpi["launcher"].is_null())
    problems.push_back("mpirun is there but no MPI library: install libopenmpi3");
  return mpi;
}

Json describe_gpus(Json& problems) {
  Json gpu = {{"driver", nullptr}, {"devices", Json::array()}};
  const Library cuda(::dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL));
  if (!cuda) {
    if (!program_in_path("nvidia-smi").is_null())
      problems.push_back(
          "nvidia-smi is there but libcuda.so.1 is not: the NVIDIA driver's libraries are not visible to this process");
    return gpu;
  }
  gpu["driver"] = "libcuda.so.1";
  const auto init = reinterpret_cast<int (*)(unsigned)>(::dlsym(cuda.get(), "cuInit"));
  const auto count = reinterpret_cast<int (*)(int*)>(::dlsym(cuda.get(), "cuDeviceGetCount"));
  const auto name = reinterpret_cast<int (*)(char*, int, int)>(::dlsym(cuda.get(), "cuDeviceGetName"));
  if (!init || !count || !name) return gpu;
  int devices = 0;
  constexpr int kNoDevice = 100;  // CUDA_ERROR_NO_DEVICE
  const int result = init(0);
  if (result != 0 && result != kNoDevice)
    problems.push_back(fmt::format("the NVIDIA driver does not start (cuInit returns {})", result));
  if (result != 0 || count(&devices) != 0) return gpu;
  for (int i = 0; i < devices; ++i) {
    char text[256] = {};
    gpu["devices"].push_back(name(text, sizeof(text) - 1, i) == 0 ? text : "unknown");
  }
  return gpu;
}

Json describe_disk(Json& problems) {
  std::error_code error;
  const std::filesystem::path here = std::filesystem::current_path(error);
  const auto space = std::filesystem::space(here, error);
  if (error) {
    problems.push_back("the free space of the current folder cannot be read: " + error.message());
    return {{"folder", here.string()}, {"free_bytes", nullptr}};
  }
  const auto free = static_cast<int64_t>(space.available);
  if (free < kLittleDisk)
    problems.push_back(fmt::format("only {} are free in {}: checkpoints may not fit", in_gib(free), here.string()));
  return {{"folder", here.string()}, {"free_bytes", free}};
}

Json examine() {
  Json problems = Json::array(), notes = Json::array();
  Json report = {{"version", RORQUAL_VERSION}, {"cpu", describe_cpu(problems, notes)}, {"memory", describe_memory(problems)}};
  Isa allowed = cpu_isa();
  try {
    allowed = allowed_isa();
  } catch (const Error&) {  // told as a problem of the CPU
  }
  report["kernels"] = describe_kernels(allowed);
  report["mpi"] = describe_mpi(problems);
  report["gpu"] = describe_gpus(problems);
  report["disk"] = describe_disk(problems);
  report["problems"] = problems;
  report["notes"] = notes;
  return report;
}

std::string joined(const Json& list) {
  std::string text;
  for (const Json& item : list) text += (text.empty() ? "" : ", ") + item.get<std::string>();
  return text.empty() ? "none" : text;
}

std::string text_or(const Json& value, const char* otherwise) {
  return value.is_string() ? value.get<std::string>() : value.is_null() ? otherwise : value.dump();
}

std::string in_words(const Json& report) {
  const Json& cpu = report["cpu"];
  const Json& memory = report["memory"];
  std::string text = fmt::format("rorqual {}\n\n", report["version"].get<std::string>());
  text += fmt::format("CPU        {}\n", text_or(cpu["model"], "unknown"));
  text += fmt::format("features   {}\n", joined(cpu["features"]));
  text += fmt::format("kernels    for {} (best here: {})\n", text_or(cpu["isa"], "nothing"), text_or(cpu["best_isa"], ""));
  text += fmt::format("threads    {} of {} CPUs allowed, {} in the machine{}\n", text_or(cpu["threads"], "unknown"),
                      cpu["allowed"].dump(), cpu["logical"].dump(),
                      cpu["quota"].is_null() ? "" : ", control group grants " + cpu["quota"].dump());
  text += fmt::format(
      "memory     {} available of {}{}\n", in_gib(memory["available_bytes"].get<int64_t>()),
      in_gib(memory["total_bytes"].get<int64_t>()),
      memory["limit_bytes"].is_null() ? "" : ", control group limits it to " + in_gib(memory["limit_bytes"].get<int64_t>()));
  const Json& disk = report["disk"];
  text += fmt::format("disk       {} free in {}\n",
                      disk["free_bytes"].is_null() ? "unknown" : in_gib(disk["free_bytes"].get<int64_t>()),
                      disk["folder"].get<std::string>());
  text += fmt::format("MPI        library {}, launcher {}\n", text_or(report["mpi"]["library"], "not found"),
                      text_or(report["mpi"]["launcher"], "not found"));
  text += fmt::format("GPU        {}\n", joined(report["gpu"]["devices"]));
  text += "\nKernels per operation, best first; the first that takes a call's types and shapes runs:\n";
  for (const Json& row : report["kernels"]) {
    text += fmt::format("  {:<23} {}", row["operation"].get<std::string>(), joined(row["kernels"]));
    text += row["left_out"].empty() ? "\n" : fmt::format("   (not here: {})\n", joined(row["left_out"]));
  }
  text += "\n";
  for (const Json& note : report["notes"]) text += "note: " + note.get<std::string>() + "\n";
  for (const Json& problem : report["problems"]) text += "problem: " + problem.get<std::string>() + "\n";
  if (report["problems"].empty()) text += "Nothing is wrong.\n";
  return text;
}

}  // namespace

void add_doctor(CLI::App& app) {
  auto json = std::make_shared<bool>(false);
  CLI::App* command =
      add_command(app, "doctor", "What this machine can do, which kernels run on it, and anything wrong", "rorqual doctor");
  add_json_flag(*command, *json);
  command->callback([json] {
    const Json report = examine();
    if (*json)
      print_json(report);
    else
      print_text(in_words(report));
  });
}

}  // namespace rorqual
