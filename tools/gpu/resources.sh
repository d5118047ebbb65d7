#!/usr/bin/env bash
# resources.sh [-a] [FILE.cu]...: what kernels take of a multiprocessor, as a Markdown table, from ptxas; no GPU is needed. All
# device code if no file is named. The instances of a template are one row (registers: fewest and most); -a: a row each. Dynamic
# shared memory is chosen at launch and not listed. Exit 1 if a kernel spills registers, or if ptxas waits where the source does
# not (its remarks C75xx: products of the tensor cores that do not overlap).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
all=0
if [ "${1:-}" = -a ]; then all=1; shift; fi
if [ $# -gt 0 ]; then files=("$@"); else mapfile -t files < <(find src -name '*.cu' ! -name '*_test.cu' | sort); fi
command -v nvcc >/dev/null || { echo "resources.sh: nvcc is not there" >&2; exit 2; }
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Flags of hopper_device (cmake/RorqualHopper.cmake).
resources() {
  nvcc -gencode=arch=compute_90a,code=sm_90a -std=c++20 -fmad=false --expt-relaxed-constexpr -lineinfo -O2 -Isrc -Xptxas -v \
    -cubin -o /dev/null "$1" 2>&1 | sed "s|^|$1 |"
}
export -f resources
printf '%s\n' "${files[@]}" | xargs -P "${JOBS:-1}" -I{} bash -c 'resources {}' > "$log" || { cat "$log" >&2; exit 2; }
c++filt < "$log" | awk -v all="$all" '
  # "…kernel<1, 2>(parameters)" without namespaces and parameters
  function name_of(line) {
    sub(/.*(Compiling entry function|Function properties for) /, "", line)
    gsub(/\(anonymous namespace\)::|rorqual::|hopper::/, "", line)
    gsub(/\047| for \047?sm_90a\047?/, "", line)
    sub(/^void /, "", line)
    depth = 0
    for (i = 1; i <= length(line); ++i) {
      c = substr(line, i, 1)
      if (c == "<") ++depth
      if (c == ">") --depth
      if (c == "(" && depth == 0) return substr(line, 1, i - 1)
    }
    return line
  }
  function amount(pattern) { return match($0, pattern) ? substr($0, RSTART, RLENGTH) + 0 : 0 }
  function row(file, kernel, count, registers, barriers, stack, spilled) {
    printf "| %s | `%s` | %s | %s | %s | %s | %s |\n", file, kernel, count, registers, barriers, stack, spilled
  }
  BEGIN { print "| file | kernel | instances | registers | barriers | stack, bytes | spilled, bytes |"; print "|---|---|---|---|---|---|---|" }
  /C75[0-9][0-9]/ { print > "/dev/stderr"; bad = 1 }
  /Compiling entry function/ { kernel = name_of($0); file = $1; sub(/^src\//, "", file); stack = spilled = 0 }
  /bytes stack frame/ {
    stack = amount("[0-9]+ bytes stack")
    spilled = amount("[0-9]+ bytes spill stores") + amount("[0-9]+ bytes spill loads")
  }
  /Used [0-9]+ registers/ {
    match($0, /Used [0-9]+/)
    registers = substr($0, RSTART + 5, RLENGTH - 5) + 0
    barriers = amount("[0-9]+ barriers")
    if (spilled > 0) bad = 1
    if (!all) { sub(/<.*/, "", kernel); sub(/.*::/, "", kernel) }
    key = file SUBSEP kernel
    if (!(key in count)) { order[++keys] = key; least[key] = registers }
    ++count[key]
    if (registers < least[key]) least[key] = registers
    if (registers > most[key]) most[key] = registers
    if (barriers > barriers_of[key]) barriers_of[key] = barriers
    if (stack > stack_of[key]) stack_of[key] = stack
    spilled_of[key] += spilled
  }
  END {
    for (i = 1; i <= keys; ++i) {
      key = order[i]
      split(key, part, SUBSEP)
      range = least[key] == most[key] ? most[key] : least[key] " to " most[key]
      row(part[1], part[2], count[key], range, barriers_of[key] + 0, stack_of[key] + 0, spilled_of[key] + 0)
    }
    exit bad
  }'
