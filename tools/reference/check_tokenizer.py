#!/usr/bin/env python3
"""Compares rorqual's tokenizer with the Rust library `tokenizers` (PyPI): the same ids for the same text.

    python3 tools/reference/check_tokenizer.py --program build/release/rorqual [--text FILE]... [--strings 100000]

Four checks, each of which must find no difference:
  1. DeepSeek-V3's tokenizer on random strings and on pieces of real text (by default this repository's files), plus every
     Unicode character in three surroundings;
  2. decoding gives the text back;
  3. a tokenizer that `rorqual tokenizer train` wrote, loaded by the library, on the same strings;
  4. its merges against those of the library's own BPE trainer on the same documents.
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile

import tokenizers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden/tokenizer"

# Characters that the patterns tell apart, and neighbours of their ranges.
OFTEN = list("aZbé  \t\n\r\u000b\u0085\u00a0\u1680\u2028\u3000\ufeff\u180e\u200b'’.,<>|{}_#$+1239٣Ⅷ½中一龥龦ーヿ\u3040・ぁ゠"
             "\u0301\u0903\u00ad\u0000\u0001\u007f€😀\U00020000\U0001d7ce\ue000\U0010ffff")
WORDS = ["the", " the", "  ", "\n\n", " \n", "don't", "'s", "===", "----", "/*", "*/", "http://", "2024", "1234567", "é", "中文",
         "テスト", "()", ");\n", "\t\t", "<｜fim▁begin｜>", "<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜", "▁", "｜>", "foo_bar", "CamelCase"]


def random_string(rng):
    kind = rng.randrange(4)
    length = rng.choice((1, 2, 3, 5, 8, 13, 40))
    if kind == 0:
        return "".join(rng.choice(OFTEN) for _ in range(length))
    if kind == 1:
        return "".join(rng.choice(WORDS) + (" " if rng.random() < 0.3 else "") for _ in range(length))
    if kind == 2:
        return "".join(random_char(rng) if rng.random() < 0.5 else rng.choice(OFTEN) for _ in range(length))
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyzABC") for _ in range(length * rng.choice((1, 1, 1, 20))))


def random_char(rng):
    while True:
        code = rng.randrange(rng.choice((0x80, 0x3000, 0x30000, 0x110000)))
        if not 0xD800 <= code <= 0xDFFF:
            return chr(code)


def every_character():
    for code in range(0x110000):
        if not 0xD800 <= code <= 0xDFFF:
            c = chr(code)
            yield from (c, "a%sb %s%s 1" % (c, c, c), " %s\n%s." % (c, c))


def real_strings(paths, rng, count):
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in paths]
    for _ in range(count):
        text = rng.choice(texts)
        start = rng.randrange(max(1, len(text)))
        yield text[start:start + rng.choice((10, 100, 1000))]


def run(program, args, lines):
    done = subprocess.run([program, "tokenizer", *args], input="".join(lines).encode(), stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def compare(name, program, folder, texts):
    ours = run(program, ["encode", "--tokenizer", str(folder), "--jsonl"], [json.dumps({"text": t}) + "\n" for t in texts])
    library = Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs = library.encode_batch(texts, add_special_tokens=False)
    wrong = [i for i, text in enumerate(texts) if ours[i]["ids"] != theirs[i].ids]
    for i in wrong[:10]:
        print("  %s: %r\n    ours   %s\n    theirs %s" % (name, texts[i], ours[i]["ids"], theirs[i].ids))
    back = run(program, ["decode", "--tokenizer", str(folder), "--jsonl"], [json.dumps(o) + "\n" for o in ours])
    lost = [i for i, text in enumerate(texts) if back[i]["text"] != text]
    for i in lost[:10]:
        print("  %s: %r comes back as %r" % (name, texts[i], back[i]["text"]))
    print("%s: %d texts, %d differ, %d do not come back" % (name, len(texts), len(wrong), len(lost)))
    return not wrong and not lost


def in_parts(items, size):
    part = []
    for item in items:
        part.append(item)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def compare_training(program, folder, documents, vocab):
    """Our merges and the library's: its trainer gets the same pre-tokenizer, alphabet and specials."""
    ours = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json")).pre_tokenizer
    specials = [t["content"] for t in ours["added_tokens"] if t["special"]]
    library.train_from_iterator(documents, trainers.BpeTrainer(
        vocab_size=vocab - 3, min_frequency=2, special_tokens=specials, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    theirs = [m if isinstance(m, str) else " ".join(m) for m in json.loads(library.to_str())["model"]["merges"]]
    mine = ours["model"]["merges"]
    # Where two merges make one token, its pairs can be chosen twice: the library then lists only the later place.
    repeats = len(mine) != len(theirs)
    first = next((i for i, (a, b) in enumerate(zip(mine, theirs)) if a != b), None)
    print("training: %d merges, %d by the library, %s" % (len(mine), len(theirs),
          "the same" if first is None and not repeats else "first difference at %s" % first))
    return first is None and not repeats


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=str(ROOT / "build/release/rorqual"))
    parser.add_argument("--text", action="append", type=pathlib.Path, help="real text; may be repeated")
    parser.add_argument("--strings", type=int, default=100_000)
    parser.add_argument("--vocab", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    paths = args.text or sorted(p for p in ROOT.rglob("src/**/*") if p.suffix in (".h", ".cc")) + sorted(ROOT.rglob("docs/**/*.md"))
    strings = [random_string(rng) for _ in range(args.strings // 2)] + list(real_strings(paths, rng, args.strings // 2))
    print("library: tokenizers %s" % tokenizers.__version__)
    right = True
    with tempfile.TemporaryDirectory() as temporary:
        deepseek = pathlib.Path(temporary) / "deepseek"
        deepseek.mkdir()
        subprocess.run(["zstd", "-q", "-d", str(GOLDEN / "deepseek_v3_tokenizer.json.zst"), "-o", str(deepseek / "tokenizer.json")], check=True)
        right &= compare("DeepSeek-V3", args.program, deepseek, strings)
        for part in in_parts(every_character(), 1_200_000):
            right &= compare("every character", args.program, deepseek, part)

        data, trained = pathlib.Path(temporary) / "data", pathlib.Path(temporary) / "trained"
        data.mkdir()
        for i, path in enumerate(paths):
            (data / ("%d.txt" % i)).write_bytes(path.read_bytes().decode("utf-8", "replace").replace("\0", " ").encode())
        command = [args.program, "tokenizer", "train", "--data", str(data), "--vocab", str(args.vocab), "--out", str(trained),
                   "--heldout", "0"]
        subprocess.run(command, check=True)
        right &= compare("trained here", args.program, trained, strings)
        # The program reads each document once, whatever the number of its copies.
        documents = sorted({p.read_bytes().decode("utf-8") for p in data.iterdir()} - {""})
        right &= compare_training(args.program, trained, documents, args.vocab)
    print("all the same" if right else "DIFFERENCES")
    return 0 if right else 1


sys.exit(main())
