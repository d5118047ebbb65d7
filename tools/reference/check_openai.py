"""The official openai client against `rorqual serve`: models, chat, completions, streams, tools, errors.

Trains a run of a few steps (tests/mini.toml) and serves it twice, once with a chat template. Exits 1 at the first difference.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile

import openai

PROGRAM = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "build/release/rorqual")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% for t in tools or [] %}may call {{ t.function.name }}\n{% endfor %}{% if add_generation_prompt %}answer: {% endif %}")
KEY = "a-key-of-the-test"


def expect(condition, what):
    if not condition:
        raise AssertionError(what)


def refused(kind, call, param=None):
    try:
        call()
    except kind as error:
        if param is not None:
            expect(error.param == param, f"error names {error.param}, not {param}")
        return
    raise AssertionError(f"{kind.__name__} expected")


def check_chat(client):
    request = dict(model="talker", messages=[{"role": "user", "content": "the page"}], temperature=0, max_tokens=8)
    whole = client.chat.completions.create(**request, logprobs=True, top_logprobs=2)
    choice = whole.choices[0]
    expect(choice.message.role == "assistant" and choice.finish_reason in ("stop", "length"), choice)
    expect(len(choice.logprobs.content) == whole.usage.completion_tokens, "a logprob for each token")
    expect(all(len(t.top_logprobs) == 2 for t in choice.logprobs.content), "two alternatives each")
    text, usage = "", None
    for chunk in client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for c in chunk.choices:
            text += c.delta.content or ""
    expect(text == choice.message.content, f"streamed {text!r}, whole {choice.message.content!r}")
    expect(usage.completion_tokens == whole.usage.completion_tokens, "usage of the stream")
    two = client.chat.completions.create(**{**request, "temperature": 1}, n=2, seed=3)
    again = client.chat.completions.create(**{**request, "temperature": 1}, n=2, seed=3)
    expect([c.message.content for c in two.choices] == [c.message.content for c in again.choices], "one seed, one result")
    # A conversation goes on with the client's own objects.
    client.chat.completions.create(**{**request, "messages": request["messages"] + [
        choice.message, {"role": "user", "content": "and then"}]})
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
    called = client.chat.completions.create(**request, tools=[tool])
    expect(called.usage.prompt_tokens > whole.usage.prompt_tokens, "the template names the tool")


def check_completions(client):
    request = dict(model="run", prompt="the page ", temperature=0, max_tokens=8)
    whole = client.completions.create(**request)
    streamed = "".join(c.choices[0].text for c in client.completions.create(**request, stream=True))
    expect(streamed == whole.choices[0].text, "a stream is the same text")
    echoed = client.completions.create(**request, echo=True, logprobs=1).choices[0]
    expect(echoed.text == "the page " + whole.choices[0].text, "echo")
    joined = "".join(echoed.logprobs.tokens)  # "bytes:\\x.." where a token is no text by itself
    expect("bytes:" in joined or joined == echoed.text, "tokens make up the text")
    expect(len(client.completions.create(**{**request, "prompt": ["a", "b"]}, n=2).choices) == 4, "n times prompts")


def check_errors(client, url):
    base = dict(model="run", prompt="a", max_tokens=1)
    refused(openai.BadRequestError, lambda: client.completions.create(**base, best_of=2), "best_of")
    refused(openai.BadRequestError, lambda: client.completions.create(**{**base, "temperature": -1}), "temperature")
    refused(openai.BadRequestError, lambda: client.completions.create(**base, extra_body={"surprise": 1}), "surprise")
    refused(openai.BadRequestError, lambda: client.chat.completions.create(
        model="run", messages=[{"role": "user", "content": "x"}]), "messages")
    refused(openai.NotFoundError, lambda: client.completions.create(**{**base, "model": "nobody"}))
    stranger = openai.OpenAI(base_url=url + "v1", api_key="wrong", max_retries=0)
    refused(openai.AuthenticationError, stranger.models.list)


def check(folder):
    run, talker = os.path.join(folder, "run"), os.path.join(folder, "talker")
    text = os.path.join(folder, "text")
    os.mkdir(text)
    for document in range(60):
        with open(os.path.join(text, f"{document}.txt"), "w", encoding="utf-8") as file:
            for i in range(10):
                file.write(f"the page of memory {(document + i) % 7} is locked by the scheduler, and then freed.\n")
    subprocess.run([PROGRAM, "train", "tests/mini.toml", "--out", run, "--data", text, "--set",
                    "model.max_position_embeddings=1024"], check=True, stderr=subprocess.DEVNULL)
    shutil.copytree(run, talker)
    with open(os.path.join(talker, "tokenizer", "chat_template.jinja"), "w", encoding="utf-8") as file:
        file.write(TEMPLATE)
    keys = os.path.join(folder, "keys")
    with open(keys, "w", encoding="utf-8") as file:
        file.write(KEY + "\n")
    server = subprocess.Popen([PROGRAM, "serve", run, talker, "--port", "0", "--api-key-file", keys],
                              stdout=subprocess.PIPE, text=True, env=os.environ | {"RORQUAL_MODELS": folder})
    try:
        url = server.stdout.readline().strip()
        client = openai.OpenAI(base_url=url + "v1", api_key=KEY, max_retries=0)
        expect({m.id for m in client.models.list()} == {"run", "talker"}, "models")
        expect(client.models.retrieve("run").id == "run", "one model")
        check_chat(client)
        check_completions(client)
        check_errors(client, url)
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(timeout=60)
    expect(code == 0, f"the server ended with {code}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        check(folder)
    print(f"openai {openai.__version__}: models, chat, completions, streams, tools and errors agree")
    return 0


if __name__ == "__main__":
    sys.exit(main())
