"""The reference model: DeepSeek-V3 and LLaMA kinds in plain PyTorch, for goldens.

Everything (norms, router, softmax, rotary angles, loss) is computed in the dtype of the weights, so a run on
float64 weights really is FP64 throughout; transformers casts these parts to FP32 whatever the dtype.
Weights are a dict from Hugging Face tensor names to tensors; a matrix is [out, in] and y = x W^T.
The config is the dict read from config.json (Hugging Face keys; numbers that are no part of the Hugging Face
config stand in the object "rorqual").

Shapes in the comments: B sequences, T positions, d hidden_size, H heads, V vocabulary, N routed experts, K experts
per token. B*T is flattened with the position running fastest.
"""

import math
from dataclasses import dataclass, field

import torch


# ---- configuration ---------------------------------------------------------------------------------------------


def is_llama(config):
    return config["architectures"][0] == "LlamaForCausalLM"


def has_experts(config, layer):
    return bool(config.get("n_routed_experts")) and layer >= config["first_k_dense_replace"]


def mtp_depth(config):
    return config.get("num_nextn_predict_layers") or 0


def rope_dim(config):
    return config["head_dim"] if is_llama(config) else config["qk_rope_head_dim"]


def yarn(config):
    """The rope_scaling object when YaRN is in force, else None."""
    scaling = config.get("rope_scaling")
    if not scaling:
        return None
    if scaling["type"] != "yarn":
        raise ValueError(f"rope_scaling type {scaling['type']} is not supported")
    if scaling["mscale"] != scaling["mscale_all_dim"]:
        raise ValueError("mscale and mscale_all_dim differ: cos and sin would need a factor of their own")
    if config["max_position_embeddings"] <= scaling["original_max_position_embeddings"]:
        return None
    return scaling


def rope_frequencies(config):
    """Angle per position of each pair, [rope_dim / 2], float64."""
    dim, base = rope_dim(config), float(config["rope_theta"])
    index = torch.arange(dim // 2, dtype=torch.float64)
    plain = base ** (-2.0 * index / dim)
    scaling = yarn(config)
    if scaling is None:
        return plain

    def dim_of(rotations):
        original = scaling["original_max_position_embeddings"]
        return dim * math.log(original / (2 * math.pi * rotations)) / (2 * math.log(base))

    low = float(max(math.floor(dim_of(scaling["beta_fast"])), 0))
    high = float(min(math.ceil(dim_of(scaling["beta_slow"])), dim - 1))
    if low == high:
        high += 0.001
    ramp = ((index - low) / (high - low)).clamp(0.0, 1.0)
    return plain / scaling["factor"] * ramp + plain * (1.0 - ramp)


def softmax_scale(config):
    if is_llama(config):
        return config["head_dim"] ** -0.5
    scale = (config["qk_nope_head_dim"] + config["qk_rope_head_dim"]) ** -0.5
    scaling = yarn(config)
    if scaling is None:
        return scale
    m = 0.1 * scaling["mscale"] * math.log(scaling["factor"]) + 1.0
    return scale * m * m


# ---- tensor list -----------------------------------------------------------------------------------------------


def block_shapes(config, layer):
    """Names (without the layer prefix) and shapes of one block, in a fixed order."""
    d, heads = config["hidden_size"], config["num_attention_heads"]
    shapes = {"input_layernorm.weight": (d,), "post_attention_layernorm.weight": (d,)}
    if is_llama(config):
        kv_heads, head_dim = config["num_key_value_heads"], config["head_dim"]
        shapes["self_attn.q_proj.weight"] = (heads * head_dim, d)
        shapes["self_attn.k_proj.weight"] = (kv_heads * head_dim, d)
        shapes["self_attn.v_proj.weight"] = (kv_heads * head_dim, d)
        shapes["self_attn.o_proj.weight"] = (d, heads * head_dim)
    else:
        nope, rope, v = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
        q_rank, kv_rank = config["q_lora_rank"], config["kv_lora_rank"]
        if q_rank:
            shapes["self_attn.q_a_proj.weight"] = (q_rank, d)
            shapes["self_attn.q_a_layernorm.weight"] = (q_rank,)
            shapes["self_attn.q_b_proj.weight"] = (heads * (nope + rope), q_rank)
        else:
            shapes["self_attn.q_proj.weight"] = (heads * (nope + rope), d)
        shapes["self_attn.kv_a_proj_with_mqa.weight"] = (kv_rank + rope, d)
        shapes["self_attn.kv_a_layernorm.weight"] = (kv_rank,)
        shapes["self_attn.kv_b_proj.weight"] = (heads * (nope + v), kv_rank)
        shapes["self_attn.o_proj.weight"] = (d, heads * v)

    def mlp(prefix, width):
        shapes[prefix + "gate_proj.weight"] = (width, d)
        shapes[prefix + "up_proj.weight"] = (width, d)
        shapes[prefix + "down_proj.weight"] = (d, width)

    if has_experts(config, layer):
        width = config["moe_intermediate_size"]
        shapes["mlp.gate.weight"] = (config["n_routed_experts"], d)
        if config["scoring_func"] == "sigmoid":
            shapes["mlp.gate.e_score_correction_bias"] = (config["n_routed_experts"],)
        for expert in range(config["n_routed_experts"]):
            mlp(f"mlp.experts.{expert}.", width)
        if config["n_shared_experts"]:
            mlp("mlp.shared_experts.", width * config["n_shared_experts"])
    else:
        mlp("mlp.", config["intermediate_size"])
    return shapes


def tensor_shapes(config):
    """Every tensor of the model by Hugging Face name."""
    d, vocab, layers = config["hidden_size"], config["vocab_size"], config["num_hidden_layers"]
    shapes = {"model.embed_tokens.weight": (vocab, d), "model.norm.weight": (d,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, d)
    for layer in range(layers + mtp_depth(config)):
        prefix = f"model.layers.{layer}."
        if layer >= layers:
            shapes[prefix + "enorm.weight"] = (d,)
            shapes[prefix + "hnorm.weight"] = (d,)
            shapes[prefix + "eh_proj.weight"] = (d, 2 * d)
            shapes[prefix + "shared_head.norm.weight"] = (d,)
        shapes.update({prefix + name: shape for name, shape in block_shapes(config, layer).items()})
    return shapes


def is_routing_bias(name):
    return name.endswith("e_score_correction_bias")


# ---- forward ---------------------------------------------------------------------------------------------------


@dataclass
class Routing:
    """What one MoE layer decided for one batch."""

    load: torch.Tensor  # [N] int64, tokens routed to each expert
    margin: float  # least distance of a selected score to the best one not selected, over tokens, groups and experts


@dataclass
class Output:
    logits: torch.Tensor  # [B*T, V]
    mtp_logits: list  # per depth k = 1..D: [B*(T-k), V]
    token_nll: torch.Tensor  # [B, T]
    loss: torch.Tensor  # main head
    mtp_loss: torch.Tensor  # mean over depths, without lambda
    balance_loss: torch.Tensor  # with alpha
    total_loss: torch.Tensor
    routing: dict = field(default_factory=dict)  # layer -> Routing
    hidden: dict = field(default_factory=dict)  # layer -> [B*T, d], residual stream after the layer


def rms_norm(x, weight, eps):
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))


def rotate(x, angles, interleaved):
    """Rotary embedding of x [B, T, heads, rope_dim] by angles [T, rope_dim / 2]."""
    cos, sin = angles.cos()[:, None, :], angles.sin()[:, None, :]
    if interleaved:  # pairs (2i, 2i+1)
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)
    a, b = x.chunk(2, dim=-1)  # pairs (i, i + rope_dim / 2)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def top_k_mask(scores, k):
    """Mask of the k largest per row, ties to the lowest index, and the least margin to the next one."""
    ordered, index = torch.sort(scores, dim=-1, descending=True, stable=True)
    mask = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, index[..., :k], True)
    margin = math.inf
    if k < scores.shape[-1]:
        margin = (ordered[..., k - 1] - ordered[..., k]).min().item()
    return mask, margin


class Model:
    def __init__(self, config, weights):
        self.config = config
        self.weights = weights
        self.dtype = weights["model.embed_tokens.weight"].dtype
        self.eps = config["rms_norm_eps"]
        self.scale = softmax_scale(config)
        self.frequencies = rope_frequencies(config).to(self.dtype)

    def attend(self, q, k, v):
        """Causal attention; q, k [B, T, H, qk_dim], v [B, T, H, v_dim] -> [B, T, H * v_dim]."""
        length = q.shape[1]
        scores = torch.einsum("bthx,bshx->bhts", q, k) * self.scale
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        p = torch.softmax(scores.masked_fill(future, -math.inf), dim=-1)
        return torch.einsum("bhts,bshx->bthx", p, v).flatten(2)

    def latent_attention(self, x, prefix):
        c, w = self.config, self.weights
        heads, nope, rope, v_dim = (
            c["num_attention_heads"], c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"])
        batch, length, _ = x.shape
        angles = torch.arange(length, dtype=self.dtype)[:, None] * self.frequencies
        if c["q_lora_rank"]:
            q = x @ w[prefix + "q_a_proj.weight"].T
            q = rms_norm(q, w[prefix + "q_a_layernorm.weight"], self.eps) @ w[prefix + "q_b_proj.weight"].T
        else:
            q = x @ w[prefix + "q_proj.weight"].T
        q_nope, q_rope = q.view(batch, length, heads, nope + rope).split([nope, rope], dim=-1)
        latent, k_rope = (x @ w[prefix + "kv_a_proj_with_mqa.weight"].T).split([c["kv_lora_rank"], rope], dim=-1)
        latent = rms_norm(latent, w[prefix + "kv_a_layernorm.weight"], self.eps)
        kv = (latent @ w[prefix + "kv_b_proj.weight"].T).view(batch, length, heads, nope + v_dim)
        k_nope, v = kv.split([nope, v_dim], dim=-1)
        k_rope = rotate(k_rope[:, :, None, :], angles, interleaved=True).expand(-1, -1, heads, -1)
        q = torch.cat([q_nope, rotate(q_rope, angles, interleaved=True)], dim=-1)
        return self.attend(q, torch.cat([k_nope, k_rope], dim=-1), v) @ w[prefix + "o_proj.weight"].T

    def grouped_query_attention(self, x, prefix):
        c, w = self.config, self.weights
        batch, length, _ = x.shape
        angles = torch.arange(length, dtype=self.dtype)[:, None] * self.frequencies
        q, k, v = (
            (x @ w[f"{prefix}{name}_proj.weight"].T).view(batch, length, -1, c["head_dim"]) for name in "qkv")
        share = c["num_attention_heads"] // c["num_key_value_heads"]  # query heads share..share+share-1 use one kv head
        k = rotate(k, angles, interleaved=False).repeat_interleave(share, dim=2)
        q, v = rotate(q, angles, interleaved=False), v.repeat_interleave(share, dim=2)
        return self.attend(q, k, v) @ w[prefix + "o_proj.weight"].T

    def mlp(self, x, prefix):
        w = self.weights
        gate = torch.nn.functional.silu(x @ w[prefix + "gate_proj.weight"].T)
        return (gate * (x @ w[prefix + "up_proj.weight"].T)) @ w[prefix + "down_proj.weight"].T

    def route(self, x, prefix):
        """x [B, T, d] -> scores s [B, T, N], chosen [B, T, N] bool, margin."""
        c, w = self.config, self.weights
        logits = x @ w[prefix + "gate.weight"].T
        groups, per_group = c.get("n_group") or 1, c["n_routed_experts"] // (c.get("n_group") or 1)
        if c["scoring_func"] == "sigmoid":
            scores = torch.sigmoid(logits)
            choice = (scores + w[prefix + "gate.e_score_correction_bias"]).detach()
        else:
            scores = torch.softmax(logits, dim=-1)
            choice = scores.detach()
        margin = math.inf
        if groups > 1:
            grouped = choice.unflatten(-1, (groups, per_group))
            best = 2 if c["scoring_func"] == "sigmoid" else 1  # sum of the best two, or the best
            kept, margin = top_k_mask(grouped.topk(best, dim=-1).values.sum(-1), c["topk_group"])
            choice = grouped.masked_fill(~kept[..., None], -math.inf).flatten(-2)
        chosen, expert_margin = top_k_mask(choice, c["num_experts_per_tok"])
        return scores, chosen, min(margin, expert_margin)

    def experts(self, x, prefix, layer, output):
        c = self.config
        count, per_token, length = c["n_routed_experts"], c["num_experts_per_tok"], x.shape[1]
        scores, chosen, margin = self.route(x, prefix)
        output.routing[layer] = Routing(load=chosen.sum((0, 1)), margin=margin)
        gates = scores * chosen
        if c["norm_topk_prob"] and c["scoring_func"] == "sigmoid":
            gates = gates / (gates.sum(-1, keepdim=True) + 1e-20)
        gates = gates * c["routed_scaling_factor"]
        y = torch.zeros_like(x)
        for expert in range(count):
            y = y + gates[..., expert, None] * self.mlp(x, f"{prefix}experts.{expert}.")
        if c["n_shared_experts"]:
            y = y + self.mlp(x, prefix + "shared_experts.")
        # Sequence balance loss: f from the routing as it happened, P from the unbiased scores.
        f = chosen.sum(1).to(self.dtype) * (count / (per_token * length))  # [B, N]
        p = (scores / scores.sum(-1, keepdim=True)).mean(1)  # [B, N]
        output.balance_loss = output.balance_loss + c["rorqual"]["balance_alpha"] * (f * p).sum(-1).mean()
        return y

    def block(self, x, layer, output):
        w, prefix = self.weights, f"model.layers.{layer}."
        attention = self.grouped_query_attention if is_llama(self.config) else self.latent_attention
        x = x + attention(rms_norm(x, w[prefix + "input_layernorm.weight"], self.eps), prefix + "self_attn.")
        h = rms_norm(x, w[prefix + "post_attention_layernorm.weight"], self.eps)
        if has_experts(self.config, layer):
            return x + self.experts(h, prefix + "mlp.", layer, output)
        return x + self.mlp(h, prefix + "mlp.")

    def forward(self, tokens, token_weights):
        """tokens [B, T+1] int64; token_weights [B, T]: weight of the prediction of tokens[:, 1:]."""
        c, w = self.config, self.weights
        length, layers, depth = tokens.shape[1] - 1, c["num_hidden_layers"], mtp_depth(c)
        embedding = w["model.embed_tokens.weight"]
        head = embedding if c["tie_word_embeddings"] else w["lm_head.weight"]
        zero = torch.zeros((), dtype=self.dtype)
        output = Output(*([None] * 7))
        output.balance_loss, output.mtp_logits = zero, []
        total_weight = token_weights.sum()

        def nll(logits, targets):
            return -torch.log_softmax(logits, dim=-1).gather(-1, targets[..., None])[..., 0]

        x = embedding[tokens[:, :length]]
        for layer in range(layers):
            x = self.block(x, layer, output)
            output.hidden[layer] = x.flatten(0, 1)
        hidden = rms_norm(x, w["model.norm.weight"], self.eps)
        logits = hidden @ head.T
        output.logits = logits.flatten(0, 1)
        output.token_nll = nll(logits, tokens[:, 1:])
        output.loss = (token_weights * output.token_nll).sum() / total_weight

        output.mtp_loss = zero
        for k in range(1, depth + 1):
            prefix = f"model.layers.{layers + k - 1}."
            ahead = embedding[tokens[:, k:length]]  # [B, T-k, d], token i + k
            joined = torch.cat([
                rms_norm(ahead, w[prefix + "enorm.weight"], self.eps),
                rms_norm(hidden[:, : length - k], w[prefix + "hnorm.weight"], self.eps),
            ], dim=-1)
            hidden = self.block(joined @ w[prefix + "eh_proj.weight"].T, layers + k - 1, output)
            logits = rms_norm(hidden, w[prefix + "shared_head.norm.weight"], self.eps) @ head.T
            output.mtp_logits.append(logits.flatten(0, 1))
            term = (token_weights[:, k:] * nll(logits, tokens[:, k + 1 :])).sum() / total_weight
            output.mtp_loss = output.mtp_loss + term / depth
        output.total_loss = output.loss + c["rorqual"]["mtp_lambda"] * output.mtp_loss + output.balance_loss
        return output
