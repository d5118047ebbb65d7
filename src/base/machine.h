// Memory and processors that this process may use, limits of control groups (v1 and v2) included.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>

namespace rorqual {

struct MachineMemory {
  int64_t total_bytes = 0;             // of the machine
  int64_t available_bytes = 0;         // to this process now, without swapping: the tightest of machine and control groups
  std::optional<int64_t> limit_bytes;  // of the tightest control group
};

struct MachineCpus {
  int logical = 0;              // CPUs that are online
  int allowed = 0;              // CPUs of this process's affinity mask
  std::optional<double> quota;  // CPUs' worth of time that the tightest control group grants
};

MachineMemory machine_memory();
MachineCpus machine_cpus();

namespace detail {

struct ControlGroup {
  std::optional<int64_t> memory_limit_bytes;
  int64_t memory_free_bytes = INT64_MAX;  // below the limit; caches that the kernel would drop count as free
  std::optional<double> cpu_quota;
};

// The tightest limits on the way from the groups that `membership` (the text of /proc/self/cgroup) names up to the root, read
// below `mount` (/sys/fs/cgroup). Files that are missing or unreadable limit nothing.
ControlGroup read_control_groups(const std::filesystem::path& mount, std::string_view membership);

// MemTotal and MemAvailable of a text like /proc/meminfo, in bytes; 0 for what is missing.
MachineMemory parse_meminfo(std::string_view text);

}  // namespace detail
}  // namespace rorqual
