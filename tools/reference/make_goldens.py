#!/usr/bin/env python3
"""Write the model goldens: config.json, weights.safetensors, golden.safetensors per configuration, and manifest.json.

The format stands in tests/golden/model/README.md.
"""

import argparse
import hashlib
import json
import math
import os
import platform
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import safetensors
import safetensors.torch
import torch

from configs import CONFIGS, MARGIN, RENUMBERINGS, SPREAD
from model import Model, is_routing_bias, tensor_shapes

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GOLDEN_FOLDER = os.path.join(REPOSITORY, "tests", "golden", "model")
FILES = ("config.json", "weights.safetensors", "golden.safetensors")


def initial_state(config, seed):
    """Weights (float32), tokens [B, T+1], token weights [B, T] (float32), from numpy's PCG64."""
    run, rng = config["rorqual"], np.random.default_rng(seed)
    weights = {}
    for name, shape in tensor_shapes(config).items():
        x = rng.standard_normal(shape)
        if is_routing_bias(name):
            x = 0.1 * x
            if "idle_expert" in run:
                x[run["idle_expert"]] = -2.0
        elif len(shape) == 1:
            x = 1.0 + 0.1 * x
        else:
            x = x * run["router_init_std" if name.endswith("mlp.gate.weight") else "init_std"]
        weights[name] = torch.from_numpy(x.astype(np.float32))
    batch, length = run["batch"], run["seq_len"]
    tokens = torch.from_numpy(rng.integers(0, config["vocab_size"], (batch, length + 1)))
    token_weights = np.ones((batch, length), np.float32)
    if run.get("token_weights") == "random":
        kind, fraction = rng.integers(0, 3, (batch, length)), rng.random((batch, length), np.float32)
        token_weights = np.where(kind == 2, fraction, kind).astype(np.float32)
    return weights, tokens, torch.from_numpy(token_weights)


class Unsuitable(Exception):
    """The seed does not give a golden that can be compared with."""


def train(config, weights, tokens, token_weights, dtype, margin=0.0):
    """Train for the configured steps on one batch. Returns golden tensors by name and the least margin."""
    run = config["rorqual"]
    weights = {name: w.to(dtype).clone() for name, w in weights.items()}
    token_weights = token_weights.to(dtype)
    trained = {name: w.requires_grad_() for name, w in weights.items() if not is_routing_bias(name)}
    optimizer = torch.optim.AdamW(
        [{"params": [w for w in trained.values() if w.dim() == 2], "weight_decay": run["weight_decay"]},
         {"params": [w for w in trained.values() if w.dim() != 2], "weight_decay": 0.0}],
        lr=run["learning_rate"], betas=(run["adam_beta1"], run["adam_beta2"]), eps=run["adam_eps"], foreach=False)
    golden, losses, norms, least = {}, [], [], math.inf
    for step in range(run["steps"]):
        out = Model(config, weights).forward(tokens, token_weights)
        least = min([least] + [r.margin for r in out.routing.values()])
        if least < margin:
            raise Unsuitable(f"margin {least:.2e} at step {step}")
        optimizer.zero_grad()
        out.total_loss.backward()
        for w in trained.values():  # an expert nobody chose still has its (zero) gradient, and decays
            if w.grad is None:
                w.grad = torch.zeros_like(w)
        if step == 0:
            golden |= first_step(out, trained)
        losses.append(out.total_loss.detach())
        norms.append(torch.nn.utils.clip_grad_norm_(list(trained.values()), run["clip_norm"], foreach=False))
        optimizer.step()
        for layer, routing in out.routing.items():
            bias = weights.get(f"model.layers.{layer}.mlp.gate.e_score_correction_bias")
            if bias is not None:
                load = routing.load
                bias -= run["bias_update_speed"] * torch.sign(load * load.numel() - load.sum()).to(dtype)
    golden["losses10"], golden["grad_norms10"] = torch.stack(losses), torch.stack(norms)
    golden["grad_norm"] = norms[0]
    golden |= {f"weight10.{name}": w.detach() for name, w in weights.items()}
    return golden, least


def first_step(out, trained):
    golden = {"logits": out.logits, "token_nll": out.token_nll, "loss": out.loss, "mtp_loss": out.mtp_loss,
              "balance_loss": out.balance_loss, "total_loss": out.total_loss}
    golden |= {f"mtp_logits.{k}": x for k, x in enumerate(out.mtp_logits, start=1)}
    golden |= {f"hidden.{layer}": x for layer, x in out.hidden.items()}
    golden |= {f"expert_load.{layer}": r.load for layer, r in out.routing.items()}
    golden |= {f"grad.{name}": w.grad for name, w in trained.items()}
    return {name: x.detach().clone() for name, x in golden.items()}


def renumbering(config, rng):
    """A function (name, tensor) -> tensor that renumbers hidden channels, latents and MLP columns of a weight at random.

    The model stays the same in exact arithmetic, and every sum over these axes is taken in another order.
    """
    orders = {size: torch.from_numpy(rng.permutation(size)) for size in {
        config["hidden_size"], config.get("q_lora_rank"), config.get("kv_lora_rank"), config.get("intermediate_size"),
        config.get("moe_intermediate_size"), (config.get("moe_intermediate_size") or 0) * (config.get("n_shared_experts") or 0),
    } if size}
    hidden = orders[config["hidden_size"]]

    def axes(name, shape):  # the order of each axis, None where it stays
        kind = name.removesuffix(".weight").rsplit(".", 1)[-1]
        last = orders.get(shape[-1])
        if kind == "eh_proj":
            return hidden, torch.cat([hidden, hidden + len(hidden)])
        if kind == "kv_a_proj_with_mqa":
            latent = orders[config["kv_lora_rank"]]
            return torch.cat([latent, torch.arange(len(latent), shape[0])]), hidden
        if kind == "o_proj":
            return hidden, None
        if kind in ("gate_proj", "up_proj", "q_a_proj", "down_proj"):
            return orders[shape[0]], last
        if kind == "e_score_correction_bias":
            return (None,)
        return (None,) * (len(shape) - 1) + (last,)

    def renumber(name, x, back=False):
        for axis, order in enumerate(axes(name, tuple(x.shape))):
            if order is not None:
                x = x.index_select(axis, torch.argsort(order) if back else order)
        return x

    return renumber


def fp32_errors(golden, fp32):
    """max |fp32 - fp64| of every FP64 golden."""
    errors = {}
    for name, x in golden.items():
        if x.is_floating_point():
            errors[name] = (fp32[name].to(torch.float64) - x).abs().max()
        elif not torch.equal(fp32[name], x):
            raise AssertionError(f"{name}: the FP32 run routes otherwise")
    return errors


def over_renumberings(config, weights, tokens, token_weights, golden, errors):
    """FP32 errors of renumbered models: the largest ratio to the plain model's (or 2^-23 max|x| where larger), and the
    largest error of each key over the plain run and the renumbered ones."""
    worst, largest = 0.0, dict(errors)
    for seed in range(RENUMBERINGS):
        renumber = renumbering(config, np.random.default_rng(seed))
        fp32, _ = train(config, {n: renumber(n, w) for n, w in weights.items()}, tokens, token_weights, torch.float32)
        for name, x in fp32.items():
            if name.startswith(("grad.", "weight10.")):
                fp32[name] = renumber(name.split(".", 1)[1], x, back=True)
            elif name.startswith("hidden."):
                fp32[name] = renumber("model.norm.weight", x, back=True)
        for name, error in fp32_errors(golden, fp32).items():
            allowed = max(errors[name].item(), 2.0**-23 * golden[name].abs().max().item())
            if allowed > 0 or error > 0:
                worst = max(worst, error.item() / allowed if allowed else math.inf)
            largest[name] = torch.maximum(largest[name], error)
        if worst > SPREAD:
            raise Unsuitable(f"FP32 errors of renumbered models reach {worst:.1f} times the plain model's")
    return worst, largest


def make(config, seed):
    """One golden: (weights, golden tensors, least margin, spread); raises Unsuitable if the seed is not good enough."""
    weights, tokens, token_weights = initial_state(config, seed)
    golden, least = train(config, weights, tokens, token_weights, torch.float64, MARGIN)
    errors = fp32_errors(golden, train(config, weights, tokens, token_weights, torch.float32)[0])
    spread, errors = over_renumberings(config, weights, tokens, token_weights, golden, errors)
    golden |= {"fp32_error." + name: error for name, error in errors.items()}
    golden["tokens"], golden["token_weights"] = tokens, token_weights.to(torch.float64)
    return {name: w.to(torch.float64) for name, w in weights.items()}, golden, least, spread


def find_seed(config):
    for seed in range(1, 100000):
        try:
            make(config, seed)
            return seed
        except Unsuitable as error:
            print(f"  seed {seed}: {error}", file=sys.stderr)
    raise SystemExit("no seed found")


def write(folder, name, manifest, check=False):
    """Write one golden below folder and enter it into the manifest. A check is quiet."""
    config = CONFIGS[name]
    seed = config["rorqual"]["seed"]
    try:
        weights, golden, least, spread = make(config, seed)
    except Unsuitable as error:
        raise SystemExit(f"{name}: seed {seed}: {error}; run with --find-seeds and change configs.py") from error
    here = os.path.join(folder, name)
    os.makedirs(here, exist_ok=True)
    with open(os.path.join(here, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)
        file.write("\n")
    safetensors.torch.save_file({k: x.contiguous() for k, x in weights.items()}, os.path.join(here, "weights.safetensors"))
    safetensors.torch.save_file({k: x.contiguous() for k, x in golden.items()}, os.path.join(here, "golden.safetensors"))
    files = {}
    for file_name in FILES:
        os.chmod(os.path.join(here, file_name), 0o644)
        with open(os.path.join(here, file_name), "rb") as file:
            data = file.read()
        files[file_name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest["goldens"][name] = {
        "seed": seed,
        "margin": least if math.isfinite(least) else None,
        "spread": spread,
        "grad_norm": golden["grad_norm"].item(),
        "clipped_steps": int((golden["grad_norms10"] > config["rorqual"]["clip_norm"]).sum()),
        "files": files,
    }
    if check:
        return
    margin = f"{least:.2e}" if math.isfinite(least) else "none"
    print(f"{name}: {sum(w.numel() for w in weights.values())} parameters, loss {golden['total_loss'].item():.4f} -> "
          f"{golden['losses10'][-1].item():.4f}, grad norm {golden['grad_norm'].item():.3f}, margin {margin}, spread {spread:.1f}, "
          f"{sum(f['bytes'] for f in files.values())} bytes")


def versions():
    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
            "safetensors": safetensors.__version__}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default=GOLDEN_FOLDER, help="folder to write (default: tests/golden/model)")
    parser.add_argument("--find-seeds", action="store_true", help="print the first suitable seed, write nothing")
    parser.add_argument("names", nargs="*", help="configurations (default: all)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    names = args.names or list(CONFIGS)
    if args.find_seeds:
        for name in names:
            print(name, find_seed(CONFIGS[name]), flush=True)
        return 0
    path = os.path.join(args.out, "manifest.json")
    manifest = {"goldens": {}}
    if args.names and os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            manifest = json.load(file)
    manifest = {"generator": "tools/reference/make_goldens.py", "versions": versions(), "least_margin": MARGIN, "largest_spread": SPREAD,
                "goldens": manifest["goldens"]}
    for name in names:
        write(args.out, name, manifest)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=2)
        file.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
