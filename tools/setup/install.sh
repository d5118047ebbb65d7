#!/usr/bin/env bash
# install.sh JOB…: installs the Debian packages that the jobs of packages.txt need and that are not there yet.
# install.sh --renew-lists: renews the package lists.
# As root directly, else through sudo; where neither can be had, prints the one line that does it and fails.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if ! command -v dpkg-query >/dev/null; then
  echo "setup: this is not a Debian system; what is needed stands in tools/setup/packages.txt" >&2
  exit 0
fi

as_root=()
become_root() {  # WHAT LINE: what it is for, and the line that does it by hand
  [ "$(id -u)" -eq 0 ] && return
  # Without a terminal nobody can type a password.
  if command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
    as_root=(sudo)
    return
  fi
  echo "setup: $1 needs root. Run once as root:" >&2
  echo "  $2" >&2
  exit 1
}
apt() {
  ${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=600 "$@" >&2
}

if [ "${1:-}" = --renew-lists ]; then
  become_root "renewing the package lists" "apt-get update"
  apt update
  exit
fi

wanted=()
while read -r job package _; do
  [[ " $* " == *" $job "* ]] && wanted+=("$package")
done < <(grep -v '^#' "$here/packages.txt")
[ ${#wanted[@]} -gt 0 ] || { echo "setup: no packages for the jobs '$*'" >&2; exit 2; }

installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "${wanted[@]}" 2>/dev/null || true)
missing=()
for package in "${wanted[@]}"; do
  grep -qxF "installed $package" <<<"$installed" || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

become_root "installing the missing packages (${missing[*]})" \
  "apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
echo "setup: installing ${missing[*]}" >&2
apt update || echo "setup: the package lists could not all be renewed; trying with those at hand" >&2
apt install --no-install-recommends "${missing[@]}"
