#!/usr/bin/env bash
# run.sh [-o FOLDER] [-b FOLDER] [SECTION]...: tests and measures the CUDA kernels on a Hopper GPU, within nine minutes.
#   -o FOLDER   where results go (build/gpu): test.txt, memcheck.txt, racecheck.txt, bench.txt, bench.json,
#               peers.jsonl, tables.md, chip.txt
#   -b FOLDER   where hopper_test and hopper_bench lie (build/release, or what pack.sh made)
# Sections, in this order; all but profile if none is named:
#   chip        the GPU, its driver and the CUDA tools
#   test        hopper_test
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
# each_suite FILTER SECONDS COMMAND…: COMMAND on each suite, in a process of its own: what breaks the GPU's context or hangs, breaks
# or delays no other suite.
each_suite() {
  local filter=$1 limit=$2 suite status=0 bad=0
  shift 2
  for suite in $(suites "$filter"); do
    status=0
    timeout --kill-after=5 "$limit" "$@" --gtest_brief=1 --gtest_filter="$suite*" > "$out/suite.txt" 2>&1 || status=$?
    { echo "==== $suite status $status"; cat "$out/suite.txt"; } >> "$out/$section.txt"
    # Skipped tests are no success on a machine that is here to run them.
    if [ "$status" -eq 0 ] && ! grep -q SKIPPED "$out/suite.txt"; then
      echo "ok      $suite $(grep -E 'PASSED' "$out/suite.txt" | head -n 1)"
      continue
    fi
    bad=1
    echo "FAILED  $suite status $status"
    grep -vE '^(Note: |\[=+\]|Running main)' "$out/suite.txt" | head -n 12 | cut -c1-220
  done
  rm -f "$out/suite.txt"
  return "$bad"
}
tests() { each_suite '*' 60 "$built/hopper_test"; }
sanitise() {
  each_suite "$sanitizer_filter" 30 "$sanitizer" --tool "$section" --target-processes all --error-exitcode 9 "$built/hopper_test"
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
export -f chip tests suites each_suite sanitise bench peers make_table profile
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
