#!/usr/bin/env python3
"""Tokens per second of a recipe's full training step in PyTorch: forward, backward, clipping, AdamW; MTP included.

    bench_torch.py RECIPE.toml [--steps N] [--rounds N] [--variant NAME]... [--set KEY=VALUE]...

bf16 autocast over FP32 parameters on all cores, micro-batches and sequence length of the recipe, random tokens. Variants:
  transformers-eager, -batched_mm, -grouped_mm   DeepseekV3ForCausalLM with each of its expert implementations that run on a
                                                 CPU, and its own MTP module
  grouped-loop, -bmm, -mm                        a module written for this benchmark: tokens sorted by expert, then one product
                                                 per expert, one padded batched product, or torch's grouped product
each as it is and with "+compile" (torch.compile; a time limit holds, failures are recorded). Prints one JSON object: tokens/s
per variant (median of steps over interleaved rounds) and the best. Left out in PyTorch's favour: balance loss, routing bias, EMA.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import sys
import time
import tomllib
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import torch.nn.functional as F
from torch import nn

EXPERT_IMPLEMENTATIONS = ("eager", "batched_mm", "grouped_mm")
GROUPINGS = ("loop", "bmm", "mm")
# Of src/model/config.h and src/train/recipe.h, for keys that a recipe leaves out.
MODEL_DEFAULTS = {
    "q_lora_rank": 0, "n_routed_experts": 0, "n_shared_experts": 0, "num_experts_per_tok": 0, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 0, "routed_scaling_factor": 1.0, "norm_topk_prob": True, "num_nextn_predict_layers": 0,
    "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False, "initializer_range": 0.006}
TRAIN_DEFAULTS = {
    "sequence_length": 512, "batch_sequences": 16, "micro_batch_sequences": 4, "learning_rate": 1e-3, "beta1": 0.9,
    "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.1, "clip_norm": 1.0, "mtp_lambda": 0.3}


def read_recipe(path, overrides=()):
    with open(path, "rb") as file:
        recipe = tomllib.load(file)
    for item in overrides:
        key, _, value = item.partition("=")
        table, _, name = key.rpartition(".")
        target = recipe.setdefault(table, {}) if table else recipe
        target[name] = tomllib.loads(f"v = {value}")["v"] if value[:1].isdigit() or value in ("true", "false") else value
    model = MODEL_DEFAULTS | recipe["model"]
    train = TRAIN_DEFAULTS | recipe.get("train", {})
    if model.get("architecture", "deepseek") != "deepseek" or any(key.startswith("rope_scaling") for key in model):
        raise SystemExit(f"{path}: this benchmark knows DeepSeek-V3 models without YaRN")
    if not model.get("vocab_size"):
        model["vocab_size"] = recipe.get("tokenizer", {}).get("vocab_size", 4096)
    return model, train


# ---- the module with experts grouped by hand -------------------------------------------------------------------


class Norm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x):
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps)


def linear(rows, cols):
    return nn.Linear(cols, rows, bias=False)


def rotate(x, cos, sin):
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        d, heads = c["hidden_size"], c["num_attention_heads"]
        self.qk = c["qk_nope_head_dim"] + c["qk_rope_head_dim"]
        rank = c["q_lora_rank"]
        self.down = linear((rank or heads * self.qk) + c["kv_lora_rank"] + c["qk_rope_head_dim"], d)
        if rank:
            self.q_norm, self.q_up = Norm(rank, c["rms_norm_eps"]), linear(heads * self.qk, rank)
        self.kv_norm = Norm(c["kv_lora_rank"], c["rms_norm_eps"])
        self.kv_up = linear(heads * (c["qk_nope_head_dim"] + c["v_head_dim"]), c["kv_lora_rank"])
        self.out = linear(d, heads * c["v_head_dim"])

    def forward(self, x, cos, sin):
        c, (batch, length, _) = self.c, x.shape
        heads, nope, rope, v_dim = (
            c["num_attention_heads"], c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"])
        q, latent, k_rope = self.down(x).split(
            [self.down.out_features - c["kv_lora_rank"] - rope, c["kv_lora_rank"], rope], dim=-1)
        if c["q_lora_rank"]:
            q = self.q_up(self.q_norm(q))
        q = q.view(batch, length, heads, self.qk).transpose(1, 2)
        kv = self.kv_up(self.kv_norm(latent)).view(batch, length, heads, nope + v_dim).transpose(1, 2)
        k_nope, v = kv.split([nope, v_dim], dim=-1)
        q = torch.cat([q[..., :nope], rotate(q[..., nope:], cos, sin)], dim=-1)
        k_rope = rotate(k_rope[:, None], cos, sin).expand(-1, heads, -1, -1)
        o = F.scaled_dot_product_attention(q, torch.cat([k_nope, k_rope], dim=-1), v, is_causal=True)
        return self.out(o.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, d, width):
        super().__init__()
        self.gate_up, self.down = linear(2 * width, d), linear(d, width)

    def forward(self, x):
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Experts(nn.Module):
    def __init__(self, c, grouping):
        super().__init__()
        self.c, self.grouping = c, grouping
        count, d, width = c["n_routed_experts"], c["hidden_size"], c["moe_intermediate_size"]
        self.router = nn.Parameter(torch.empty(count, d))
        self.gate_up = nn.Parameter(torch.empty(count, d, 2 * width))
        self.down = nn.Parameter(torch.empty(count, width, d))
        self.shared = Mlp(d, width * c["n_shared_experts"]) if c["n_shared_experts"] else None

    def route(self, x):
        c = self.c
        with torch.autocast("cpu", enabled=False):
            scores = torch.sigmoid(x @ self.router.T)
        choice = scores.detach()
        if c["n_group"] > 1:
            grouped = choice.unflatten(-1, (c["n_group"], -1))
            kept = grouped.topk(2, dim=-1).values.sum(-1).topk(c["topk_group"], dim=-1).indices
            mask = torch.zeros(grouped.shape[:-1], dtype=torch.bool, device=x.device).scatter(-1, kept, True)
            choice = grouped.masked_fill(~mask[..., None], -1.0).flatten(-2)
        chosen = choice.topk(c["num_experts_per_tok"], dim=-1).indices
        weight = scores.gather(-1, chosen)
        if c["norm_topk_prob"]:
            weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
        return chosen, weight * c["routed_scaling_factor"]

    def products(self, rows, order_expert, counts):
        """rows [T*K, d] sorted by expert, bf16 -> [T*K, d]."""
        gate_up, down = self.gate_up.bfloat16(), self.down.bfloat16()
        if self.grouping == "mm":
            offsets = counts.cumsum(0).int()
            gate, up = torch._grouped_mm(rows, gate_up, offs=offsets).chunk(2, dim=-1)
            return torch._grouped_mm(F.silu(gate) * up, down, offs=offsets)
        if self.grouping == "bmm":
            most = int(counts.max())
            begin = counts.cumsum(0) - counts
            place = order_expert * most + torch.arange(len(rows)) - begin[order_expert]
            padded = rows.new_zeros(len(counts) * most, rows.shape[1]).index_copy(0, place, rows)
            gate, up = torch.bmm(padded.view(len(counts), most, -1), gate_up).chunk(2, dim=-1)
            return torch.bmm(F.silu(gate) * up, down).flatten(0, 1).index_select(0, place)
        out = []
        for expert, part in enumerate(rows.split(counts.tolist())):
            gate, up = (part @ gate_up[expert]).chunk(2, dim=-1)
            out.append((F.silu(gate) * up) @ down[expert])
        return torch.cat(out)

    def forward(self, x):
        shape, k = x.shape, self.c["num_experts_per_tok"]
        x = x.flatten(0, 1)
        chosen, weight = self.route(x)
        expert, order = chosen.flatten().sort(stable=True)
        counts = torch.bincount(expert, minlength=self.c["n_routed_experts"])
        token = order // k
        x16 = x.bfloat16()
        y = self.products(x16.index_select(0, token), expert, counts) * weight.flatten()[order, None].bfloat16()
        out = torch.zeros_like(x).index_add(0, token, y.float())
        return (out + self.shared(x16) if self.shared else out).view(shape)


class Block(nn.Module):
    def __init__(self, c, experts, grouping):
        super().__init__()
        d, eps = c["hidden_size"], c["rms_norm_eps"]
        self.norm1, self.attention, self.norm2 = Norm(d, eps), Attention(c), Norm(d, eps)
        self.mlp = Experts(c, grouping) if experts else Mlp(d, c["intermediate_size"])

    def forward(self, x, cos, sin):
        x = x + self.attention(self.norm1(x), cos, sin)
        return x + self.mlp(self.norm2(x))


class Mtp(nn.Module):
    def __init__(self, c, grouping):
        super().__init__()
        d, eps = c["hidden_size"], c["rms_norm_eps"]
        self.enorm, self.hnorm, self.post_norm = Norm(d, eps), Norm(d, eps), Norm(d, eps)
        self.join, self.block = linear(d, 2 * d), Block(c, c["n_routed_experts"] > 0, grouping)


class GroupedModel(nn.Module):
    def __init__(self, c, grouping):
        super().__init__()
        self.c = c
        self.embedding = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.blocks = nn.ModuleList(
            Block(c, c["n_routed_experts"] > 0 and i >= c["first_k_dense_replace"], grouping)
            for i in range(c["num_hidden_layers"]))
        self.norm, self.head = Norm(c["hidden_size"], c["rms_norm_eps"]), linear(c["vocab_size"], c["hidden_size"])
        self.mtp = nn.ModuleList(Mtp(c, grouping) for _ in range(c["num_nextn_predict_layers"]))
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=c["initializer_range"])
        if c["tie_word_embeddings"]:
            self.head.weight = self.embedding.weight

    def loss(self, tokens, mtp_lambda):
        """tokens [B, T + 1]."""
        c, length = self.c, tokens.shape[1] - 1
        half = torch.arange(c["qk_rope_head_dim"] // 2) * (-2.0 / c["qk_rope_head_dim"])
        angles = torch.arange(length)[:, None] * c["rope_theta"] ** half
        cos, sin = angles.cos(), angles.sin()
        x = self.embedding(tokens[:, :length])
        for block in self.blocks:
            x = block(x, cos, sin)
        hidden = self.norm(x)
        loss = F.cross_entropy(self.head(hidden).flatten(0, 1).float(), tokens[:, 1:].flatten())
        for k, m in enumerate(self.mtp, start=1):
            n = length - k
            joined = torch.cat([m.enorm(self.embedding(tokens[:, k:length])), m.hnorm(hidden[:, :n])], dim=-1)
            hidden = m.block(m.join(joined).float(), cos[:n], sin[:n])
            logits = self.head(m.post_norm(hidden)).flatten(0, 1).float()
            loss = loss + mtp_lambda / len(self.mtp) * F.cross_entropy(logits, tokens[:, k + 1 :].flatten())
        return loss


# ---- transformers -----------------------------------------------------------------------------------------------


class TransformersModel(nn.Module):
    def __init__(self, c, experts):
        super().__init__()
        import transformers
        from transformers.modeling_layers import MtpModel

        transformers.logging.set_verbosity_error()
        keys = {key: value for key, value in c.items() if key != "architecture"}
        keys["q_lora_rank"] = keys["q_lora_rank"] or None
        keys["num_nextn_predict_layers"] = keys["num_mtp_layers"] = c["num_nextn_predict_layers"]
        config = transformers.DeepseekV3Config(
            **keys, num_key_value_heads=c["num_attention_heads"], max_position_embeddings=c["positions"], use_cache=False)
        config._attn_implementation, config._experts_implementation = "sdpa", experts
        self.main = transformers.DeepseekV3ForCausalLM(config).train()
        self.mtp = MtpModel(self.main, c["num_nextn_predict_layers"]).train() if c["num_nextn_predict_layers"] else None
        used = self.main.config._experts_implementation
        if used != experts:
            raise RuntimeError(f"transformers took expert implementation {used}")

    def loss(self, tokens, mtp_lambda):
        length = tokens.shape[1] - 1
        hidden = self.main.model(tokens[:, :-1], use_cache=False).last_hidden_state
        loss = F.cross_entropy(self.main.lm_head(hidden).flatten(0, 1).float(), tokens[:, 1:].flatten())
        for k in range(1, 1 + (len(self.mtp.layers) if self.mtp else 0)):
            n = length - k
            hidden = self.mtp.forward_layer(
                k - 1, hidden[:, :n], torch.arange(n)[None], None, input_ids=tokens[:, k:length])
            logits = self.main.lm_head(hidden).flatten(0, 1).float()
            loss = loss + mtp_lambda / len(self.mtp.layers) * F.cross_entropy(logits, tokens[:, k + 1 :].flatten())
        return loss


# ---- training and measuring -------------------------------------------------------------------------------------


class Trainer:
    """One variant, ready to step."""

    def __init__(self, name, c, t):
        base, _, compiled = name.partition("+")
        family, _, kind = base.partition("-")
        torch.manual_seed(1)
        c = c | {"positions": t["sequence_length"]}
        self.model = TransformersModel(c, kind) if family == "transformers" else GroupedModel(c, kind)
        self.t, self.vocabulary = t, c["vocab_size"]
        self.parameters = [p for p in dict.fromkeys(self.model.parameters()) if p.requires_grad and p.numel()]
        groups = [{"params": [p for p in self.parameters if p.dim() > 1], "weight_decay": t["weight_decay"]},
                  {"params": [p for p in self.parameters if p.dim() <= 1], "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(
            groups, lr=t["learning_rate"] / 10, betas=(t["beta1"], t["beta2"]), eps=t["epsilon"], fused=True)
        self.loss = torch.compile(self.model.loss) if compiled else self.model.loss

    def tokens_per_step(self):
        return self.t["batch_sequences"] * self.t["sequence_length"]

    def step(self):
        t = self.t
        count = t["batch_sequences"] // t["micro_batch_sequences"]
        begin = time.perf_counter()
        total = 0.0
        for _ in range(count):
            tokens = torch.randint(self.vocabulary, (t["micro_batch_sequences"], t["sequence_length"] + 1))
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = self.loss(tokens, t["mtp_lambda"]) / count
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(self.parameters, t["clip_norm"])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if not total == total:
            raise RuntimeError("the loss is NaN")
        return time.perf_counter() - begin


@contextlib.contextmanager
def time_limit(seconds):
    def late(*_):
        raise TimeoutError(f"not ready after {seconds} s")

    previous = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def all_variants():
    plain = [f"transformers-{e}" for e in EXPERT_IMPLEMENTATIONS] + [f"grouped-{g}" for g in GROUPINGS]
    return plain + [name + "+compile" for name in plain]


def prepare(name, c, t, limit_s):
    """The variant after two steps, in which it compiles; or why there is none."""
    try:
        with time_limit(limit_s):
            trainer = Trainer(name, c, t)
            for _ in range(3):
                trainer.step()
        return trainer, None
    except Exception as error:  # a variant that fails is a result
        return None, f"{type(error).__name__}: {error}".splitlines()[0][:300]


def compare(c, t, names, steps, rounds, limit_s, log=lambda text: None):
    trainers, failures = {}, {}
    for name in names:
        trainer, failure = prepare(name, c, t, limit_s)
        log(f"{name}: {failure or 'ready'}")
        if trainer:
            trainers[name] = trainer
        else:
            failures[name] = failure
    seconds = {name: [] for name in trainers}
    for _ in range(rounds):
        for name, trainer in trainers.items():
            trainer.step()
            seconds[name] += [trainer.step() for _ in range(steps)]
    speed = {name: trainers[name].tokens_per_step() / statistics.median(s) for name, s in seconds.items()}
    return trainers, speed, failures


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), platform.machine())
    return {"cpu": model, "threads": torch.get_num_threads(), "torch": torch.__version__}


def add_arguments(parser):
    parser.add_argument("recipe", help="a TOML file")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a variant in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variant", action="append", choices=all_variants(), help="default: all")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the recipe")
    parser.add_argument("--limit-s", type=int, default=300, help="time for a variant to compile and make three steps")


def start():
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))))
    warnings.filterwarnings("ignore")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    a = parser.parse_args()
    start()
    c, t = read_recipe(a.recipe, a.set)
    _, speed, failures = compare(
        c, t, a.variant or all_variants(), a.steps, a.rounds, a.limit_s, lambda text: print(text, file=sys.stderr))
    best = max(speed, key=speed.get, default=None)
    print(json.dumps({
        "recipe": a.recipe, "machine": machine(), "tokens_per_step": t["batch_sequences"] * t["sequence_length"],
        "tokens_per_s": speed, "failures": failures, "best": best, "best_tokens_per_s": speed.get(best)}, indent=2))
    return 0 if speed else 1


if __name__ == "__main__":
    sys.exit(main())
