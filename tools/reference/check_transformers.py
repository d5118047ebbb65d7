#!/usr/bin/env python3
"""Check the reference model in FP32 against unmodified transformers, on every golden configuration.

The main model's weights go through a Hugging Face directory (config.json, model.safetensors) and from_pretrained, so
names and shapes are checked too: nothing may be missing or left over. MTP modules go through transformers' own MtpModel
(it drafts tokens with it; here it is given the whole sequence), except in the dense model, as its modules are always MoE.

Compared: logits of all heads, losses, and the gradient of loss + lambda * mtp_loss by every tensor. Bound, each tensor
on its own: transformers' FP32 result is within 4 * max(e, 2^-23 * max|x|) of our FP64 result x, where e is the distance
of our own FP32 result from x: two FP32 runs round alike but in another order (configs.py says why no e is small by
luck). Exits 1 if any tensor fails.
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
from transformers.modeling_layers import MtpModel

from configs import CONFIGS
from make_goldens import initial_state
from model import Model, is_routing_bias, mtp_depth

FACTOR = 4


def ours(config, weights, tokens, token_weights, dtype):
    """Results of the reference model, by name, without the balance loss, which transformers does not have."""
    config = config | {"rorqual": config["rorqual"] | {"balance_alpha": 0.0}}
    weights = {name: w.to(dtype).clone().requires_grad_(not is_routing_bias(name)) for name, w in weights.items()}
    out = Model(config, weights).forward(tokens, token_weights.to(dtype))
    out.total_loss.backward()
    results = {"logits": out.logits, "loss": out.loss, "mtp_loss": out.mtp_loss}
    results |= {f"mtp_logits.{k}": x for k, x in enumerate(out.mtp_logits, start=1)}
    results |= {"grad." + name: w.grad if w.grad is not None else torch.zeros_like(w)
                for name, w in weights.items() if w.requires_grad}
    return {name: x.detach().to(torch.float64) for name, x in results.items()}


def load_main(config, weights):
    """transformers' model of the main layers, from a folder of the Hugging Face kind."""
    config = {key: value for key, value in config.items() if key not in ("rorqual", "torch_dtype")}
    config["dtype"] = "float32"
    if config["model_type"] == "deepseek_v3" and "n_routed_experts" not in config:
        config["first_k_dense_replace"] = config["num_hidden_layers"]  # its V3 class knows no dense model but this
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
            json.dump(config, file)
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
    return model.train(False)


def gradient_of(parameters, prefix, name):
    """Gradient by one of our names below a layer; transformers fuses experts: gate_up_proj [E, 2 * width, d]."""
    if name.startswith("mlp.experts."):
        expert, kind, _ = name.removeprefix("mlp.experts.").split(".")
        fused = "down_proj" if kind == "down_proj" else "gate_up_proj"
        gradient = parameters[f"{prefix}mlp.experts.{fused}"].grad[int(expert)]
        return gradient if kind == "down_proj" else gradient.chunk(2)[kind == "up_proj"]
    return parameters[prefix + name].grad


OUTSIDE_BLOCK = {"enorm.weight": "enorm.weight", "hnorm.weight": "hnorm.weight", "eh_proj.weight": "eh_proj.weight",
                 "shared_head.norm.weight": "post_norm.weight"}


def load_mtp(model, config, weights):
    """transformers' MTP modules on the main model, holding our weights."""
    mtp, layers = MtpModel(model, mtp_depth(config)).train(False), config["num_hidden_layers"]
    for k, module in enumerate(mtp.layers):
        prefix = f"model.layers.{layers + k}."
        mine = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
        state = {theirs: mine.pop(name) for name, theirs in OUTSIDE_BLOCK.items()}
        experts = range(config["n_routed_experts"])
        gate, up, down = (
            torch.stack([mine.pop(f"mlp.experts.{e}.{kind}_proj.weight") for e in experts]) for kind in ("gate", "up", "down"))
        mine |= {"mlp.experts.gate_up_proj": torch.cat([gate, up], dim=1), "mlp.experts.down_proj": down}
        if not config["n_shared_experts"]:
            mine |= {name: w for name, w in module.mtp_block.state_dict().items() if w.numel() == 0}
        state |= {"mtp_block." + name: w for name, w in mine.items()}
        module.load_state_dict(state, strict=True)
        # transformers hands the next module the hidden state after this module's norm, we the one before it.
        module.use_post_norm = False
    return mtp


def theirs(config, weights, tokens, token_weights):
    """The same results from transformers in FP32."""
    layers, depth, length = config["num_hidden_layers"], mtp_depth(config), tokens.shape[1] - 1
    mtp_prefixes = tuple(f"model.layers.{layers + k}." for k in range(depth))
    model = load_main(config, {n: w for n, w in weights.items() if not (depth and n.startswith(mtp_prefixes))})
    mtp = load_mtp(model, config, weights) if depth else None

    def loss_of(logits, targets, w):
        nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return (nll * w.flatten()).sum() / token_weights.sum()

    out = model(tokens[:, :-1], use_cache=False, output_hidden_states=True)
    results = {"logits": out.logits.flatten(0, 1), "loss": loss_of(out.logits, tokens[:, 1:], token_weights),
               "mtp_loss": torch.zeros(())}
    hidden = out.hidden_states[-1]  # after the final norm
    for k in range(1, depth + 1):
        hidden = mtp.forward_layer(
            k - 1, hidden[:, : length - k], torch.arange(length - k)[None], None, input_ids=tokens[:, k:length])
        logits = mtp.shared_head(mtp.layers[k - 1].post_norm(hidden))
        results[f"mtp_logits.{k}"] = logits.flatten(0, 1)
        results["mtp_loss"] = results["mtp_loss"] + loss_of(logits, tokens[:, k + 1 :], token_weights[:, k:]) / depth
    (results["loss"] + config["rorqual"]["mtp_lambda"] * results["mtp_loss"]).backward()

    main_parameters = dict(model.named_parameters())
    for name in weights:
        if is_routing_bias(name):
            continue
        gradient = None
        if name.startswith("model.layers."):
            layer, rest = name.removeprefix("model.layers.").split(".", 1)
            if int(layer) >= layers:
                parameters = dict(mtp.layers[int(layer) - layers].named_parameters())
                outside = OUTSIDE_BLOCK.get(rest)
                gradient = parameters[outside].grad if outside else gradient_of(parameters, "mtp_block.", rest)
            else:
                gradient = gradient_of(main_parameters, f"model.layers.{layer}.", rest)
        else:
            gradient = main_parameters[name].grad
        results["grad." + name] = gradient if gradient is not None else torch.zeros_like(weights[name])
    return {name: x.detach().to(torch.float64) for name, x in results.items()}


def without_mtp(config, weights):
    prefixes = tuple(f"model.layers.{config['num_hidden_layers'] + k}." for k in range(mtp_depth(config)))
    weights = {name: w for name, w in weights.items() if not name.startswith(prefixes)}
    return config | {"num_nextn_predict_layers": 0}, weights


def check(name):
    config = CONFIGS[name]
    weights, tokens, token_weights = initial_state(config, config["rorqual"]["seed"])
    if mtp_depth(config) and "n_routed_experts" not in config:
        config, weights = without_mtp(config, weights)
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
        share = error / allowed if allowed else float(error > 0) * 2
        if not share <= 1.0:
            failures += 1
            print(f"FAIL {name} {key}: transformers off by {error:.3e}, ours by {own:.3e}, allowed {allowed:.3e}")
        if not share <= worst:
            worst, worst_name = share, key
    logits_error = (peer["logits"] - exact["logits"]).abs().max().item()
    print(f"{'FAIL' if failures else 'ok  '} {name} ({config['architectures'][0]}, MTP {mtp_depth(config)}): {len(exact)} "
          f"tensors, logits off by {logits_error:.1e} of {exact['logits'].abs().max().item():.1f}, worst tensor at "
          f"{worst:.2f} of its bound: {worst_name}")
    return failures == 0


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    passed = [check(name) for name in sys.argv[1:] or CONFIGS]
    print(f"{sum(passed)} of {len(passed)} configurations agree with transformers")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
