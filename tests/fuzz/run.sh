#!/usr/bin/env bash
# run.sh BUILD SECONDS: runs every fuzz target of a build folder for that long, over a corpus that it keeps.
set -euo pipefail
build=$1 seconds=$2
shopt -s nullglob
targets=("$build"/*_fuzz)
[ ${#targets[@]} -gt 0 ] || { echo "fuzz: no target *_fuzz in $build" >&2; exit 1; }
for target in "${targets[@]}"; do
  name=$(basename "$target")
  corpus=$build/corpus/$name
  mkdir -p "$corpus"
  seeds=tests/fuzz/seeds/$name
  echo "fuzz: $name for $seconds s" >&2
  "$target" -max_total_time="$seconds" -timeout=10 -print_final_stats=1 -artifact_prefix="$build/$name-" \
    "$corpus" $([ -d "$seeds" ] && echo "$seeds")
done
