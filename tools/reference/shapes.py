"""Small models of several shapes, trained here for a few steps, and what rorqual computes with them.

Shared by check_interop.py and check_llama_cpp.py. Each shape is tests/mini.toml with some keys changed.
"""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("RORQUAL_PROGRAM", str(ROOT / "build/release/rorqual"))
PROMPTS = ("The kernel", "static int ", "a = 1 + ", "Über 𝄞 世界 ")
GREEDY_TOKENS = 24

# 80 tokens of context: some windows of a text are as long as that.
COMMON = {"train.steps": 12, "train.sequence_length": 80, "train.learning_rate": 1e-2, "tokenizer.vocab_size": 420,
          "model.initializer_range": 0.08}
YARN = {"model.rope_scaling.factor": 4.0, "model.rope_scaling.original_max_position_embeddings": 20,
        "model.max_position_embeddings": 80}
SHAPES = {
    "groups": {},  # query LoRA, groups of experts, a shared expert, a dense layer, a MTP module
    "deep": {"model.num_hidden_layers": 5, "model.first_k_dense_replace": 2, "model.hidden_size": 64,
             "model.kv_lora_rank": 32, "model.q_lora_rank": 48, "model.routed_scaling_factor": 2.5},
    "ragged blocks": {"model.hidden_size": 160, "model.intermediate_size": 200, "model.q_lora_rank": 136,
                      "model.kv_lora_rank": 144, "model.moe_intermediate_size": 152},  # of 128 × 128 in FP8
    "no query LoRA": {"model.q_lora_rank": 0, "model.n_group": 1, "model.topk_group": 1, "model.num_nextn_predict_layers": 0},
    "wide heads": {"model.num_attention_heads": 4, "model.qk_nope_head_dim": 24, "model.qk_rope_head_dim": 16,
                   "model.v_head_dim": 20, "model.kv_lora_rank": 40, "model.n_shared_experts": 2},
    "many experts": {"model.n_routed_experts": 32, "model.num_experts_per_tok": 6, "model.n_group": 8, "model.topk_group": 4,
                     "model.num_hidden_layers": 3},
    "yarn": YARN,
    "yarn, mscale 0.7": YARN | {"model.rope_scaling.mscale": 0.707, "model.rope_scaling.mscale_all_dim": 0.707},
    "tied": {"model.tie_word_embeddings": "true", "model.num_nextn_predict_layers": 0},
    "dense": {"model.n_routed_experts": 0, "model.num_nextn_predict_layers": 0},
}


def run(*arguments):
    """rorqual's standard output; stops the program with its message where it fails."""
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True)
    if done.returncode != 0:
        sys.exit(f"rorqual {' '.join(map(str, arguments))}\n{done.stderr.decode(errors='replace')}")
    return done.stdout


def train(shape, folder):
    """A run directory of that shape: a dozen steps, so that norms and routing biases have left their first values."""
    settings = [word for key, value in (COMMON | SHAPES[shape]).items() for word in ("--set", f"{key}={value}")]
    data = [word for name in ("src", "docs", "tests") for word in ("--data", ROOT / name)]
    run("train", ROOT / "tests/mini.toml", "--out", folder, *data, *settings)
    return folder


def encode(tokenizer_folder, text):
    """A BOS and the ids of a text, as rorqual's commands use them."""
    from tokenizers import Tokenizer
    with open(pathlib.Path(tokenizer_folder) / "tokenizer_config.json", encoding="utf-8") as file:
        bos = json.load(file)["bos_token"]
    tokenizer = Tokenizer.from_file(str(pathlib.Path(tokenizer_folder) / "tokenizer.json"))
    return [tokenizer.token_to_id(bos)] + tokenizer.encode(text, add_special_tokens=False).ids


def sample_text(n):
    return (ROOT / "README.md").read_text(encoding="utf-8")[:n]


def verify(model, tokens, logits, folder):
    """rorqual's comparison of its FP32 logits with these: [n] ids and [n, vocabulary] numbers of another program."""
    import numpy
    import safetensors.numpy
    recorded = pathlib.Path(folder) / "recorded.safetensors"
    safetensors.numpy.save_file({"tokens": numpy.asarray(tokens, dtype=numpy.int64),
                                 "logits": numpy.ascontiguousarray(logits, dtype=numpy.float32)}, str(recorded))
    return json.loads(run("verify", model, recorded, "--json"))


def generate(model, prompt):
    """Ids that rorqual writes greedily in FP32 behind a BOS and the prompt."""
    return json.loads(run("generate", model, "--prompt", prompt, "--max-tokens", GREEDY_TOKENS, "--temperature", 0,
                          "--precision", "fp32", "--json"))["token_ids"]


def greedy(logits_after, tokens, end):
    """The same by another program: logits_after(ids) are the numbers after the last of them."""
    tokens, written = list(tokens), []
    while len(written) < GREEDY_TOKENS:
        best = int(logits_after(tokens).argmax())
        if best == end:
            break
        written.append(best)
        tokens.append(best)
    return written
