#!/usr/bin/env bash
# run.sh [-o FOLDER] [-b FOLDER] [SECTION]...: tests and measures the CUDA kernels on a Hopper GPU, within nine minutes.
#   -o FOLDER   where results go (build/gpu): test.txt, memcheck.txt, racecheck.txt, bench.txt, bench.json,
#               peers.jsonl, tables.md, chip.txt
#   -b FOLDER   where hopper_test and hopper_bench lie (build/release, or what pack.sh made)
# Sections, in this order; all but profile if none is named:
#   chip        the GPU, its driver and the CUDA tools
#   test        hopper_test, RORQUAL_SUITE_JOBS (4) suites at once
#   memcheck, racecheck   compute-sanitizer over the tests that RORQUAL_SANITIZER_FILTER names
#   bench       hopper_bench: RORQUAL_BENCH_FILTER, a regular expression, chooses figures (-^tiles/: all but the sweep of tiles)
#   peers       PyTorch and Triton (tools/reference/gpu_peers.py)
#   table       the tables of docs/gpu.md, from what lies in FOLDER
#   profile     Nsight Compute over the figures that RORQUAL_BENCH_FILTER names (slow; name one)
# Each section has a time limit and leaves what it had if it runs into it. Exit 1 if a section failed or a goal was missed.
# shellcheck disable=SC2317  # functions run in shells of their own, under a time limit
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
out=$root/build/gpu built=$root/build/release
usage() { sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
while getopts o:b:h option; do
  case $option in
    o) out=$OPTARG ;;
    b) built=$OPTARG ;;
    h) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
done
shift $((OPTIND - 1))
sections=("$@")
[ ${#sections[@]} -gt 0 ] || sections=(chip test memcheck racecheck bench peers table)
for section in "${sections[@]}"; do
  case $section in
    chip | test | memcheck | racecheck | bench | peers | table | profile) ;;
    *) echo "run.sh: there is no section '$section'" >&2; usage >&2; exit 2 ;;
  esac
done
mkdir -p "$out"
out=$(cd "$out" && pwd)
built=$(cd "$built" && pwd) || exit 2

# compute-sanitizer makes kernels 10 to 100 times slower.
sanitizer_filter=${RORQUAL_SANITIZER_FILTER:-*Sm90a*:Primitives*}
bench_filter=${RORQUAL_BENCH_FILTER:--^tiles/}
sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)

failed=()
# run SECONDS NAME COMMAND…: with a time limit; says how long it took and how it ended.
run() {
  local limit=$1 name=$2 start=$SECONDS status=0
  shift 2
  echo "== $name"
  timeout --kill-after=5 "$limit" "$@" || status=$?
  [ "$status" -eq 0 ] || failed+=("$name")
  case $status in
    0) echo "== $name: done in $((SECONDS - start)) s" ;;
    124 | 137) echo "== $name: cut off after $((SECONDS - start)) s" ;;
    *) echo "== $name: FAILED with status $status after $((SECONDS - start)) s" ;;
  esac
}

chip() {
  {
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.max.sm,power.limit --format=csv || return
    for tool in nvcc compute-sanitizer ncu; do command -v "$tool" || echo "no $tool"; done
  } > "$out/chip.txt" 2>&1
  local status=$?
  cat "$out/chip.txt"
  return "$status"
}
# The suites of tests that a filter leaves, one a line.
suites() {
  "$built/hopper_test" --gtest_list_tests --gtest_filter="$1" | grep -E '^[A-Za-z0-9_/]+\.$'
}
# one_suite SUITE SECONDS COMMAND…: COMMAND on the suite; its output goes to the section's log, what failed is shown.
one_suite() {
  local suite=$1 limit=$2 status=0 log
  shift 2
  log=$(mktemp)
  timeout --kill-after=5 "$limit" "$@" --gtest_brief=1 --gtest_filter="$suite*" > "$log" 2>&1 || status=$?
  { echo "==== $suite status $status"; cat "$log"; } >> "$out/$section.txt"
  # Skipped tests are no success on a machine that is here to run them.
  if [ "$status" -eq 0 ] && ! grep -q SKIPPED "$log"; then
    echo "ok      $suite $(grep PASSED "$log" | head -n 1)"
  else
    [ "$status" -ne 0 ] || status=1
    echo "FAILED  $suite status $status"
    grep -vE '^(Note: |\[=+\]|Running main)' "$log" | head -n 12 | cut -c1-220
  fi
  rm -f "$log"
  return "$status"
}
# each_suite FILTER SECONDS COMMAND…: every suite in a process of its own, a few at once: what breaks the GPU's context or hangs
# neither breaks nor delays another suite.
each_suite() {
  local filter=$1
  shift
  suites "$filter" | xargs -P "${RORQUAL_SUITE_JOBS:-4}" -I{} bash -c 'one_suite "$@"' _ {} "$@"
}
tests() { each_suite '*' 60 "$built/hopper_test"; }
sanitise() {
  each_suite "$sanitizer_filter" 45 "$sanitizer" --tool "$section" --target-processes all --error-exitcode 9 "$built/hopper_test"
}
# Each family of figures in a process of its own, likewise.
bench() {
  local names family figures status=0 bad=0 parts
  parts=$(mktemp -d)
  names=$("$built/hopper_bench" --benchmark_list_tests --benchmark_filter="$bench_filter")
  while read -r family; do
    status=0
    if [ "$SECONDS" -gt 130 ]; then
      echo "no time  $family"
      bad=1
      continue
    fi
    figures=$(grep "^$family/" <<< "$names" | paste -sd'|')
    timeout --kill-after=5 45 "$built/hopper_bench" --benchmark_filter="^($figures)\$" --benchmark_out="$parts/$family.json" \
      --benchmark_out_format=json > "$parts/$family.txt" 2>&1 < /dev/null || status=$?
    cat "$parts/$family.txt" >> "$out/bench.txt"
    grep "^$family/" "$parts/$family.txt" | cut -c1-220
    if [ "$status" -ne 0 ] || grep -q error_occurred "$parts/$family.json"; then
      echo "FAILED  $family status $status"
      bad=1
    fi
  done < <(cut -d/ -f1 <<< "$names" | awk '!seen[$0]++ { print ($0 ~ /^(copy|fp8|attention|moe)/ ? 0 : 1), $0 }' | sort | cut -d' ' -f2)
  python3 "$here/table.py" --merge "$parts"/*.json > "$out/bench.json" && rm -r "$parts"
  return "$bad"
}
peers() {
  python3 "$root/tools/reference/gpu_peers.py" --seconds 0.15 > "$out/peers.jsonl"
  local status=$?
  grep -h '"error"' "$out/peers.jsonl" | cut -c1-200 | sort -u | head -n 20
  return "$status"
}
make_table() {
  python3 "$here/table.py" "$out" > "$out/tables.md"
  local status=$?
  cat "$out/tables.md"
  return "$status"
}
profile() {
  ncu --clock-control none --set full --launch-count 3 --launch-skip 2 --force-overwrite --export "$out/profile" \
    "$built/hopper_bench" --benchmark_filter="$bench_filter" > "$out/profile.txt" 2>&1
  local status=$?
  ncu --import "$out/profile.ncu-rep" --page details > "$out/profile_details.txt" 2>&1
  grep -E 'Duration|Throughput|Registers Per|Local|Bank conflict|Stall' "$out/profile_details.txt" | head -n 60
  return "$status"
}
export -f chip tests suites one_suite each_suite sanitise bench peers make_table profile
export out built root here sanitizer sanitizer_filter bench_filter section

for section in "${sections[@]}"; do
  case $section in
    test | memcheck | racecheck | bench) rm -f "$out/$section.txt" ;;
  esac
  case $section in
    chip) run 15 chip bash -c chip ;;
    test) run 110 test bash -c tests ;;
    memcheck | racecheck) run 70 "$section" bash -c sanitise ;;
    bench) run 180 bench bash -c bench ;;
    peers) run 80 peers bash -c peers ;;
    table) run 15 table bash -c make_table ;;
    profile) run 300 profile bash -c profile ;;
  esac
done
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
