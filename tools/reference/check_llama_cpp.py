#!/usr/bin/env python3
"""Compare GGUF exports with llama.cpp (llama-cpp-python), for several shapes.

    check_llama_cpp.py [SHAPE...] [--model MODEL]

rorqual trains a small model of each shape and exports it; llama.cpp loads the file on one thread. F32: the text that both
write greedily must be the same, the largest difference of any logit within 1e-4 of the largest logit, and texts must have
the same ids. (llama.cpp keeps its cache in FP16 unless told otherwise; it is told so here, so what is left is the rounding
of FP32 sums in another order.) BF16 and Q8_0: differences must be those of rounded weights, not of another model: on average
within a tenth of the largest logit. With --model, one model or run directory of yours instead of the shapes. Exits 1 if
anything differs.
"""

import argparse
import os
import sys
import tempfile

import llama_cpp
import numpy

import shapes

TOLERANCE = 1e-4
ROUNDED_TOLERANCE = 0.1
TEXT_CHARACTERS = 160


def load(path, context):
    """FP32 cache, no flash attention: the plain computation."""
    return llama_cpp.Llama(model_path=str(path), n_ctx=context, n_batch=context, n_ubatch=context, n_threads=1,
                           n_threads_batch=1, logits_all=True, verbose=False, type_k=llama_cpp.GGML_TYPE_F32,
                           type_v=llama_cpp.GGML_TYPE_F32, flash_attn=False)


def logits_of(model, tokens):
    model.reset()
    model.eval(list(tokens))
    return numpy.array(model.scores[:len(tokens)])


def check(name, model, folder):
    """model: for rorqual. llama.cpp's view of its exports, and of its tokenizer."""
    facts = shapes.json.loads(shapes.run("inspect", model, "--json"))["config"]
    context, vocabulary = facts["max_position_embeddings"], facts["vocab_size"]
    tokenizer = os.path.join(folder, "hf")
    shapes.run("export", model, "--to", tokenizer)
    text = shapes.sample_text(TEXT_CHARACTERS)
    tokens = shapes.encode(tokenizer, text)[:min(context, 256)]
    passed = True
    for dtype in ("f32", "bf16", "q8_0"):
        file = os.path.join(folder, f"{dtype}.gguf")
        shapes.run("export", model, "--to", file, "--dtype", dtype)
        peer = load(file, min(context, 512))
        found = shapes.verify(model, tokens, logits_of(peer, tokens)[:, :vocabulary], folder)
        relative = found["largest_difference"] / found["largest_logit"]
        mean = found["mean_difference"] / found["largest_logit"]
        words = f"logits within {relative:.1e} of the largest ({found['largest_logit']:.1f}), {mean:.1e} on average"
        if dtype == "f32":
            ids = all(peer.tokenize(part.encode(), add_bos=True, special=False) == shapes.encode(tokenizer, part)
                      for part in (text, *shapes.PROMPTS))
            same = sum(shapes.greedy(lambda t: logits_of(peer, t)[-1], shapes.encode(tokenizer, prompt), peer.token_eos())
                       == shapes.generate(model, prompt) for prompt in shapes.PROMPTS)
            good = ids and same == len(shapes.PROMPTS) and relative <= TOLERANCE
            words += f"; greedy text equal for {same} of {len(shapes.PROMPTS)} prompts; ids {'equal' if ids else 'DIFFER'}"
        else:
            good = mean <= ROUNDED_TOLERANCE
            words += f"; top token equal for {found['agreement']:.1%}"
        print(f"{'ok  ' if good else 'FAIL'} {name}, {dtype}: {words}", flush=True)
        passed &= good
        peer.close()
    return passed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", nargs="*", help="names of shapes.py; default: all")
    parser.add_argument("--model", help="a model or run directory to compare instead")
    args = parser.parse_args()
    print(f"llama-cpp-python {llama_cpp.__version__}")
    passed = []
    with tempfile.TemporaryDirectory() as folder:
        if args.model:
            passed.append(check(args.model, args.model, folder))
    for shape in [] if args.model else args.shape or shapes.SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            passed.append(check(shape, shapes.train(shape, os.path.join(folder, "run")), folder))
    print(f"{sum(passed)} of {len(passed)} models agree with llama.cpp")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
