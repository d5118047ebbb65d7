#!/usr/bin/env python3
"""rorqual and PyTorch by turns on one recipe: tokens per second of full training steps, and their ratio.

    bench_train.py RECIPE [--precision fp8]... [--program build/release/rorqual] [options of bench_torch.py]

First every variant of bench_torch.py makes a few steps (unless one alone is named); then the fastest of them and rorqual, in
each precision asked for (bf16 and fp8 if none is), take turns. The ratio is the median over the rounds, because the machine's speed drifts. Prints one
JSON object. A recipe is a name under recipes/, or a TOML file.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

import bench_torch

ROOT = pathlib.Path(__file__).resolve().parents[2]


def recipe_file(name):
    named = ROOT / "recipes" / f"{name}.toml"
    return str(named if named.is_file() else name)


def run_ours(program, recipe, precision, steps, overrides):
    command = [program, "bench", "train", recipe, "--json", "--steps", str(steps), "--set", f"precision={precision}"]
    for item in overrides:
        command += ["--set", item]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)["tokens_per_s"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    bench_torch.add_arguments(parser)
    parser.add_argument("--precision", action="append", choices=["fp8", "bf16", "fp32"])
    parser.add_argument("--program", default=str(ROOT / "build/release/rorqual"))
    a = parser.parse_args()
    precisions = a.precision or ["bf16", "fp8"]
    recipe = recipe_file(a.recipe)
    bench_torch.start()
    if not os.access(a.program, os.X_OK):
        raise SystemExit(f"{a.program} is not there: make build, or name it with --program")
    model, train = bench_torch.read_recipe(recipe, a.set)

    def log(text):
        print(text, file=sys.stderr, flush=True)

    names = a.variant or bench_torch.all_variants()
    if len(names) > 1:
        trainers, speed, failures = bench_torch.compare(model, train, names, 1, 2, a.limit_s, log)
    else:  # nothing to choose from
        trainer, failure = bench_torch.prepare(names[0], model, train, a.limit_s)
        trainers, speed, failures = {names[0]: trainer}, {}, {names[0]: failure} if failure else {}
    if not any(trainers.values()):
        raise SystemExit("no variant of PyTorch runs: " + json.dumps(failures))
    best = max(speed, key=speed.get) if speed else names[0]
    log(f"in PyTorch: {best}" + (f", the fastest, {speed[best]:.0f} tokens/s" if speed else ""))
    trainer = trainers[best]
    trainers.clear()
    ratios, torch_speed, our_speed = ({p: [] for p in precisions} for _ in range(3))
    for turn in range(a.rounds):
        for precision in precisions:
            trainer.step()
            seconds = statistics.median(trainer.step() for _ in range(a.steps))
            theirs = trainer.tokens_per_step() / seconds
            ours = run_ours(a.program, recipe, precision, a.steps, a.set)
            torch_speed[precision].append(theirs)
            our_speed[precision].append(ours)
            ratios[precision].append(ours / theirs)
            log(f"round {turn + 1}: rorqual {precision} {ours:.0f}, PyTorch {theirs:.0f} tokens/s: {ours / theirs:.2f}")
    print(json.dumps({
        "recipe": a.recipe, "machine": bench_torch.machine(), "variants": speed, "failures": failures, "peer": best,
        "rows": [{
            "precision": p, "tokens_per_s": statistics.median(our_speed[p]),
            "peer_tokens_per_s": statistics.median(torch_speed[p]), "ratio": statistics.median(ratios[p]),
            "ratio_range": [min(ratios[p]), max(ratios[p])]} for p in precisions]}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
