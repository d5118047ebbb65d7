#!/usr/bin/env bash
# The demo: trains the recipe `tiny` on the Linux kernel documentation and compares its bits per byte on held-out text with
# zstd -19 and xz -9e. Everything lies in build/demo. Safe to repeat: what is done is kept, a run that was cut short goes on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
program=${RORQUAL_PROGRAM:-build/release/rorqual}
work=build/demo
corpus=$work/corpus
run=$work/run
mkdir -p "$work"

say() { printf '%s\n' "$*" >&2; }

download() { (cd "$work/package" && apt-get -q -o APT::Sandbox::User=root download linux-doc-6.1 >&2); }

# The documents of Debian's linux-doc-6.1, each once: the package holds every one a second time below html/.
get_corpus() {
  [ -e "$work/corpus.complete" ] && return
  local package
  rm -rf "$corpus" "$work/package"
  mkdir -p "$corpus" "$work/package"
  say "demo: getting the Linux kernel documentation (37 MB)"
  download || { tools/setup/install.sh --renew-lists && download; } ||
    { say "demo: linux-doc-6.1 cannot be downloaded: is the network reachable, and are the package lists new ('apt-get update')?"; exit 1; }
  package=$(find "$work/package" -name '*.deb')
  dpkg-deb -x "$package" "$work/package/root"
  (cd "$work/package/root/usr/share/doc/linux-doc-6.1/Documentation" &&
    find . -path ./html -prune -o -name '*.rst.gz' -print0 | tar --null -T - -cf -) | tar -xf - -C "$corpus"
  rm -rf "$work/package"
  local documents
  documents=$(find "$corpus" -name '*.rst.gz' | wc -l)
  [ "$documents" -gt 3000 ] || { say "demo: only $documents documents in linux-doc-6.1, about 3,184 were expected"; exit 1; }
  say "demo: $documents documents"
  touch "$work/corpus.complete"
}

steps_planned() { awk -F'[ =]+' '/^\[/ { table = $0 } table == "[train]" && $1 == "steps" { gsub("_", "", $2); print $2 }' "$run/recipe.toml"; }
steps_done() { tail -n 1 "$run/metrics.jsonl" | sed -n 's/.*"step": *\([0-9]*\).*/\1/p'; }
finished() {
  [ -s "$run/metrics.jsonl" ] && [ -s "$run/recipe.toml" ] && [ -n "$(ls -A "$run/checkpoints" 2>/dev/null)" ] &&
    [ "$(steps_done)" -ge "$(steps_planned)" ]
}

train() {
  if finished; then
    say "demo: $run is trained; 'rm -r $run' to train again"
    return
  fi
  if [ -n "$(ls -A "$run/checkpoints" 2>/dev/null)" ]; then
    say "demo: going on with $run"
    "$program" train tiny --data "$corpus" --out "$run" --resume
  else
    rm -rf "$run"
    "$program" train tiny --data "$corpus" --out "$run"
  fi
  # Ctrl-C saves and exits with 0.
  finished || { say "demo: training was stopped before its last step; 'make demo' goes on"; exit 1; }
}

# The value of a key in a JSON object on one or more lines.
json_number() { sed -n "s/.*\"$1\": *\(-\{0,1\}[0-9][0-9.eE+-]*\).*/\1/p" | head -n 1; }
bits_per_byte() { awk -v packed="$1" -v bytes="$2" 'BEGIN { printf "%.3f", 8 * packed / bytes }'; }

get_corpus
train

say "demo: scoring the held-out text"
score=$("$program" score "$run" --file "$run/heldout.txt" --json)
loss=$(json_number loss <<<"$score")
ours=$(json_number bits_per_byte <<<"$score")
bytes=$(stat -c %s "$run/heldout.txt")
zstd=$(bits_per_byte "$(zstd -19 -q -c "$run/heldout.txt" | wc -c)" "$bytes")
xz=$(bits_per_byte "$(xz -9e -c "$run/heldout.txt" | wc -c)" "$bytes")

printf '\nHeld-out text: %s bytes that neither the model nor its tokenizer has seen\n' "$bytes"
printf '  loss            %.4f nats per token\n' "$loss"
printf '  bits per byte   %.3f   rorqual tiny\n' "$ours"
printf '                  %.3f   zstd -19\n' "$zstd"
printf '                  %.3f   xz -9e\n' "$xz"

printf '\nSamples:\n'
seed=1
for prompt in "The scheduler" "To enable this driver, " "Memory is allocated"; do
  printf -- '--- %s\n' "$prompt"
  "$program" generate "$run" --prompt "$prompt" --max-tokens 60 --temperature 0.7 --top-p 0.9 --seed "$seed"
  printf '\n'
  seed=$((seed + 1))
done

newest=$(find "$run/checkpoints" -mindepth 1 -maxdepth 1 | sort | tail -n 1)
printf '\nWhere things lie:\n'
printf '  model    %s\n' "$newest"
printf '  metrics  %s\n' "$run/metrics.jsonl"
printf '  report   %s\n' "$run/report.html"

if ! awk -v a="$ours" -v b="$zstd" -v c="$xz" 'BEGIN { exit !(a < b && a < c) }'; then
  say "demo: the model's bits per byte do not beat both compressors"
  exit 1
fi
