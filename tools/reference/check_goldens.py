#!/usr/bin/env python3
"""Make the goldens again into a temporary folder and compare them with tests/golden/model/. Exits 1 on a difference.

First the stored files must have the sizes and SHA-256 of manifest.json. With the pinned versions on the same kind of
CPU the new files are the same bytes; elsewhere sums round in another order, so values are compared:
- config.json, integer tensors, weights, tokens and token weights: equal
- FP64 results: within 1e-11 * max(1, max|x|). Rounding gives about 1e-15; Adam's division by sqrt(v) + 1e-8 turns a
  gradient's error of 1e-17 into up to lr * 1e-17 / 1e-8 = 1e-12 a step.
- fp32_error: the new error within 8 times the stored one, or 2^-23 * max|x| where that is larger, and not far below:
  the FP32 rounding of one machine is a draw that another machine does not repeat.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")

import safetensors.torch
import torch

from configs import CONFIGS
from make_goldens import FILES, GOLDEN_FOLDER, versions, write


def compare_tensors(stored, made):
    """Problems as text."""
    problems = [f"{key}: on one side only" for key in sorted(set(stored) ^ set(made))]
    for key in sorted(set(stored) & set(made)):
        x, y = stored[key], made[key]
        if x.dtype != y.dtype or x.shape != y.shape:
            problems.append(f"{key}: {x.dtype} {list(x.shape)} became {y.dtype} {list(y.shape)}")
        elif key.startswith("fp32_error."):
            of = stored[key.removeprefix("fp32_error.")]
            floor = 2.0**-23 * max(of.abs().max().item(), 1e-30)
            if not y.item() <= 8 * max(x.item(), floor) or not x.item() <= 8 * max(y.item(), floor):
                problems.append(f"{key}: {x.item():.3e} became {y.item():.3e}")
        elif not x.is_floating_point() or key == "token_weights":
            if not torch.equal(x, y):
                problems.append(f"{key}: not equal")
        else:
            error = (x - y).abs().max().item()
            if not error <= 1e-11 * max(1.0, x.abs().max().item()):
                problems.append(f"{key}: off by {error:.3e}")
    return problems


def read(path):
    with open(path, "rb") as file:
        return file.read()


def check(name, manifest, folder):
    """Problems of one golden as text."""
    problems, same_bytes = [], True
    scratch = {"goldens": {}}
    write(folder, name, scratch, check=True)
    for file_name in FILES:
        stored, made = read(os.path.join(GOLDEN_FOLDER, name, file_name)), read(os.path.join(folder, name, file_name))
        entry = manifest["goldens"][name]["files"][file_name]
        if len(stored) != entry["bytes"] or hashlib.sha256(stored).hexdigest() != entry["sha256"]:
            problems.append(f"{file_name}: not the bytes of manifest.json")
        if stored == made:
            continue
        same_bytes = False
        if file_name == "golden.safetensors":
            problems += compare_tensors(safetensors.torch.load(stored), safetensors.torch.load(made))
        else:
            problems.append(f"{file_name}: differs")
    print(f"{'FAIL' if problems else 'ok  '} {name}{': same bytes' if same_bytes else ''}")
    for problem in problems:
        print(f"     {problem}")
    return not problems


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="configurations (default: all)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    with open(os.path.join(GOLDEN_FOLDER, "manifest.json"), encoding="utf-8") as file:
        manifest = json.load(file)
    if manifest["versions"] != versions():
        print(f"note: goldens were made with {manifest['versions']}, this is {versions()}")
    with tempfile.TemporaryDirectory() as folder:
        passed = [check(name, manifest, folder) for name in args.names or CONFIGS]
    if not args.names and set(manifest["goldens"]) != set(CONFIGS):
        print(f"FAIL manifest.json lists other goldens: {sorted(set(manifest['goldens']) ^ set(CONFIGS))}")
        passed.append(False)
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
