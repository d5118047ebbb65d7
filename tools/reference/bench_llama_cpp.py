#!/usr/bin/env python3
"""Speed of answers: rorqual and llama.cpp (llama-cpp-python) take turns on the same weights.

    bench_llama_cpp.py [--recipe small | --model MODEL] [--threads N]... [--rounds 5] [--batch N]... [--json]

rorqual exports the model as GGUF in BF16 and in Q8_0; llama.cpp runs these files, rorqual the model itself in FP8 and in BF16,
without drafts, all with the same number of threads. Measured are a prompt of 512 tokens up to its last token's logits, decoding
by batch size behind prompts of 16 tokens, and a cold start: from opening the model to the first token of a short prompt, the
files being in the system's memory. Without --model, the weights are those of a recipe after one training step, without MTP
modules.

llama.cpp runs at its best: warmed up, logits for the last token of a prompt alone, with flash attention or without and with one
cache for all sequences or one for each, whichever was faster for that figure in a trial, and it chooses no tokens: it is handed
the next one, while rorqual's figures include choosing it. Build llama-cpp-python for this CPU: pip's build looks at the CPU
itself, unless CMAKE_ARGS says otherwise. A ratio is the median over the rounds.
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import shapes

try:
    import llama_cpp
except ImportError as error:
    sys.exit(f"llama-cpp-python is missing ({error}): pip install -r tools/reference/requirements.txt, which builds llama.cpp "
             "from source, and run this script with that Python")

PROMPT, DECODE_PROMPT = 512, 16
FLASH_OFF, FLASH_ON = 0, 1
PEERS, OURS = ("bf16", "q8_0"), ("fp8", "bf16")


def log(text):
    print(text, file=sys.stderr, flush=True)


@llama_cpp.llama_log_callback
def silence(level, text, data):
    pass


class Model:
    """One GGUF file in llama.cpp."""

    def __init__(self, path, threads, batches, decode_tokens):
        self.threads, self.batches, self.decode_tokens = threads, batches, decode_tokens
        begin = time.perf_counter()
        settings = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
        if not self.model:
            sys.exit(f"llama.cpp does not load {path}")
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        context = self.context(FLASH_ON, True, 1, 64)
        self.decode(context, self.prompt_batch([self.tokens(8, 1)]))
        self.cold_start_s = time.perf_counter() - begin
        llama_cpp.llama_free(context)
        self.prefill_variant = self.best({f: self.time_prefill(f) for f in (FLASH_OFF, FLASH_ON)})
        self.decode_variant = {
            n: self.best({(f, unified): self.time_decode(n, f, unified)
                          for f in (FLASH_OFF, FLASH_ON) for unified in ((True, False) if n > 1 else (True,))})
            for n in batches}

    @staticmethod
    def best(seconds):
        return min(seconds, key=seconds.get)

    def tokens(self, count, seed):
        return [(seed * 7919 + i * 104729) % (self.vocabulary - 300) + 256 for i in range(count)]

    def context(self, flash, unified, sequences, length):
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = sequences * length
        settings.n_batch = settings.n_ubatch = max(PROMPT, sequences * DECODE_PROMPT)
        settings.n_seq_max = sequences
        settings.n_threads = settings.n_threads_batch = self.threads
        settings.flash_attn_type = flash
        settings.kv_unified = unified
        settings.no_perf = True
        context = llama_cpp.llama_init_from_model(self.model, settings)
        if not context:
            sys.exit("llama.cpp makes no context")
        return context

    def fill(self, batch, rows):
        """rows: (token, position, sequence, whether its logits are wanted)."""
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, wanted
            batch.seq_id[i][0] = sequence

    def prompt_batch(self, prompts):
        batch = llama_cpp.llama_batch_init(sum(map(len, prompts)), 0, 1)
        self.fill(batch, [(t, i, s, i + 1 == len(p)) for s, p in enumerate(prompts) for i, t in enumerate(p)])
        return batch

    def decode(self, context, batch):
        if llama_cpp.llama_decode(context, batch) != 0:
            sys.exit("llama_decode failed")
        llama_cpp.llama_synchronize(context)
        logits = llama_cpp.llama_get_logits_ith(context, batch.n_tokens - 1)
        if not ctypes.cast(logits, ctypes.c_void_p).value:
            sys.exit("llama.cpp computed no logits")

    def time_prefill(self, flash):
        """Seconds for one prompt, warmed up."""
        context = self.context(flash, True, 1, PROMPT + 64)
        batch = self.prompt_batch([self.tokens(PROMPT, 2)])
        for _ in range(2):
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
            begin = time.perf_counter()
            self.decode(context, batch)
            seconds = time.perf_counter() - begin
        llama_cpp.llama_batch_free(batch)
        llama_cpp.llama_free(context)
        return seconds

    def time_decode(self, sequences, flash, unified):
        """Seconds for decode_tokens - 1 steps behind the first token of every sequence."""
        context = self.context(flash, unified, sequences, DECODE_PROMPT + self.decode_tokens + 32)
        batch = self.prompt_batch([self.tokens(DECODE_PROMPT, 3 + s) for s in range(sequences)])
        self.decode(context, batch)
        steps = [[(t, DECODE_PROMPT + i, s, True) for s, t in enumerate(self.tokens(sequences, 100 + i))]
                 for i in range(self.decode_tokens)]
        self.fill(batch, steps[0])
        self.decode(context, batch)  # the graph of one token for each is built
        begin = time.perf_counter()
        for rows in steps[1:]:
            self.fill(batch, rows)
            self.decode(context, batch)
        seconds = time.perf_counter() - begin
        llama_cpp.llama_batch_free(batch)
        llama_cpp.llama_free(context)
        return seconds

    def measure(self):
        decode = {n: n * (self.decode_tokens - 1) / self.time_decode(n, *self.decode_variant[n]) for n in self.batches}
        return {"prefill": PROMPT / self.time_prefill(self.prefill_variant), "decode": decode, "cold_start_s": self.cold_start_s}

    def choices(self):
        return {"prefill": {"flash_attention": self.prefill_variant == FLASH_ON},
                "decode": [{"batch": n, "flash_attention": f == FLASH_ON, "unified_cache": u}
                           for n, (f, u) in self.decode_variant.items()]}


def measure_ours(model, threads, batches, decode_tokens):
    command = [shapes.PROGRAM, "bench", "serve", model, "--json", "--rounds", "1", "--prompt-tokens", str(PROMPT),
               "--decode-tokens", str(decode_tokens)]
    command += [word for p in OURS for word in ("--precision", p)] + [word for n in batches for word in ("--batch", str(n))]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
    found = {p["precision"]: p for p in json.loads(done.stdout)["precisions"]}
    for p in found.values():
        if p["prefill"]["tokens"] != PROMPT or any(d["tokens"] != decode_tokens for d in p["decode"]):
            sys.exit(f"the context of {model} is too short for a prompt of {PROMPT} tokens or for {decode_tokens} tokens")
    return {name: {"prefill": p["prefill"]["tokens_per_s"], "decode": {d["batch"]: d["tokens_per_s"] for d in p["decode"]},
                   "cold_start_s": p["cold_start_s"]} for name, p in found.items()}


def figures(side):
    return {"prefill": side["prefill"]} | {f"decode, batch {n}": rate for n, rate in side["decode"].items()}


def compare(threads, model, files, args):
    """The rounds with so many threads: {"threads", "figures", "cold_start_s", "choices"}."""
    peers = {name: Model(files[name], threads, args.batch, args.decode_tokens) for name in PEERS}
    rounds = []
    for number in range(args.rounds):
        ours = measure_ours(model, threads, args.batch, args.decode_tokens)
        sides = {f"rorqual {name}": side for name, side in ours.items()}
        sides |= {f"llama.cpp {name}": peer.measure() for name, peer in peers.items()}
        rounds.append(sides)
        log(f"{threads} threads, round {number + 1}: " + "; ".join(
            f"{name} {s['prefill']:.0f}, {s['decode'][args.batch[0]]:.0f}" for name, s in sides.items()) + " tokens/s")
    rows = []
    for figure in figures(rounds[0]["rorqual fp8"]):
        of = {name: [figures(sides[name])[figure] for sides in rounds] for name in rounds[0]}
        rows.append({"figure": figure, "tokens_per_s": {name: statistics.median(v) for name, v in of.items()}, "ratio": {
            f"{p} / {q}": statistics.median(a / b for a, b in zip(of[f"rorqual {p}"], of[f"llama.cpp {q}"]))
            for p in OURS for q in PEERS}})
    return {"threads": threads, "figures": rows, "choices": {name: peer.choices() for name, peer in peers.items()},
            "cold_start_s": {name: statistics.median(sides[name]["cold_start_s"] for sides in rounds) for name in rounds[0]}}


def print_table(result):
    for part in result["by_threads"]:
        names = list(part["figures"][0]["tokens_per_s"])
        ratios = list(part["figures"][0]["ratio"])
        print(f"{part['threads']} threads, tokens/s, median of {result['rounds']} rounds; ratios are ours / theirs")
        print("| | " + " | ".join(names) + " | " + " | ".join(ratios) + " |")
        print("|---" * (1 + len(names) + len(ratios)) + "|")
        for row in part["figures"]:
            print(f"| {row['figure']} | " + " | ".join(f"{row['tokens_per_s'][n]:.0f}" for n in names) + " | "
                  + " | ".join(f"{row['ratio'][n]:.2f}" for n in ratios) + " |")
        print("| cold start, s | " + " | ".join(f"{part['cold_start_s'][n]:.2f}" for n in names) + " |" + " |" * len(ratios))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="small", help="whose weights after one step are run")
    parser.add_argument("--model", help="a model or run directory to run instead")
    parser.add_argument("--threads", type=int, action="append", help="may be repeated (default: 1 and 2)")
    parser.add_argument("--batch", type=int, action="append", help="sequences that decode at once (default: 1, 4 and 16)")
    parser.add_argument("--decode-tokens", type=int, default=64, help="of each sequence (default: 64)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    args = parser.parse_args()
    args.batch = args.batch or [1, 4, 16]
    llama_cpp.llama_log_set(silence, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    with tempfile.TemporaryDirectory() as folder:
        run = args.model
        if run is None:
            run = os.path.join(folder, "run")
            data = [word for name in ("src", "docs", "tests") for word in ("--data", shapes.ROOT / name)]
            shapes.run("train", args.recipe, "--out", run, "--steps", 1, *data, "--set", "model.num_nextn_predict_layers=0",
                       "--set", "model.max_position_embeddings=1024")
        model = os.path.join(folder, "model")  # without a run's held-out text: no drafts are measured
        shapes.run("export", run, "--to", model, "--dtype", "bf16")
        files = {name: os.path.join(folder, f"{name}.gguf") for name in PEERS}
        for name, file in files.items():
            shapes.run("export", model, "--to", file, "--dtype", name)
        result = {"model": args.model or args.recipe, "rounds": args.rounds, "llama_cpp_python": llama_cpp.__version__,
                  "llama_cpp": llama_cpp.llama_print_system_info().decode(),
                  "by_threads": [compare(n, model, files, args) for n in args.threads or [1, 2]]}
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        print(f"llama-cpp-python {result['llama_cpp_python']}: {result['llama_cpp']}")
        print_table(result)


if __name__ == "__main__":
    main()
