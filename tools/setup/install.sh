#!/usr/bin/env bash
# install.sh JOB…: installs the Debian packages that the jobs of packages.txt need and that are not there yet.
# As root directly, else through sudo; where neither can be had, prints the one line that installs them and fails.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if ! command -v dpkg-query >/dev/null; then
  echo "setup: this is not a Debian system; what is needed stands in tools/setup/packages.txt" >&2
  exit 0
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

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  # Without a terminal nobody can type a password.
  if command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
    as_root=(sudo)
  else
    echo "setup: these packages are missing, and installing them needs root. Run once as root:" >&2
    echo "  apt-get update && apt-get install -y --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
fi
echo "setup: installing ${missing[*]}" >&2
apt() { ${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=600 "$@" >&2; }
apt update || echo "setup: the package lists could not all be renewed; trying with those at hand" >&2
apt install --no-install-recommends "${missing[@]}"
