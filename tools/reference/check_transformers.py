#!/usr/bin/env python3
"""Check the reference model in FP32 against unmodified transformers, on every golden configuration.

The weights go through a Hugging Face directory (config.json, model.safetensors) and from_pretrained, so names and
shapes are checked too. MTP tensors are left out, as transformers' model has no such module; everything else must load
with nothing missing and nothing left over.

Compared: logits, main loss and the gradient of that loss by every tensor. Bound, each tensor on its own: the
distance of transformers' FP32 result to our FP64 result is at most 4 * max(e, 2^-23 * max|x|), where e is the distance
of our own FP32 result to our FP64 result and x the FP64 result: both FP32 runs round alike, in another order.
Exits 1 on the first tensor list with a failure.
"""

import json
import os
import sys
import tempfile
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import safetensors.torch
import torch
import transformers

from configs import CONFIGS
from make_goldens import initial_state
from model import Model, is_routing_bias, mtp_depth

FACTOR = 4


def ours(config, weights, tokens, token_weights, dtype):
    """Results of the main model alone, by name."""
    config = config | {"num_nextn_predict_layers": 0, "rorqual": config["rorqual"] | {"balance_alpha": 0.0}}
    weights = {name: w.to(dtype).clone().requires_grad_(not is_routing_bias(name)) for name, w in weights.items()}
    out = Model(config, weights).forward(tokens, token_weights.to(dtype))
    out.loss.backward()
    results = {"logits": out.logits, "loss": out.loss}
    results |= {"grad." + name: w.grad if w.grad is not None else torch.zeros_like(w)
                for name, w in weights.items() if w.requires_grad}
    return {name: x.detach().to(torch.float64) for name, x in results.items()}


def hugging_face_config(config):
    """config.json as transformers wants it: without MTP; its V3 class has no dense model but through the layer count."""
    config = {key: value for key, value in config.items() if key not in ("rorqual", "torch_dtype")}
    config |= {"num_nextn_predict_layers": 0, "dtype": "float32"}
    if config["model_type"] == "deepseek_v3" and "n_routed_experts" not in config:
        config["first_k_dense_replace"] = config["num_hidden_layers"]
    return config


def theirs(config, weights, tokens, token_weights):
    """The same results from transformers in FP32."""
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
            json.dump(hugging_face_config(config), file)
        safetensors.torch.save_file(weights, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager",
            output_loading_info=True)
    if type(model).__name__ != config["architectures"][0]:
        raise AssertionError(f"transformers built {type(model).__name__}")
    parameters = dict(model.named_parameters())
    info["missing_keys"] = {  # a tied head is no parameter, n_shared_experts = 0 makes parameters without elements
        key for key in info["missing_keys"] if key in parameters and parameters[key].numel() > 0}
    problems = {key: value for key, value in info.items() if value}
    if problems:
        raise AssertionError(f"from_pretrained: {problems}")
    model.train(False)
    logits = model(tokens[:, :-1], use_cache=False).logits.flatten(0, 1)
    nll = torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten(), reduction="none")
    loss = (nll * token_weights.flatten()).sum() / token_weights.sum()
    loss.backward()
    results = {"logits": logits.detach(), "loss": loss.detach()}
    for name in weights:
        if is_routing_bias(name):
            continue
        if ".mlp.experts." in name:  # transformers fuses: gate_up_proj [E, 2 * width, d], down_proj [E, d, width]
            layer, rest = name.split(".mlp.experts.")
            expert, kind, _ = rest.split(".")
            fused = parameters[f"{layer}.mlp.experts.{'down_proj' if kind == 'down_proj' else 'gate_up_proj'}"]
            gradient = fused.grad[int(expert)]
            if kind != "down_proj":
                gradient = gradient.chunk(2)[kind == "up_proj"]
        else:
            gradient = parameters[name].grad
        results["grad." + name] = gradient
    return {name: x.to(torch.float64) for name, x in results.items()}


def check(name):
    config = CONFIGS[name]
    weights, tokens, token_weights = initial_state(config, config["rorqual"]["seed"])
    last = config["num_hidden_layers"] + mtp_depth(config)
    mtp = tuple(f"model.layers.{layer}." for layer in range(config["num_hidden_layers"], last))
    weights = {key: w for key, w in weights.items() if not key.startswith(mtp)} if mtp else weights
    exact = ours(config, weights, tokens, token_weights, torch.float64)
    mine = ours(config, weights, tokens, token_weights, torch.float32)
    peer = theirs(config, weights, tokens, token_weights)
    if set(peer) != set(exact):
        raise AssertionError(f"{name}: other tensors: {set(peer) ^ set(exact)}")
    worst, worst_name, failures = 0.0, "", 0
    for key, x in exact.items():
        error = (peer[key] - x).abs().max().item()
        own = (mine[key] - x).abs().max().item()
        allowed = FACTOR * max(own, 2.0**-23 * x.abs().max().item())
        share = error / allowed if allowed else float(error > 0)
        if not share <= 1.0:
            failures += 1
            print(f"FAIL {name} {key}: transformers off by {error:.3e}, ours by {own:.3e}, allowed {allowed:.3e}")
        if not share <= worst:
            worst, worst_name = share, key
    logits_error = (peer["logits"] - exact["logits"]).abs().max().item()
    print(f"{'FAIL' if failures else 'ok  '} {name} ({config['architectures'][0]}): {len(exact)} tensors, logits error "
          f"{logits_error:.2e} of max {exact['logits'].abs().max().item():.2f}, worst at {worst:.2f} of its bound: {worst_name}")
    return failures == 0


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    names = sys.argv[1:] or list(CONFIGS)
    passed = [check(name) for name in names]
    print(f"{sum(passed)} of {len(passed)} configurations agree with transformers")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
