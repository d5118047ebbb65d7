#!/usr/bin/env python3
"""Speed of encoding with DeepSeek-V3's tokenizer: rorqual and PyPI's `tokenizers` take turns on the same text, one thread each.

    cmake --build build/release --target data_bench
    python3 tools/reference/bench_tokenizer.py TEXT... [--bench build/release/data_bench] [--rounds 3]

TEXT is a file or a folder (files below it, .gz unpacked). Both contestants are warm: each encodes the text once before it is
timed. Figures are MB (10^6 bytes) per second of the thread's own CPU time, so that a busy machine changes little; the ratio is the
median over the rounds.
"""
import argparse
import gzip
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
import tokenizers  # noqa: E402: it reads the environment when it is loaded

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden/tokenizer/deepseek_v3_tokenizer.json.zst"


def read_text(paths):
    parts = []
    for path in paths:
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            data = file.read_bytes()
            data = gzip.decompress(data) if file.suffix == ".gz" else data
            if b"\0" not in data:
                parts.append(data)
    # The library takes valid UTF-8 only.
    return b"".join(parts).decode("utf-8", "replace")


def ours(bench, path):
    done = subprocess.run([bench, "--benchmark_filter=BM_Encode$", "--benchmark_min_time=2", "--benchmark_format=json"],
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, cwd=ROOT,
                          env=dict(os.environ, RORQUAL_BENCH_TEXT=str(path)))
    return json.loads(done.stdout)["benchmarks"][0]["bytes_per_second"] / 1e6


def theirs(library, text):
    start = time.thread_time()
    library.encode(text, add_special_tokens=False)
    return len(text.encode()) / (time.thread_time() - start) / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="+", type=pathlib.Path)
    parser.add_argument("--bench", default=str(ROOT / "build/release/data_bench"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--library-mb", type=float, default=4, help="text that the library encodes per round, from the start")
    args = parser.parse_args()
    text = read_text(args.text)
    part = text[:int(args.library_mb * 1e6)]
    with tempfile.TemporaryDirectory() as temporary:
        model, whole = pathlib.Path(temporary) / "tokenizer.json", pathlib.Path(temporary) / "text"
        subprocess.run(["zstd", "-q", "-d", str(GOLDEN), "-o", str(model)], check=True)
        whole.write_text(text, encoding="utf-8", newline="")
        library = tokenizers.Tokenizer.from_file(str(model))
        theirs(library, part)
        print("text: %.1f MB, tokenizers %s" % (len(text.encode()) / 1e6, tokenizers.__version__))
        ratios, speeds = [], []
        for _ in range(args.rounds):
            a, b = ours(args.bench, whole), theirs(library, part)
            speeds.append(a)
            ratios.append(a / b)
            print("rorqual %.1f MB/s, tokenizers %.2f MB/s: %.0f times" % (a, b, a / b))
    print("median: %.1f MB/s per thread, %.0f times tokenizers" % (statistics.median(speeds), statistics.median(ratios)))
    return 0


sys.exit(main())
