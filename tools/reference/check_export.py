#!/usr/bin/env python3
"""Load an export of rorqual in unmodified transformers and compare its loss on a text with `rorqual score`.

    check_export.py [--program build/release/rorqual] [--model MODEL] [--text FILE]

Without --model, a run of a few steps of the recipe `tiny` on this repository's own files is trained first. Exports MODEL in
FP32, tokenizes FILE (by default README.md) with the Rust tokenizers library, scores it by transformers as `rorqual score` does
(a BOS, windows that do not overlap) and exits 1 unless ids and loss agree: loss within 1e-5 nats per token, since both sides
compute in FP32 and a mean over thousands of tokens averages their rounding.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers
from tokenizers import Tokenizer


ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS = 5  # enough that norms, biases of the routers and every weight have left their first values


def train(program, out):
    data = [word for folder in ("src", "docs", "tests") for word in ("--data", str(ROOT / folder))]
    done = subprocess.run([program, "train", "tiny", *data, "--out", out, "--set", f"train.steps={STEPS}"], capture_output=True,
                          text=True)
    if done.returncode != 0:
        sys.exit(f"check_export.py: training tiny failed:\n{done.stderr}")
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=str(ROOT / "build/release/rorqual"))
    parser.add_argument("--model", help="model or run directory; by default one is trained")
    parser.add_argument("--text", default=str(ROOT / "README.md"))
    args = parser.parse_args()
    program = args.program
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with open(args.text, encoding="utf-8", errors="surrogateescape") as file:
        text = file.read()[:40000]
    with tempfile.TemporaryDirectory() as folder:
        export, part = os.path.join(folder, "export"), os.path.join(folder, "part.txt")
        model = args.model or train(program, os.path.join(folder, "run"))
        with open(part, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        subprocess.run([program, "export", model, "--to", export, "--dtype", "f32"], check=True)
        ours = json.loads(subprocess.run([program, "score", export, "--file", part, "--precision", "fp32", "--json"],
                                         check=True, capture_output=True).stdout)
        config = json.load(open(os.path.join(export, "config.json"), encoding="utf-8"))
        loaded = transformers.AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32)
        loaded.eval()
        ids = [config["bos_token_id"]] + Tokenizer.from_file(os.path.join(export, "tokenizer.json")).encode(
            text, add_special_tokens=False).ids
        window, nll = config["max_position_embeddings"], 0.0
        with torch.no_grad():
            for begin in range(0, len(ids) - 1, window):
                piece = torch.tensor([ids[begin:begin + window + 1]])
                logits = loaded(piece[:, :-1]).logits[0].double()
                nll += torch.nn.functional.cross_entropy(logits, piece[0, 1:], reduction="sum").item()
        theirs = nll / (len(ids) - 1)
    print(f"{type(loaded).__name__}: rorqual {ours['loss']:.7f}, transformers {theirs:.7f} nats per token, "
          f"{ours['tokens']} and {len(ids) - 1} tokens")
    return 0 if ours["tokens"] == len(ids) - 1 and abs(ours["loss"] - theirs) <= 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
