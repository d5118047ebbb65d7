#!/usr/bin/env python3
"""Compares rorqual's chat templates with Python's Jinja2, set up as transformers does.

    python3 tools/reference/check_chat_template.py [--program build/release/rorqual] [--random 300] [--templates FOLDER]
    python3 tools/reference/check_chat_template.py --write      # makes tests/golden/jinja/cases.json anew

Checks, each of which must find no difference:
  1. the golden file says what Jinja2 says today (the tests of `jinja` hold rorqual against that file);
  2. random expressions and white space, rendered by `rorqual chat-template` and by Jinja2;
  3. where transformers is installed, its own apply_chat_template on DeepSeek-V3's template and those of jinja_cases.py;
  4. every *.jinja in FOLDER with the conversations of jinja_cases.py (none are kept here).
"""
import argparse
import datetime
import json
import pathlib
import random
import subprocess
import sys
import tempfile

import jinja2
import jinja2.ext
import jinja2.sandbox

import jinja_cases

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden/jinja/cases.json"
CONFIG = ROOT / "tests/golden/tokenizer/deepseek_v3_tokenizer_config.json"


class Generation(jinja2.ext.Extension):
    """{% generation %} gives its block, in a scope of its own."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_block"), [], [], body).set_lineno(line)

    def _block(self, caller):
        return caller()


class Namespace(jinja2.utils.Namespace):
    """As transformers has it: no attributes that begin with an underscore."""

    def __setitem__(self, name, value):
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(name)
        super().__setitem__(name, value)


def environment():
    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def strftime_now(form):
        return datetime.datetime.fromtimestamp(jinja_cases.NOW, datetime.timezone.utc).strftime(form)

    made.filters["tojson"] = tojson
    made.globals.update(raise_exception=raise_exception, strftime_now=strftime_now, namespace=Namespace)
    return made


def rendered(env, template, variables):
    """The text, or the kind of the error. What the text of a list or an object's address would be is no case."""
    try:
        text = env.from_string(template).render(**variables)
        text.encode()
        return {"text": text}
    except RecursionError:
        return {"error": "RecursionError"}
    except Exception as error:  # whatever Python makes of a mistake
        return {"error": type(error).__name__}


def golden():
    env = environment()
    cases = []
    for template, variables in jinja_cases.cases():
        case = {"template": template}
        if variables is not None:
            case["variables"] = variables
        case.update(rendered(env, template, jinja_cases.CONTEXT if variables is None else variables))
        cases.append(case)
    return {"about": "Made by tools/reference/check_chat_template.py --write with Jinja2; `variables` holds for cases without their own.",
            "now": jinja_cases.NOW, "variables": jinja_cases.CONTEXT, "cases": cases}


def ours(program, template, variables):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
        (folder / "messages.json").write_text(json.dumps(variables))
        done = subprocess.run([program, "chat-template", str(folder), "--messages", str(folder / "messages.json")],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if done.returncode == 0:
            return {"text": done.stdout.decode()}
        if done.returncode == 1:
            return {"error": done.stderr.decode().strip().replace(str(folder), "")}
        return {"crash": done.stderr.decode()}


def agree(name, template, mine, theirs):
    same = mine.get("text") == theirs.get("text") and "crash" not in mine
    if not same:
        print("%s differs: %r\n  ours   %r\n  theirs %r" % (name, template, mine, theirs))
    return same


ATOMS = ["n", "s", "l", "d", "f", "z", "u", "e", "nil", "yes", "words", "people", "missing", "1", "2", "-1", "0", "'a'", "'l'", "''", "1.5", "[1, 'a']",
         "{'k': 2}", "(1, 2)", "d.a", "l[0]", "s[1:]", "people[0].name", "d.items()|list", "messages[1].content", "none", "true"]
FILTERS = ["upper", "lower", "length", "first", "last", "join(',')", "list", "string", "int", "trim", "default('q')", "tojson", "replace('l', 'L')",
           "sort", "reverse|list", "map('string')|list", "select('defined')|list", "sum", "max", "unique|list", "title", "indent(2)", "abs", "float"]
TESTS = ["defined", "none", "string", "number", "mapping", "iterable", "odd", "true", "in l", "eq 1", "not defined", "sequence", "boolean", "integer"]
METHODS = ["strip()", "split()", "split('l')", "upper()", "startswith('a')", "get('a')", "keys()|list", "count('l')", "replace('l', '')", "find('l')"]


def random_expression(rng, depth):
    if depth == 0:
        return rng.choice(ATOMS)
    inner = lambda: random_expression(rng, depth - 1)
    kind = rng.randrange(10)
    if kind == 0:
        return "(%s %s %s)" % (inner(), rng.choice(["+", "-", "*", "//", "%", "/"]), inner())
    if kind == 1:
        return "(%s %s %s)" % (inner(), rng.choice(["==", "!=", "<", "<=", ">", ">=", "in", "not in"]), inner())
    if kind == 2:
        return "(%s %s %s)" % (inner(), rng.choice(["and", "or"]), inner())
    if kind == 3:
        return "(%s if %s else %s)" % (inner(), inner(), inner())
    if kind == 4:
        return "(%s ~ %s)" % (inner(), inner())
    if kind == 5:
        return "(%s is %s)" % (inner(), rng.choice(TESTS))
    if kind == 6:
        return "(%s)[%s]" % (inner(), rng.choice(["0", "-1", "1:", ":2", "::-1", "'a'", "'name'"]))
    if kind == 7:
        return "(%s).%s" % (inner(), rng.choice(METHODS))
    return "(%s)|%s" % (inner(), rng.choice(FILTERS))


def random_spaces(rng):
    """Tags with signs among white space."""
    space = lambda: "".join(rng.choice(" \n\t a") for _ in range(rng.randrange(4)))
    sign = lambda: rng.choice(["", "", "-", "+"])
    parts = []
    for _ in range(4):
        tag = rng.choice(["if n", "set q = 1", "raw", "comment", "value", "for x in l"])
        inside = space()
        if tag == "comment":
            parts.append("{#%s c %s#}" % (sign(), sign()))
        elif tag == "value":
            parts.append("{{%s n %s}}" % (rng.choice(["", "-"]), rng.choice(["", "-"])))
        elif tag == "set q = 1":
            parts.append("{%%%s %s %s%%}" % (sign(), tag, sign()))
        else:
            end = {"i": "endif", "r": "endraw", "f": "endfor"}[tag[0]]
            last = rng.choice(["", "-"]) if tag == "raw" else sign()
            parts.append("{%%%s %s %s%%}%s{%%%s %s %s%%}" % (sign(), tag, last, inside, sign(), end, sign()))
        parts.append(space())
    return space() + "".join(parts)


def check_random(program, count, seed):
    rng = random.Random(seed)
    env = environment()
    right = failed = refused = count_of = 0
    for i in range(count):
        template = random_spaces(rng) if i % 4 == 0 else "{{ %s }}" % random_expression(rng, rng.choice((1, 2, 3)))
        theirs = rendered(env, template, jinja_cases.CONTEXT)
        # Texts of Python's own objects: views of dictionaries, generators, methods.
        if any(word in theirs.get("text", "") for word in ("dict_items(", "<generator", "<built-in", "dict_keys(", "<bound")):
            continue
        mine = ours(program, template, jinja_cases.CONTEXT)
        # A slice of a number is an error, but Jinja2 folds that of a constant to undefined.
        if "has no slices" in mine.get("error", "") and "text" in theirs:
            continue
        # Refused by name, as docs/formats/chat_template.md lists: formatting with '%'. A few at most, or nothing would be compared.
        if "unsupported: formatting text with '%'" in mine.get("error", ""):
            refused += 1
            continue
        right += agree("random %d" % i, template, mine, theirs)
        count_of += 1
        failed += "error" in theirs
    print("random: %d of %d agree, %d are errors; %d refused for formatting with '%%'" % (right, count_of, failed, refused))
    return right == count_of and refused * 20 <= count


def check_transformers(program):
    try:
        import tokenizers
        import transformers
    except ImportError:
        print("transformers is not installed: its part is left out")
        return True
    template = json.loads(CONFIG.read_text(encoding="utf-8"))["chat_template"]
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs_of = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    right = True
    count = 0
    for name, text in [("DeepSeek-V3", template)] + [("kind %d" % i, k) for i, k in enumerate(jinja_cases.KINDS) if "strftime_now" not in k]:
        for conversation in jinja_cases.CONVERSATIONS[:-1]:  # the last has no message, which transformers refuses
            variables = dict(conversation)
            messages, tools = variables.pop("messages"), variables.pop("tools")
            try:
                theirs = {"text": theirs_of.apply_chat_template(messages, tools=tools, chat_template=text, tokenize=False, **variables)}
            except Exception as error:
                theirs = {"error": str(error)}
            mine = ours(program, text, dict(conversation, bos_token="<s>", eos_token="</s>"))
            right &= agree(name, json.dumps(conversation)[:200], mine, theirs)
            count += 1
    print("transformers %s: %d conversations, %s" % (transformers.__version__, count, "the same" if right else "DIFFERENCES"))
    return right


def check_folder(program, folder):
    env = environment()
    right = count = 0
    for path in sorted(folder.glob("*.jinja")):
        for conversation in jinja_cases.CONVERSATIONS:
            variables = dict(conversation, bos_token="<s>", eos_token="</s>", date_string="26 Dec 2024")
            template = path.read_text(encoding="utf-8")
            if "strftime_now" in template:
                template = template.replace("strftime_now", "undefined_here")
            theirs = rendered(env, template, variables)
            right += agree("%s" % path.name, json.dumps(conversation)[:100], ours(program, template, variables), theirs)
            count += 1
    print("%s: %d of %d agree" % (folder, right, count))
    return right == count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=str(ROOT / "build/release/rorqual"))
    parser.add_argument("--random", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--templates", type=pathlib.Path, help="folder of *.jinja files")
    parser.add_argument("--write", action="store_true", help="make the golden file anew")
    args = parser.parse_args()
    made = json.loads(json.dumps(golden()))
    if args.write:
        GOLDEN.write_text(json.dumps(made, ensure_ascii=True, indent=0) + "\n")
        print("%s: %d cases, %d of them errors" % (GOLDEN, len(made["cases"]), sum("error" in c for c in made["cases"])))
        return 0
    stored = json.loads(GOLDEN.read_text())
    right = True
    for old, new in zip(stored["cases"], made["cases"]):
        if old.get("text") != new.get("text") or old["template"] != new["template"]:
            print("golden differs: %r\n  stored %r\n  Jinja2 %r" % (old["template"], old.get("text"), new.get("text")))
            right = False
    right &= len(stored["cases"]) == len(made["cases"])
    print("golden: %d cases, Jinja2 %s, %s" % (len(made["cases"]), jinja2.__version__, "the same" if right else "DIFFERENCES"))
    right &= check_random(args.program, args.random, args.seed)
    right &= check_transformers(args.program)
    if args.templates:
        right &= check_folder(args.program, args.templates)
    print("all the same" if right else "DIFFERENCES")
    return 0 if right else 1


sys.exit(main())
