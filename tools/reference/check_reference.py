#!/usr/bin/env python3
"""Check what transformers cannot: YaRN against its golden table, tie-breaking, the balance loss and the MTP losses
recomputed with loops in numpy, FP64 throughout, causality, gradients by finite differences, and AdamW, clipping and the bias update
recomputed by the formulas of tests/golden/model/README.md. Exits 1 on a failure.
"""

import json
import math
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from configs import CONFIGS
from make_goldens import REPOSITORY, initial_state, renumbering, train
from model import Model, is_routing_bias, mtp_depth, rope_frequencies, softmax_scale, top_k_mask

FAILURES = []


def expect(name, error, bound):
    passed = error <= bound
    print(f"{'ok  ' if passed else 'FAIL'} {name}: {error:.2e}, bound {bound:.0e}")
    if not passed:
        FAILURES.append(name)


def state(name):
    config = CONFIGS[name]
    weights, tokens, token_weights = initial_state(config, config["rorqual"]["seed"])
    weights = {key: w.double().requires_grad_(not is_routing_bias(key)) for key, w in weights.items()}
    return config, weights, tokens, token_weights.double()


def check_yarn():
    with open(os.path.join(REPOSITORY, "tests", "golden", "yarn_v3.json"), encoding="utf-8") as file:
        golden = json.load(file)
    config = {"architectures": ["DeepseekV3ForCausalLM"], "rope_theta": golden["base"], "qk_rope_head_dim": golden["dim"],
              "qk_nope_head_dim": 128, "max_position_embeddings": 163840, "rope_scaling": {
                  "type": "yarn", "factor": golden["factor"], "original_max_position_embeddings": golden["orig"],
                  "beta_fast": golden["beta_fast"], "beta_slow": golden["beta_slow"], "mscale": 1.0, "mscale_all_dim": 1.0}}

    def distance(config, key):  # relative, element by element
        x = torch.tensor(golden[key], dtype=torch.float64)
        return ((rope_frequencies(config) - x).abs() / x).max().item()

    expect("YaRN frequencies", distance(config, "freq_yarn"), 1e-12)
    expect("YaRN softmax scale", abs(softmax_scale(config) - golden["softmax_scale"]), 1e-12)
    expect("plain frequencies", distance(config | {"rope_scaling": None}, "freq_plain"), 1e-12)
    expect("plain at the original length", distance(config | {"max_position_embeddings": golden["orig"]}, "freq_plain"), 1e-12)


def check_ties():
    mask, margin = top_k_mask(torch.tensor([[1.0, 2.0, 2.0, 1.0, 2.0], [0.0, 0.0, 0.0, 0.0, 0.0]]), 2)
    wanted = torch.tensor([[False, True, True, False, False], [True, True, False, False, False]])
    expect("ties go to the lowest index", float((mask != wanted).sum()) + margin, 0.0)


def check_balance_loss(name):
    """By loops over tokens, from the router inputs of a run of the model."""
    config, weights, tokens, token_weights = state(name)
    model, inputs = Model(config, weights), []
    route = model.route
    model.route = lambda x, prefix: inputs.append((x.detach().numpy(), prefix)) or route(x, prefix)
    out = model.forward(tokens, token_weights)
    count, top, groups = config["n_routed_experts"], config["num_experts_per_tok"], config["n_group"]
    total, loads = 0.0, {}
    for x, prefix in inputs:
        matrix = weights[prefix + "gate.weight"].detach().numpy()
        bias = weights.get(prefix + "gate.e_score_correction_bias", torch.zeros(count)).numpy()
        load = loads.setdefault(int(prefix.split(".")[2]), np.zeros(count, np.int64))
        for sequence in x:
            f, p = np.zeros(count), np.zeros(count)
            for token in sequence:
                logit = matrix @ token
                s = 1 / (1 + np.exp(-logit)) if config["scoring_func"] == "sigmoid" else np.exp(logit) / np.exp(logit).sum()
                biased = s + bias
                size = count // groups
                best = 2 if config["scoring_func"] == "sigmoid" else 1
                strength = [sum(sorted(biased[g * size : (g + 1) * size])[-best:]) for g in range(groups)]
                kept = sorted(range(groups), key=lambda g: -strength[g])[: config["topk_group"]]
                allowed = [e for e in range(count) if e // size in kept]
                for e in sorted(allowed, key=lambda e: -biased[e])[:top]:
                    f[e] += count / (top * len(sequence))
                    load[e] += 1
                p += s / s.sum() / len(sequence)
            total += config["rorqual"]["balance_alpha"] * (f @ p) / len(x)
    wrong = sum(int(np.abs(load - out.routing[layer].load.numpy()).sum()) for layer, load in loads.items())
    expect(f"{name}: expert load by loops", float(wrong), 0.0)
    expect(f"{name}: balance loss by loops", abs(total - out.balance_loss.item()), 1e-14)


def check_mtp_loss(name):
    """Loss_k term by term from the logits, with the paper's 1-based indices: t_i, i = 2+k .. T+1."""
    config, weights, tokens, token_weights = state(name)
    out = Model(config, weights).forward(tokens, token_weights)
    batch, length, depth = tokens.shape[0], tokens.shape[1] - 1, mtp_depth(config)
    total = 0.0
    for k in range(1, depth + 1):
        logits = out.mtp_logits[k - 1].detach().numpy().reshape(batch, length - k, -1)
        for b in range(batch):
            for i in range(2 + k, length + 2):
                row, target = logits[b, i - 2 - k], int(tokens[b, i - 1])
                nll = math.log(np.exp(row).sum()) - row[target]
                total += token_weights[b, i - 2].item() * nll / token_weights.sum().item() / depth
    expect(f"{name}: MTP loss by loops", abs(total - out.mtp_loss.item()), 1e-13)


def check_causality(name):
    """Changing input token j changes the logits at positions >= j only, and of module k at positions >= j - k only."""
    config, weights, tokens, token_weights = state(name)
    before = Model(config, weights).forward(tokens, token_weights)
    batch, length = tokens.shape[0], tokens.shape[1] - 1
    j, changed = length // 2, tokens.clone()
    changed[:, j] = (changed[:, j] + 1) % config["vocab_size"]
    after = Model(config, weights).forward(changed, token_weights)
    heads = [(0, before.logits, after.logits)]
    heads += [(k, *pair) for k, pair in enumerate(zip(before.mtp_logits, after.mtp_logits), start=1)]
    for k, x, y in heads:
        change = (x - y).detach().abs().amax(-1).view(batch, length - k)
        expect(f"{name}: head {k} unchanged before position {j - k}", change[:, : j - k].max().item(), 1e-13)
        least = change[:, j - k].min().item()
        expect(f"{name}: head {k} changed at position {j - k} (1 / change)", 1 / max(least, 1e-300), 1e4)


def check_gradient(name):
    """Directional derivatives along random directions, one per tensor, by central differences of total_loss.

    Step h = 1e-5 along unit vectors: truncation h^2 / 6 times a third derivative of order 1, about 2e-11; rounding of a
    loss of about 6 (a few 2^-50) over 2 h, about 1e-10. Bound 1e-9.
    """
    config, weights, tokens, token_weights = state(name)
    Model(config, weights).forward(tokens, token_weights).total_loss.backward()
    generator, worst, h = torch.Generator().manual_seed(0), 0.0, 1e-5
    for key, w in weights.items():
        if is_routing_bias(key) or w.grad is None:
            continue
        direction = torch.randn(w.shape, generator=generator, dtype=torch.float64)
        direction /= direction.norm()
        losses = []
        with torch.no_grad():
            for sign in (1, -1):
                moved = weights | {key: w + sign * h * direction}
                losses.append(Model(config, moved).forward(tokens, token_weights).total_loss.item())
        worst = max(worst, abs((losses[0] - losses[1]) / (2 * h) - (w.grad * direction).sum().item()))
    expect(f"{name}: gradients by finite differences", worst, 1e-9)


def check_training(name):
    """Ten steps by the written formulas against torch.optim.AdamW and clip_grad_norm_ as make_goldens.py uses them."""
    config = CONFIGS[name]
    run = config["rorqual"]
    start = initial_state(config, run["seed"])
    golden, _ = train(config, *start, torch.float64)
    weights = {key: w.double() for key, w in start[0].items()}
    moments = {key: (torch.zeros_like(w), torch.zeros_like(w)) for key, w in weights.items()}
    for step in range(1, run["steps"] + 1):
        leaves = {key: w.clone().requires_grad_(not is_routing_bias(key)) for key, w in weights.items()}
        out = Model(config, leaves).forward(start[1], start[2].double())
        out.total_loss.backward()
        gradients = {key: w.grad if w.grad is not None else torch.zeros_like(w) for key, w in leaves.items()}
        norm = math.sqrt(sum((g**2).sum().item() for g in gradients.values()))
        scale = min(1.0, run["clip_norm"] / (norm + 1e-6))
        for key, w in weights.items():
            if is_routing_bias(key):
                load = out.routing[int(key.split(".")[2])].load.double()
                weights[key] = w - run["bias_update_speed"] * torch.sign(load - load.mean())
                continue
            g, (m, v) = gradients[key] * scale, moments[key]
            m = run["adam_beta1"] * m + (1 - run["adam_beta1"]) * g
            v = run["adam_beta2"] * v + (1 - run["adam_beta2"]) * g * g
            moments[key] = (m, v)
            if w.dim() == 2:
                w = w * (1 - run["learning_rate"] * run["weight_decay"])
            denominator = v.sqrt() / math.sqrt(1 - run["adam_beta2"] ** step) + run["adam_eps"]
            weights[key] = w - run["learning_rate"] / (1 - run["adam_beta1"] ** step) * m / denominator
    worst = max((weights[key] - golden["weight10." + key]).abs().max().item() for key in weights)
    expect(f"{name}: weights after {run['steps']} steps by the formulas", worst, 1e-11)


def check_fp64(name):
    """Logits and total loss with hidden channels renumbered: a step in FP32 anywhere would show at 1e-8."""
    config, weights, tokens, token_weights = state(name)
    renumber = renumbering(config, np.random.default_rng(0))
    plain = Model(config, weights).forward(tokens, token_weights)
    other = Model(config, {key: renumber(key, w) for key, w in weights.items()}).forward(tokens, token_weights)
    worst = max((x - y).abs().max().item() for x, y in zip(
        [plain.logits, plain.total_loss, *plain.mtp_logits], [other.logits, other.total_loss, *other.mtp_logits]))
    if plain.total_loss.dtype != torch.float64:
        worst = math.inf
    expect(f"{name}: FP64 throughout", worst, 1e-13)


def main():
    torch.set_num_threads(1)
    check_yarn()
    check_ties()
    for name, config in CONFIGS.items():
        if config.get("n_routed_experts"):
            check_balance_loss(name)
        if mtp_depth(config):
            check_mtp_loss(name)
        check_fp64(name)
        check_causality(name)
        check_gradient(name)
        check_training(name)
    print(f"{len(FAILURES)} failures" if FAILURES else "the reference model holds")
    return 1 if FAILURES else 0


if __name__ == "__main__":
    sys.exit(main())
