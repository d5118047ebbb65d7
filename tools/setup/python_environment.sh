#!/usr/bin/env bash
# python_environment.sh FOLDER REQUIREMENTS: a Python environment with these packages; made anew when the list changes.
set -euo pipefail
folder=$1 requirements=$2
cmp -s "$requirements" "$folder/requirements.txt" && exit 0
rm -rf "$folder"
export CMAKE_ARGS="-DLLAVA_BUILD=OFF"  # llama.cpp is built from source; its image part is not needed
python3 -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements" >&2
cp "$requirements" "$folder/requirements.txt"
