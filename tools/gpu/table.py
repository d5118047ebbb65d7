#!/usr/bin/env python3
"""The tables of docs/gpu.md: goals, and what was measured beside them.

    table.py [FOLDER] [--into FILE]
    table.py --merge FILE...            # one bench.json of several, to standard output

FOLDER holds what tools/gpu/run.sh wrote: bench.json (hopper_bench), peers.jsonl (gpu_peers.py), chip.txt. Without FOLDER, the goals
alone. --into FILE writes the tables between the lines `<!-- tables -->` and `<!-- end of tables -->` of FILE, else they are
printed. A goal is met, missed or not measured; exit 1 if one is missed.
"""

import argparse
import json
import pathlib
import sys

NOT_MEASURED = "not measured yet"
BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"

# Published for DeepGEMM on an H800 SXM5 (specification §2.4, the newest of its tables), unscaled: TFLOPS, GB/s.
PUBLISHED = {
    "fp8_linear/2112x7168/m64": (206, 1688), "fp8_linear/2112x7168/m128": (352, 1509), "fp8_linear/2112x7168/m4096": (1127, 562),
    "fp8_linear/24576x1536/m64": (289, 2455), "fp8_linear/24576x1536/m128": (535, 2448), "fp8_linear/24576x1536/m4096": (1212, 962),
    "fp8_linear/32768x512/m64": (219, 2143), "fp8_linear/32768x512/m128": (358, 2103), "fp8_linear/32768x512/m4096": (775, 1620),
    "fp8_linear/7168x16384/m64": (336, 2668), "fp8_linear/7168x16384/m128": (645, 2604), "fp8_linear/7168x16384/m4096": (1520, 384),
    "fp8_linear/4096x7168/m64": (287, 2320), "fp8_linear/4096x7168/m128": (533, 2221), "fp8_linear/4096x7168/m4096": (1410, 541),
    "fp8_linear/7168x2048/m64": (295, 2470), "fp8_linear/7168x2048/m128": (510, 2277), "fp8_linear/7168x2048/m4096": (1168, 794),
    "fp8_grouped/4096x7168/4x8192": (1346, 434), "fp8_grouped/7168x2048/4x8192": (1214, 752),
    "fp8_grouped/4096x7168/8x4096": (1346, 516), "fp8_grouped/7168x2048/8x4096": (1214, 826),
    "fp8_masked/4096x7168/1x1024": (1233, 924), "fp8_masked/7168x2048/1x1024": (925, 968),
    "fp8_masked/4096x7168/2x512": (1040, 1288), "fp8_masked/7168x2048/2x512": (916, 1405),
    "fp8_masked/4096x7168/4x256": (932, 2064), "fp8_masked/7168x2048/4x256": (815, 2047),
}

GRADIENTS = [f"fp8_gradient/{shape}" for shape in (
    "2112x7168/m4096", "24576x1536/m4096", "7168x16384/m4096", "4096x7168/m4096", "7168x2048/m4096",
    "4096x7168/4x8192", "7168x2048/4x8192", "4096x7168/8x4096", "7168x2048/8x4096")]

PASSES = [
    "quantise/BF16_to_E4M3/fp32", "quantise/BF16_to_E4M3/pow2", "quantise/F32_to_E4M3/fp32", "quantise/BF16_to_E5M6/pow2",
    "dequantise/E4M3_to_BF16", "dequantise/E5M6_to_BF16", "requantise_columns/E4M3_to_E4M3", "requantise_columns/E5M6_to_E4M3",
    "requantise_columns/BF16_to_E4M3", "quantise_dispatch/top8", "rmsnorm/BF16", "rmsnorm/BF16_to_E4M3", "rmsnorm/input_gradient",
    "rmsnorm/weight_gradient", "convert/F32_to_BF16", "gather_rows/BF16", "combine_rows/top8", "swiglu/BF16",
    "swiglu/BF16_to_E4M3_and_cache", "swiglu_backward/BF16", "swiglu_backward/cache_to_E4M3"]
# Reported, without a goal of their own: small, or bound by other things than memory.
OTHER_PASSES = ["router/256_top8", "rope/128_heads", "cross_entropy/F32", "cross_entropy/BF16", "adamw/BF16_moments",
                "adamw/BF16_moments_and_codes"]

ATTENTION_SHAPES = ["1x4096/128_heads", "4x4096/32_heads", "8x1024/64_heads"]
DECODE = ["128x4096/128_heads", "128x4096/16_heads", "32x8192/128_heads", "1x32768/128_heads"]
DECODE_WITH_GOAL = DECODE[:3]  # one sequence alone fills no GPU


class Results:
    """Figures by name (counters, or an error), peers by figure and name."""

    def __init__(self, folder=None):
        self.figures, self.peers, self.chips = {}, {}, set()
        if folder is None:
            return
        folder = pathlib.Path(folder)
        for line in read_lines(folder / "peers.jsonl"):
            peer = json.loads(line)
            self.peers.setdefault(peer["figure"], {})[peer["peer"]] = peer
        for path in sorted(folder.glob("bench*.json")):
            for entry in read_benchmarks(path):
                name = entry["name"].split("/iterations:")[0]
                self.figures[name] = entry
                if "label" in entry:
                    self.chips.add(entry["label"])

    def figure(self, name):
        entry = self.figures.get(name)
        return None if entry is None or entry.get("error_occurred") else entry

    def error(self, name):
        entry = self.figures.get(name, {})
        return entry.get("error_message") if entry.get("error_occurred") else None

    def peer_us(self, name, peers):
        """The fastest of these peers, from the Python process or as a counter of the figure."""
        times = [p["us"] for n, p in self.peers.get(name, {}).items() if n.startswith(peers) and "us" in p]
        entry = self.figure(name) or {}
        times += [value for key, value in entry.items() if key.endswith("_us") and key[:-3].startswith(peers)]
        return min(times) if times else None


def read_benchmarks(path):
    """The figures of a file of hopper_bench, also where the program was cut off: the last one without its end is left out."""
    text = path.read_text()
    try:
        return json.loads(text or "{}").get("benchmarks", [])
    except json.JSONDecodeError:
        head, found, _ = text.rpartition("\n    }")
        try:
            return json.loads(head + "\n    }]}")["benchmarks"] if found else []
        except json.JSONDecodeError:
            return []


def read_lines(path):
    return [line for line in path.read_text().splitlines() if line.startswith("{")] if path.exists() else []


class Table:
    """One row per figure; a goal is (text, value, least value)."""

    def __init__(self, title, columns):
        self.title, self.columns, self.rows, self.missed, self.met, self.open = title, columns, [], 0, 0, 0

    def add(self, results, name, cells, goals):
        entry, error = results.figure(name), results.error(name)
        missed = [f"{text}: {show(value, 2)}" for text, value, least in goals if value is not None and value < least]
        unknown = [text for text, value, _ in goals if value is None]
        self.missed += len(missed)
        self.open += len(unknown)
        self.met += len(goals) - len(missed) - len(unknown)
        if error:
            verdict = f"cannot run: {error}"
        elif entry is None:
            verdict = NOT_MEASURED
        else:
            parts = ["**missed** " + ", ".join(missed)] if missed else []
            parts += ["no peer for " + ", ".join(unknown)] if unknown else []
            verdict = "; ".join(parts) or ("met" if goals else "")
        self.rows.append([name.split("/", 1)[1] if self.title.startswith("FP8") else name, *cells, verdict])

    def markdown(self):
        lines = [f"### {self.title}", "", "| " + " | ".join(self.columns) + " |", "|" + "---|" * len(self.columns)]
        return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in self.rows])


def show(value, digits=0):
    return "" if value is None else f"{value:.{digits}f}"


def counter(entry, name):
    return None if entry is None else entry.get(name)


def ratio(peer_us, entry):
    return None if peer_us is None or entry is None else peer_us / entry["us"]


def products(results, title, names):
    """Published figures where there are some: M up to 128 is held against GB/s, all else against TFLOPS."""
    table = Table(title, ["N×K / rows", "µs", "TFLOPS", "GB/s", "H800, published", "× cuBLASLt FP8", "× Triton", "× BF16", "goals"])
    for name in names:
        entry = results.figure(name)
        lt = ratio(results.peer_us(name, ("cublaslt_fp8", "torch_scaled_mm")), entry)
        tri = ratio(results.peer_us(name, ("triton",)), entry)
        bf16 = ratio(results.peer_us(name, ("cublaslt_bf16", "torch_bf16")), entry)
        tflops, bandwidth = PUBLISHED.get(name, (None, None))
        goals = []
        if tflops is not None:
            by_bandwidth = name.endswith(("/m64", "/m128"))
            what, least = ("GB/s", bandwidth) if by_bandwidth else ("TFLOPS", tflops)
            goals.append((f"{what} ≥ {least}", counter(entry, what), least))
        if name.startswith("fp8_linear"):
            goals += [("1.05× cuBLASLt FP8", lt, 1.05), ("1.1× Triton", tri, 1.1)]
        elif lt is not None:  # one call for each group
            goals.append(("1.05× cuBLASLt FP8", lt, 1.05))
        published = "" if tflops is None else f"{tflops} TFLOPS, {bandwidth} GB/s"
        table.add(results, name, [show(counter(entry, "us"), 1), show(counter(entry, "TFLOPS")), show(counter(entry, "GB/s")),
                                  published, show(lt, 2), show(tri, 2), show(bf16, 2)], goals)
    return table


def passes(results):
    table = Table("Passes over memory: share of the measured copy bandwidth", ["figure", "µs", "GB/s", "of copy", "goal: 0.85"])
    for name in PASSES + OTHER_PASSES:
        entry = results.figure(name)
        goals = [("of copy ≥ 0.85", counter(entry, "of_copy"), 0.85)] if name in PASSES else []
        table.add(results, name, [show(counter(entry, "us"), 1), show(counter(entry, "GB/s")), show(counter(entry, "of_copy"), 2)],
                  goals)
    return table


def attention(results):
    table = Table("Attention of training, causal (FLOPs of the triangle once)",
                  ["figure", "µs", "TFLOPS", "goal, TFLOPS", "× fastest SDPA backend", "goals"])
    for direction, least in (("forward", 550), ("backward", 400)):
        for shape in ATTENTION_SHAPES:
            name = f"attention_{direction}/{shape}"
            entry = results.figure(name)
            peer = ratio(results.peer_us(name, ("sdpa",)), entry)
            goals = [("1.0× SDPA", peer, 1.0)]
            if "x4096/" in shape:
                goals.insert(0, (f"TFLOPS ≥ {least}", counter(entry, "TFLOPS"), least))
            table.add(results, name, [show(counter(entry, "us"), 1), show(counter(entry, "TFLOPS")),
                                      str(least) if "x4096/" in shape else "", show(peer, 2)], goals)
    return table


def decode(results):
    table = Table("Decoding, absorbed MLA over the paged cache", ["figure", "µs", "GB/s", "TFLOPS", "of copy", "goal: 0.85"])
    for shape in DECODE:
        name = f"attention_decode/{shape}"
        entry = results.figure(name)
        goals = [("of copy ≥ 0.85", counter(entry, "of_copy"), 0.85)] if shape in DECODE_WITH_GOAL else []
        table.add(results, name, [show(counter(entry, "us"), 1), show(counter(entry, "GB/s")), show(counter(entry, "TFLOPS")),
                                  show(counter(entry, "of_copy"), 2)], goals)
    return table


def layer(results):
    table = Table("A training step of one MoE layer", ["figure", "µs", "TFLOPS", "BF16, µs", "× BF16", "goal: 1.5"])
    for name in ("moe_layer/step", "moe_layer/forward", "moe_layer/backward"):
        entry = results.figure(name)
        faster = counter(entry, "vs_bf16")
        goals = [("1.5× BF16", faster, 1.5)] if name == "moe_layer/step" else []
        table.add(results, name, [show(counter(entry, "us")), show(counter(entry, "TFLOPS")), show(counter(entry, "bf16_us")),
                                  show(faster, 2)], goals)
    return table


def tables(results):
    named = lambda kind: [name for name in PUBLISHED if name.startswith(kind)]  # noqa: E731
    by_rows = sorted(named("fp8_linear"), key=lambda name: int(name.rsplit("/m", 1)[1]))
    return [products(results, "FP8 products, dense", by_rows),
            products(results, "FP8 products, grouped by contiguous rows", named("fp8_grouped")),
            products(results, "FP8 products, grouped and masked", named("fp8_masked")),
            products(results, "FP8 weight gradients", GRADIENTS),
            passes(results), attention(results), decode(results), layer(results)]


def render(results):
    parts = tables(results)
    missed, met, unmeasured = (sum(getattr(t, what) for t in parts) for what in ("missed", "met", "open"))
    copy = results.figure("copy/1GiB")
    head = [f"Goals met: {met}, missed: {missed}, not measured: {unmeasured}."]
    if results.chips:
        head.append("Chip: " + ", ".join(sorted(results.chips)) + ".")
    if copy:
        head.append(f"A copy of 1 GiB moves {copy['GB/s']:.0f} GB/s, read and written; from one empty kernel of a graph to the next "
                    f"{copy['launch_gap_us']:.2f} µs pass, which every figure includes.")
    return "\n\n".join([" ".join(head)] + [t.markdown() for t in parts]) + "\n", missed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", help="what tools/gpu/run.sh wrote")
    parser.add_argument("--into", metavar="FILE", help="replace the tables of this file")
    parser.add_argument("--merge", nargs="+", metavar="FILE", type=pathlib.Path, help="files of hopper_bench")
    args = parser.parse_args()
    if args.merge:
        json.dump({"benchmarks": [entry for path in args.merge if path.exists() for entry in read_benchmarks(path)]}, sys.stdout, indent=1)
        return
    if args.folder and not pathlib.Path(args.folder).is_dir():
        parser.error(f"{args.folder} is no folder; name what tools/gpu/run.sh wrote (build/gpu)")
    if args.into and not pathlib.Path(args.into).is_file():
        parser.error(f"{args.into} is no file")
    text, missed = render(Results(args.folder))
    if not args.into:
        print(text, end="")
    else:
        path = pathlib.Path(args.into)
        before, found, rest = path.read_text().partition(BEGIN)
        _, end, after = rest.partition(END)
        if not found or not end:
            sys.exit(f"table.py: {path} has no lines '{BEGIN}' and '{END}'")
        path.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
