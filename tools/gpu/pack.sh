#!/usr/bin/env bash
# pack.sh FOLDER [BUILD]: hopper_test and hopper_bench of BUILD (build/release), stripped, with the shared libraries that they need
# and tools/, for a GPU machine that cannot build. There: FOLDER/tools/gpu/run.sh -b FOLDER -o RESULTS
# Left out: the driver, libc and the compiler's loader, and libcublasLt (hundreds of MiB), which the wrappers find in the CUDA toolkit
# or among Python's packages of that machine.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
to=$1 build=${2:-$root/build/release}
most_mib=60
for program in hopper_test hopper_bench; do
  [ -x "$build/$program" ] || { echo "pack.sh: $build/$program is not there: build it where nvcc is" >&2; exit 1; }
done

rm -rf "$to"
mkdir -p "$to/bin" "$to/lib" "$to/tools/reference"
cp -r "$root/tools/gpu" "$to/tools/"
cp "$root/tools/reference/gpu_peers.py" "$to/tools/reference/"
for program in hopper_test hopper_bench; do
  strip --strip-unneeded -o "$to/bin/$program" "$build/$program"
  ldd "$build/$program" | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' |
    grep -vE '/(libc|libm|libdl|librt|libpthread|ld-linux[^/]*|libcuda|libcublas|libcublasLt)\.so' |
    while read -r library; do cp -Lf "$library" "$to/lib/"; done
  cat > "$to/$program" <<'WRAPPER'
#!/usr/bin/env bash
# Runs bin/ with lib/, and with the libcublasLt of this machine.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cublas=
if ! ldconfig -p 2>/dev/null | grep -q 'libcublasLt\.so\.13'; then
  for folder in /usr/local/cuda*/lib64 /usr/local/cuda*/lib /usr/local/cuda*/targets/*/lib \
    $(python3 -c 'import glob, sys; print(*(p for s in sys.path for p in glob.glob(s + "/nvidia/*/lib")))' 2>/dev/null); do
    [ -e "$folder/libcublasLt.so.13" ] && cublas=:$folder && break
  done
fi
LD_LIBRARY_PATH=$here/lib$cublas${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec "$here/bin/$(basename "$0")" "$@"
WRAPPER
  chmod +x "$to/$program"
done
find "$to/lib" -name '*.so*' -exec strip --strip-unneeded {} + 2>/dev/null || true

mib=$(du -sm "$to" | cut -f1)
echo "$to: $mib MiB"
[ "$mib" -lt "$most_mib" ] || { echo "pack.sh: more than $most_mib MiB" >&2; exit 1; }
