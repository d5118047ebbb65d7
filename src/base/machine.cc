#include "base/machine.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <string>

#include "base/error.h"
#include "base/file.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;

// A container without a memory limit shows v1's largest page-aligned number.
constexpr int64_t kUnlimited = int64_t{1} << 60;

std::string text_of(const fs::path& path) {
  try {
    return read_file(path);
  } catch (const Error&) {
    return "";
  }
}

std::optional<int64_t> number(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(" \t"), text.size()));
  int64_t value = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), value).ec != std::errc()) return std::nullopt;
  return value;
}

// The number behind `key` at the start of a line.
int64_t field(std::string_view text, std::string_view key) {
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = text.substr(begin, end - begin);
    if (line.starts_with(key)) return number(line.substr(key.size())).value_or(0);
    begin = end + 1;
  }
  return 0;
}

void tighten_memory(const fs::path& folder, bool v2, detail::ControlGroup& group) {
  const auto limit = number(text_of(folder / (v2 ? "memory.max" : "memory.limit_in_bytes")));
  if (!limit || *limit >= kUnlimited) return;  // "max" is no number
  group.memory_limit_bytes = std::min(group.memory_limit_bytes.value_or(INT64_MAX), *limit);
  const int64_t used = number(text_of(folder / (v2 ? "memory.current" : "memory.usage_in_bytes"))).value_or(0);
  const int64_t cache = field(text_of(folder / "memory.stat"), v2 ? "inactive_file " : "total_inactive_file ");
  group.memory_free_bytes = std::min(group.memory_free_bytes, std::max<int64_t>(*limit - used + cache, 0));
}

void tighten_cpu(const fs::path& folder, bool v2, detail::ControlGroup& group) {
  std::optional<int64_t> quota, period;
  if (v2) {
    const std::string text = text_of(folder / "cpu.max");  // "200000 100000" or "max 100000"
    quota = number(text);
    if (quota && text.find(' ') != std::string::npos) period = number(std::string_view(text).substr(text.find(' ')));
  } else {
    quota = number(text_of(folder / "cpu.cfs_quota_us"));
    period = number(text_of(folder / "cpu.cfs_period_us"));
  }
  if (!quota || !period || *quota <= 0 || *period <= 0) return;
  const double cpus = static_cast<double>(*quota) / static_cast<double>(*period);
  group.cpu_quota = std::min(group.cpu_quota.value_or(cpus), cpus);
}

// Calls visit for `path` below `mount` and for every group above it. Inside a container the path may be that of the host and
// not exist here; the mount itself is then the container's group.
template <class Visit>
void walk_up(const fs::path& mount, std::string_view path, Visit visit) {
  fs::path relative = fs::path(path).relative_path();
  for (;; relative = relative.parent_path()) {
    visit(mount / relative);
    if (relative.empty()) return;
  }
}

}  // namespace

detail::ControlGroup detail::read_control_groups(const fs::path& mount, std::string_view membership) {
  ControlGroup group;
  for (size_t begin = 0; begin < membership.size();) {
    const size_t end = std::min(membership.find('\n', begin), membership.size());
    const std::string_view line = membership.substr(begin, end - begin);  // "4:cpu,cpuacct:/path"; v2: "0::/path"
    begin = end + 1;
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string_view::npos) continue;
    const std::string controllers = "," + std::string(line.substr(first + 1, second - first - 1)) + ",";
    const std::string_view path = line.substr(second + 1);
    const bool v2 = controllers == ",,";
    if (v2 || controllers.find(",memory,") != std::string::npos)
      walk_up(v2 ? mount : mount / "memory", path, [&](const fs::path& folder) { tighten_memory(folder, v2, group); });
    if (v2 || controllers.find(",cpu,") != std::string::npos)
      walk_up(v2 ? mount : mount / "cpu", path, [&](const fs::path& folder) { tighten_cpu(folder, v2, group); });
  }
  return group;
}

MachineMemory detail::parse_meminfo(std::string_view text) {
  return {.total_bytes = field(text, "MemTotal:") * 1024,
          .available_bytes = field(text, "MemAvailable:") * 1024,
          .limit_bytes = {}};
}

MachineMemory machine_memory() {
  MachineMemory memory = detail::parse_meminfo(text_of("/proc/meminfo"));
  const auto group = detail::read_control_groups("/sys/fs/cgroup", text_of("/proc/self/cgroup"));
  memory.limit_bytes = group.memory_limit_bytes;
  memory.available_bytes = std::min(memory.available_bytes, group.memory_free_bytes);
  return memory;
}

MachineCpus machine_cpus() {
  MachineCpus cpus;
  cpus.logical = static_cast<int>(std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN)));
  cpu_set_t set;
  CPU_ZERO(&set);
  cpus.allowed = sched_getaffinity(0, sizeof(set), &set) == 0 ? std::max(1, CPU_COUNT(&set)) : cpus.logical;
  cpus.quota = detail::read_control_groups("/sys/fs/cgroup", text_of("/proc/self/cgroup")).cpu_quota;
  return cpus;
}

}  // namespace rorqual
