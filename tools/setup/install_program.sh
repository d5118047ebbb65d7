#!/usr/bin/env bash
# install_program.sh PROGRAM PREFIX: program, recipes, manual page and bash completion below PREFIX.
set -euo pipefail
program=$1 prefix=$2
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$top/tools/setup/manual_page.sh" "$program" >"$work/rorqual.1"
"$program" completion bash >"$work/rorqual.bash"

put() {  # MODE FROM TO, folders made readable for everyone whatever the umask
  install -d -m 755 "$(dirname "$3")"
  install -m "$1" "$2" "$3"
}
umask 022
put 755 "$program" "$prefix/bin/rorqual"
put 644 "$work/rorqual.1" "$prefix/share/man/man1/rorqual.1"
put 644 "$work/rorqual.bash" "$prefix/share/bash-completion/completions/rorqual"
put 644 "$top/LICENSE" "$prefix/share/doc/rorqual/LICENSE"
for recipe in "$top"/recipes/*.toml "$top"/recipes/clusters/*.toml; do
  [ -e "$recipe" ] || continue
  put 644 "$recipe" "$prefix/share/rorqual/${recipe#"$top"/}"
done
echo "installed below $prefix: bin/rorqual, share/rorqual/recipes, share/man/man1/rorqual.1" >&2
