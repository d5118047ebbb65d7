#!/usr/bin/env python3
"""Peers of the Hopper kernels, timed on a GPU at the same shapes: one JSON line per figure.

    gpu_peers.py [--only PREFIX]... [--seconds N] [--check]

Each line: {"figure", "peer", "us", "TFLOPS" or "GB/s", "chip"} or, where a peer cannot run, {"figure", "peer", "error"}. Figures
are named as in hopper_bench. Peers:
  triton           FP8 with 1×128 and 128×128 scales in Triton, written here after the description of DeepSeek's inference kernel
  torch_scaled_mm  torch._scaled_mm with the same scales (cuBLASLt), in the arrangement of scales that gives the right result
  torch_bf16       torch.mm in BF16 (cuBLAS)
  deep_gemm        DeepGEMM, where it can be imported
  sdpa_*           scaled_dot_product_attention with each backend, head sizes 192 and 128, causal (FLOPs of the triangle once)
  torch_copy       copy of 1 GiB, bytes read and written
Times: calls recorded into a CUDA graph over inputs that together exceed the L2, median of many replays; attention in a plain loop.
Every product is compared with FP32 on dequantised operands before it is timed. Needs torch, triton and a GPU: exits 2 without.
--check runs the Triton kernel on small shapes alone (with TRITON_INTERPRET=1 on a CPU, too).
"""

import argparse
import json
import os
import statistics
import sys
import time

try:
    import torch
    import triton
    import triton.language as tl
except ImportError as e:
    print(f"gpu_peers.py: {e}; it needs PyTorch and Triton", file=sys.stderr)
    sys.exit(2)

DENSE = [(2112, 7168), (24576, 1536), (32768, 512), (7168, 16384), (4096, 7168), (7168, 2048)]
ATTENTION = [(1, 4096, 128), (4, 4096, 32), (8, 1024, 64)]  # sequences, length, heads
GROUP = 128


# ---- FP8 in Triton ------------------------------------------------------------------------------------------------------------


@triton.jit
def fp8_block_kernel(a, b, c, a_scale, b_scale, m, n, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """c [m, n] BF16 = a [m, k] · b [n, k]ᵀ; every 128 of k the tensor cores' sum is scaled and added in FP32."""
    rows = (tl.program_id(0) * BM + tl.arange(0, BM)) % m
    cols = (tl.program_id(1) * BN + tl.arange(0, BN)) % n
    steps = tl.arange(0, BK)
    blocks = tl.cdiv(k, BK)
    a_at = a + rows[:, None] * k + steps[None, :]
    b_at = b + cols[None, :] * k + steps[:, None]
    a_scale_at = a_scale + rows * blocks
    b_scale_at = b_scale + cols // 128 * blocks
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for block in range(blocks):
        left = k - block * BK
        x = tl.load(a_at, mask=steps[None, :] < left, other=0.0)
        y = tl.load(b_at, mask=steps[:, None] < left, other=0.0)
        total += tl.dot(x, y) * tl.load(a_scale_at)[:, None] * tl.load(b_scale_at)[None, :]
        a_at += BK
        b_at += BK
        a_scale_at += 1
        b_scale_at += 1
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    cols = tl.program_id(1) * BN + tl.arange(0, BN)
    inside = (rows[:, None] < m) & (cols[None, :] < n)
    tl.store(c + rows[:, None] * n + cols[None, :], total.to(c.dtype.element_ty), mask=inside)


# (rows, columns, stages, warps) of a tile; the fastest is found for each shape.
TILES = [(64, 32, 6, 4), (64, 64, 5, 4), (64, 128, 4, 4), (64, 128, 4, 8), (128, 64, 4, 4), (128, 128, 3, 8), (128, 128, 4, 8)]


def triton_product(a, b, a_scale, b_scale, c, tile):
    (m, k), n = a.shape, b.shape[0]
    bm, bn, stages, warps = tile
    grid = (triton.cdiv(m, bm), triton.cdiv(n, bn))
    fp8_block_kernel[grid](a, b, c, a_scale, b_scale, m, n, k, BM=bm, BN=bn, BK=GROUP, num_stages=stages, num_warps=warps)


# ---- operands -----------------------------------------------------------------------------------------------------------------


class Operands:
    """FP8 codes of normal numbers with scales 1×128 of a and 128×128 of b, and the numbers in BF16."""

    def __init__(self, m, n, k, device):
        self.a16 = torch.randn(m, k, device=device, dtype=torch.bfloat16)
        self.b16 = torch.randn(n, k, device=device, dtype=torch.bfloat16)
        self.a, self.a_scale = quantise(self.a16, 1)
        self.b, self.b_scale = quantise(self.b16, GROUP)
        self.c = torch.empty(m, n, device=device, dtype=torch.bfloat16)

    def expected(self):
        return dequantise(self.a, self.a_scale, 1) @ dequantise(self.b, self.b_scale, GROUP).t()


def blocks_of(x, rows):
    """x padded to whole blocks of rows×128: [row blocks, rows, column blocks, 128]."""
    r, c = -x.shape[0] % rows, -x.shape[1] % GROUP
    padded = torch.nn.functional.pad(x.float(), (0, c, 0, r))
    return padded.view(padded.shape[0] // rows, rows, padded.shape[1] // GROUP, GROUP)


def quantise(x, rows):
    blocks = blocks_of(x, rows)
    scale = blocks.abs().amax(dim=(1, 3), keepdim=True).clamp(min=1e-30) / 448
    codes = (blocks / scale).flatten(2).flatten(0, 1)[: x.shape[0], : x.shape[1]]
    return codes.to(torch.float8_e4m3fn).contiguous(), scale[:, 0, :, 0].contiguous()


def dequantise(codes, scale, rows):
    blocks = blocks_of(codes, rows) * scale[:, None, :, None]
    return blocks.flatten(2).flatten(0, 1)[: codes.shape[0], : codes.shape[1]]


def check(c, expected, what):
    error = ((c.float() - expected).norm() / expected.norm()).item()
    if not error < 5e-3:  # BF16 results, and the tensor cores' short sums
        raise RuntimeError(f"{what} is wrong: relative error {error:.2e}")


# ---- timing -------------------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self, seconds):
        self.seconds = seconds
        properties = torch.cuda.get_device_properties(0)
        self.chip, self.l2_bytes = properties.name, getattr(properties, "L2_cache_size", 50 << 20)

    def sets(self, set_bytes):
        return max(2, min(64, -(-3 * self.l2_bytes // set_bytes) + 1))

    def median_us(self, calls, run, seconds=None):
        """run() makes `calls` calls."""
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        samples, end = [], time.monotonic() + (self.seconds if seconds is None else seconds)
        while len(samples) < 5 or (time.monotonic() < end and len(samples) < 101):
            start.record()
            run()
            stop.record()
            stop.synchronize()
            samples.append(start.elapsed_time(stop) * 1000 / calls)
        return statistics.median(samples)

    def graph_us(self, call, sets, seconds=None):
        """Of call(set), recorded for as many turns over all sets as take about 3 ms."""
        call(0)
        turn_us = sets * self.replayed_us(call, sets, 1, 0)
        turns = max(1, min(int(3000 / turn_us), 512 // sets))
        return self.replayed_us(call, sets, turns, seconds)

    def replayed_us(self, call, sets, turns, seconds):
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for i in range(turns * sets):
                call(i % sets)
        return self.median_us(turns * sets, graph.replay, seconds)


def emit(figure, peer, clock, us, flops=0, moved=0):
    line = {"figure": figure, "peer": peer, "us": round(us, 3), "chip": clock.chip}
    if flops:
        line["TFLOPS"] = round(flops / us * 1e-6, 1)
    if moved:
        line["GB/s"] = round(moved / us * 1e-3, 1)
    print(json.dumps(line), flush=True)


def attempt(figure, peer, body):
    try:
        body()
    except Exception as e:  # a peer that cannot run is reported, and the others go on
        print(json.dumps({"figure": figure, "peer": peer, "error": f"{type(e).__name__}: {e}".splitlines()[0][:200]}), flush=True)
        torch.cuda.synchronize()


# ---- products -----------------------------------------------------------------------------------------------------------------


def scaled_mm_variants(o):
    """Arrangements of scales that torch._scaled_mm may want (they changed between releases)."""
    a_scale = o.a_scale.t().contiguous().t()  # rows contiguous
    columns = o.b_scale.shape[1]
    padded = torch.nn.functional.pad(o.b_scale, (0, -columns % 4))[:, :columns]
    for name, b_scale in {"padded": padded.t(), "plain": o.b_scale.t(), "contiguous": o.b_scale.t().contiguous()}.items():
        yield name, lambda a=a_scale, b=b_scale: torch._scaled_mm(
            o.a, o.b.t(), scale_a=a, scale_b=b, out_dtype=torch.bfloat16, use_fast_accum=False)


def scaled_mm_call(sets):
    """A call of the first arrangement that is right."""
    failures = []
    expected = sets[0].expected()
    for name, first in scaled_mm_variants(sets[0]):
        try:
            check(first(), expected, name)
        except Exception as e:
            failures.append(f"{name}: {e}".splitlines()[0][:90])
            continue
        calls = [dict(scaled_mm_variants(o))[name] for o in sets]
        return lambda i: calls[i]()
    raise RuntimeError("; ".join(failures))


def dense(clock, device, only):
    for m in (64, 128, 4096):
        for n, k in DENSE:
            figure = f"fp8_linear/{n}x{k}/m{m}"
            if not figure.startswith(only):
                continue
            flops, moved = 2 * m * n * k, m * k + n * k + 2 * m * n
            sets = [Operands(m, n, k, device) for _ in range(clock.sets(moved))]

            def with_triton():
                expected, times = sets[0].expected(), {}
                for tile in TILES:
                    def call(i, tile=tile):
                        o = sets[i]
                        triton_product(o.a, o.b, o.a_scale, o.b_scale, o.c, tile)
                    try:
                        call(0)
                    except triton.runtime.errors.OutOfResources:
                        continue
                    check(sets[0].c, expected, f"tile {tile}")
                    times[call] = clock.graph_us(call, len(sets), 0)
                fastest = min(times, key=times.get)
                emit(figure, "triton", clock, clock.graph_us(fastest, len(sets)), flops, moved)

            def with_scaled_mm():
                emit(figure, "torch_scaled_mm", clock, clock.graph_us(scaled_mm_call(sets), len(sets)), flops, moved)

            def with_bf16():
                us = clock.graph_us(lambda i: torch.mm(sets[i].a16, sets[i].b16.t(), out=sets[i].c), len(sets))
                emit(figure, "torch_bf16", clock, us, flops)

            def with_deep_gemm():
                import deep_gemm
                def call(i):
                    o = sets[i]
                    deep_gemm.fp8_gemm_nt((o.a, o.a_scale), (o.b, o.b_scale), o.c)
                call(0)
                check(sets[0].c, sets[0].expected(), "deep_gemm")
                emit(figure, "deep_gemm", clock, clock.graph_us(call, len(sets)), flops, moved)

            attempt(figure, "triton", with_triton)
            attempt(figure, "torch_scaled_mm", with_scaled_mm)
            attempt(figure, "torch_bf16", with_bf16)
            if has_deep_gemm():
                attempt(figure, "deep_gemm", with_deep_gemm)
            del sets


def has_deep_gemm():
    import importlib.util
    return importlib.util.find_spec("deep_gemm") is not None


# ---- attention ----------------------------------------------------------------------------------------------------------------


def attention(clock, device, only):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    backends = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION}
    for batch, length, heads in ATTENTION:
        shape = f"{batch}x{length}/{heads}_heads"
        forward, backward = f"attention_forward/{shape}", f"attention_backward/{shape}"
        if not (forward.startswith(only) or backward.startswith(only)):
            continue
        pairs = batch * heads * length * length / 2
        q, k = (torch.randn(batch, heads, length, 192, device=device, dtype=torch.bfloat16, requires_grad=True) for _ in "qk")
        v = torch.randn(batch, heads, length, 128, device=device, dtype=torch.bfloat16, requires_grad=True)
        d_o = torch.randn(batch, heads, length, 128, device=device, dtype=torch.bfloat16)
        # Where a backend wants equal head sizes, values are padded, and the padding is not counted.
        wide = torch.nn.functional.pad(v.detach(), (0, 64)).requires_grad_()
        d_wide = torch.nn.functional.pad(d_o, (0, 64))
        for name, backend in backends.items():
            for suffix, value, gradient in (("", v, d_o), ("_padded", wide, d_wide)):
                def run():
                    return torch.nn.functional.scaled_dot_product_attention(q, k, value, is_causal=True)

                def time_both():
                    calls = 10
                    with sdpa_kernel(backend):
                        with torch.no_grad():
                            run()
                            us = clock.median_us(calls, lambda: [run() for _ in range(calls)])
                        emit(forward, f"sdpa_{name}{suffix}", clock, us, pairs * 2 * 320)
                        o = run()
                        def back():
                            torch.autograd.grad(o, (q, k, value), gradient, retain_graph=True)
                        back()
                        us = clock.median_us(calls, lambda: [back() for _ in range(calls)])
                        emit(backward, f"sdpa_{name}{suffix}", clock, us, pairs * 2 * 832)

                attempt(forward, f"sdpa_{name}{suffix}", time_both)
        del q, k, v, d_o, wide, d_wide


def copy(clock, device, only):
    figure = "copy/1GiB"
    if not figure.startswith(only):
        return
    a, b = (torch.randn(1 << 29, device=device).to(torch.bfloat16) for _ in "ab")
    emit(figure, "torch_copy", clock, clock.graph_us(lambda i: b.copy_(a), 1), moved=2 << 30)


def small_check():
    """The Triton kernel on ragged shapes, wherever Triton runs."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(1)
    for m, n, k in ((64, 128, 256), (37, 200, 384), (130, 144, 128)):
        o = Operands(m, n, k, device)
        for tile in TILES[1:6:2] if device == "cpu" else TILES:
            o.c.fill_(float("nan"))
            triton_product(o.a, o.b, o.a_scale, o.b_scale, o.c, tile)
            check(o.c, o.expected(), f"{m}×{n}×{k}, tile {tile}")
    print("triton: right on all shapes")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", default=[], metavar="PREFIX", help="figures whose name begins so; may be repeated")
    parser.add_argument("--seconds", type=float, default=0.3, help="to time one peer of one figure for")
    parser.add_argument("--check", action="store_true", help="only compare the Triton kernel with FP32 on small shapes")
    args = parser.parse_args()
    if not torch.cuda.is_available() and not (args.check and os.environ.get("TRITON_INTERPRET") == "1"):
        print("gpu_peers.py: torch finds no GPU", file=sys.stderr)
        sys.exit(2)
    if args.check:
        small_check()
        return
    torch.manual_seed(1)
    torch.backends.cuda.matmul.allow_tf32 = False  # the expected results
    clock, only = Clock(args.seconds), tuple(args.only) or ("",)
    for part in (copy, attention, dense):
        part(clock, "cuda", only)


if __name__ == "__main__":
    main()
