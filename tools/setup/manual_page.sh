#!/usr/bin/env bash
# manual_page.sh PROGRAM: the manual page rorqual(1), made of what --help says of the program and of each command.
set -euo pipefail
program=$1

# Text as it stands: backslashes, and dots and quotes that open a line, mean something to roff.
verbatim() { sed -e 's/\\/\\e/g' -e 's/-/\\-/g' -e "s/^[.']/\\\\\\&&/"; }
commands_of() { "$program" "$@" --help | sed -n '/^Subcommands:/,/^$/s/^  \([a-z][a-z-]*\) .*/\1/p'; }
section() {  # COMMAND…: its help, then that of its own commands
  printf '.SS "rorqual%s"\n.nf\n' "${*:+ $*}"
  "$program" "$@" --help | verbatim
  printf '.fi\n'
  local command
  for command in $(commands_of "$@"); do section "$@" "$command"; done
}

version=$("$program" --version)
cat <<PAGE
.TH RORQUAL 1 "" "$version" "User Commands"
.SH NAME
rorqual \- train, evaluate and serve DeepSeek\-V3\-style language models
.SH SYNOPSIS
.B rorqual
.I COMMAND
[\fIOPTIONS\fR]
.SH DESCRIPTION
PAGE
section
cat <<'PAGE'
.SH ENVIRONMENT
.TP
.B OMP_NUM_THREADS
Threads to use; the CPUs of the affinity mask if it is not set.
.TP
.B RORQUAL_ISA
Forces the kernels of an instruction set: reference, avx2, avx512 or amx.
.SH EXIT STATUS
0 on success, 1 for a failure at run time (files, data, memory), 2 for a mistake in the command line or a recipe.
PAGE
