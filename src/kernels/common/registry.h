// How an operation finds its kernel: a table of rows, best first, the reference last. A row gives name, instruction set and a
// predicate; the same table feeds dispatch, tests (every row against the reference), benchmarks and `rorqual doctor`.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/cpu.h"
#include "base/error.h"
#include "base/threads.h"
#include "base/trace.h"

namespace rorqual {

// One kernel of an operation whose argument struct is Args.
template <class Args>
struct KernelRow {
  std::string_view name;  // "avx512_f32", unique within the operation
  Isa isa;
  // Empty if the kernel can run these arguments, else the reason why not. Asks nothing about the CPU.
  std::string (*refuse)(const Args&);
  void (*run)(const Args&, const Stream&);
};

// The first row that `allowed` covers and that does not refuse. The reference never refuses, so there always is one.
template <class Args>
const KernelRow<Args>& select_row(std::span<const KernelRow<Args>> rows, const Args& args, Isa allowed) {
  for (const KernelRow<Args>& row : rows)
    if (row.isa <= allowed && row.refuse(args).empty()) return row;
  CHECK(false, "no kernel accepts these arguments");
}

// "Linear" of LinearArgs: what a trace calls the operation.
template <class Args>
constexpr std::string_view operation_name() {
  std::string_view name = __PRETTY_FUNCTION__;  // "… [with Args = rorqual::LinearArgs; …]"
  name.remove_prefix(name.find("Args = ") + 7);
  name = name.substr(0, name.find_first_of(";]"));
  name.remove_prefix(name.rfind(':') == name.npos ? 0 : name.rfind(':') + 1);
  return name.ends_with("Args") ? name.substr(0, name.size() - 4) : name;
}

// Runs the row that this machine and RORQUAL_ISA allow; on a dry stream, none. Rows are the CPU's: a GPU's kernels are called
// by their own names (sm90a.h).
template <class Args>
void run_best(std::span<const KernelRow<Args>> rows, const Args& args, const Stream& stream) {
  CHECK(!stream.is_on_device(), "{} on a GPU's stream: call its kernel by name", operation_name<Args>());
  if (stream.is_dry()) return;
  const KernelRow<Args>& row = select_row(rows, args, allowed_isa());
  const TraceSpan span(operation_name<Args>(), row.name, TraceKind::kKernel);
  row.run(args, stream);
}

// A row's entry in `rorqual doctor`.
struct KernelSummary {
  std::string_view operation;
  std::string_view name;
  Isa isa;
};

template <class Args>
void append_summaries(std::string_view operation, std::span<const KernelRow<Args>> rows, std::vector<KernelSummary>& out) {
  for (const KernelRow<Args>& row : rows) out.push_back({operation, row.name, row.isa});
}

}  // namespace rorqual
