#!/usr/bin/env python3
"""Compare whole models with unmodified transformers in both directions, for several shapes.

    check_interop.py [SHAPE...] [--model MODEL]

There: a model that rorqual has trained, exported in FP32, loaded by from_pretrained. Here: a randomly initialised
DeepseekV3ForCausalLM, saved by save_pretrained in FP32 or BF16, read by rorqual without any step between. Both in FP32:
the largest difference of any logit must stay within 1e-4 of the largest logit, and greedy text must be the same. The
export in FP8 is held against ours likewise, its weights dequantised here by torch: transformers' own dequantiser takes the
size of blocks from the number of scales, which is wrong at ragged edges. With --model, one model or run directory of yours
instead of the shapes. Exits 1 if anything differs.
"""

import argparse
import json
import os
import pathlib
import shutil
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import safetensors.torch
import torch
import transformers

import shapes

TOLERANCE = 1e-4
TEXT_CHARACTERS = 160

# Keys of DeepseekV3Config beside those that all have.
RANDOM = {
    "V3 in small": dict(q_lora_rank=24, n_group=4, topk_group=2),
    "no query LoRA, no groups": dict(q_lora_rank=None, n_group=1, topk_group=1),
    "YaRN": dict(q_lora_rank=24, n_group=4, topk_group=2,
                 rope_parameters={"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "beta_fast": 32, "beta_slow": 1,
                                  "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 64}),
    "saved in BF16": dict(q_lora_rank=24, n_group=2, topk_group=1, save_dtype=torch.bfloat16),
}


def logits_of(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].float()


def compare(what, model, ours, tokenizer, folder):
    """model: of transformers; ours: a directory for rorqual; tokenizer: a directory."""
    context = json.loads(shapes.run("inspect", ours, "--json"))["config"]["max_position_embeddings"]
    tokens = shapes.encode(tokenizer, shapes.sample_text(TEXT_CHARACTERS))[:context]
    found = shapes.verify(ours, tokens, logits_of(model, tokens).numpy(), folder)
    relative = found["largest_difference"] / found["largest_logit"]
    same, end = 0, model.config.eos_token_id
    for prompt in shapes.PROMPTS:
        theirs = shapes.greedy(lambda ids: logits_of(model, ids)[-1], shapes.encode(tokenizer, prompt), end)
        same += theirs == shapes.generate(ours, prompt)
    good = relative <= TOLERANCE and same == len(shapes.PROMPTS)
    print(f"{'ok  ' if good else 'FAIL'} {what}: logits within {relative:.1e} of the largest ({found['largest_logit']:.1f}), "
          f"{len(tokens)} tokens; greedy text equal for {same} of {len(shapes.PROMPTS)} prompts", flush=True)
    return good


def load(folder):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager", output_loading_info=True)
    missing = [key for key in info["missing_keys"] if dict(model.named_parameters()).get(key, torch.empty(0)).numel() > 0]
    surplus = [key for key in info["unexpected_keys"] if not is_mtp(key, model.config)]
    if missing or surplus or info["mismatched_keys"]:
        sys.exit(f"from_pretrained: missing {missing}, unexpected {surplus}, mismatched {info['mismatched_keys']}")
    return model.train(False)


def is_mtp(key, config):
    """transformers leaves out MTP modules: those of layer 61 silently, others are listed as unexpected."""
    layers = key.split(".")
    return layers[:2] == ["model", "layers"] and int(layers[2]) >= config.num_hidden_layers


def dequantise(source, target):
    """A directory in FP8 as one in FP32: code * scale, a scale per 128 x 128, ragged edges cut."""
    target.mkdir()
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    del config["quantization_config"]
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = {}
    for shard in source.glob("*.safetensors"):
        tensors |= safetensors.torch.load_file(shard)
    for name in [name for name in tensors if name + "_scale_inv" in tensors]:
        codes, scales = tensors[name].float(), tensors.pop(name + "_scale_inv")
        scales = scales.repeat_interleave(128, 0)[: codes.shape[0]].repeat_interleave(128, 1)[:, : codes.shape[1]]
        tensors[name] = codes * scales
    safetensors.torch.save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def there(name, run, folder):
    """Our model in transformers."""
    export = pathlib.Path(folder) / "export"
    shapes.run("export", run, "--to", export, "--dtype", "f32")
    passed = compare(f"{name}, exported", load(export), run, export, folder)
    fp8 = pathlib.Path(folder) / "fp8"
    shapes.run("export", run, "--to", fp8, "--dtype", "fp8")
    quantised = load(dequantise(fp8, pathlib.Path(folder) / "dequantised"))
    return compare(f"{name}, exported in FP8", quantised, fp8, fp8, folder) and passed


def here(name, tokenizer, folder):
    """Their model in rorqual."""
    options = dict(RANDOM[name])
    save_dtype = options.pop("save_dtype", torch.float32)
    torch.manual_seed(1)
    config = transformers.DeepseekV3Config(
        vocab_size=448, hidden_size=96, intermediate_size=160, moe_intermediate_size=40, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=4, kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=12,
        n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=3, first_k_dense_replace=1, max_position_embeddings=256,
        routed_scaling_factor=2.5, initializer_range=0.1, bos_token_id=0, eos_token_id=1, **options)
    model = transformers.DeepseekV3ForCausalLM(config).train(False)
    for key, value in model.state_dict().items():
        if key.endswith("e_score_correction_bias"):
            value.normal_(0, 0.1)
        elif key.endswith("norm.weight"):
            value.normal_(1, 0.1)
    saved = pathlib.Path(folder) / "saved"
    model.to(save_dtype).save_pretrained(saved)  # read again: the cast has rounded rotary frequencies too, the file has none
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(pathlib.Path(tokenizer) / file, saved)
    return compare(f"{name}, of transformers", load(saved), saved, saved, folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", nargs="*", help="names of shapes.py; default: all")
    parser.add_argument("--model", help="a model or run directory to compare instead")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    passed = []
    if args.model:
        with tempfile.TemporaryDirectory() as folder:
            passed.append(there(args.model, args.model, folder))
        return 0 if all(passed) else 1
    with tempfile.TemporaryDirectory() as common:
        for i, shape in enumerate(args.shape or shapes.SHAPES):
            with tempfile.TemporaryDirectory() as folder:
                run = shapes.train(shape, os.path.join(folder, "run"))
                passed.append(there(shape, run, folder))
                if i == 0:
                    shutil.copytree(os.path.join(run, "tokenizer"), os.path.join(common, "tokenizer"))
        for name in RANDOM:
            with tempfile.TemporaryDirectory() as folder:
                passed.append(here(name, os.path.join(common, "tokenizer"), folder))
    print(f"{sum(passed)} of {len(passed)} comparisons agree")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
