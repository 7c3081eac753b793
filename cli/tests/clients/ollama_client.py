"""The ollama package of Python against a server."""

import json

import httpx
import ollama
from common import KEY, MODEL, NARROW, PLAIN, POOLED, TOOLS, metric, raises, wait_until

HEADERS = {"Authorization": f"Bearer {KEY}"}
client = ollama.Client(host=PLAIN, headers=HEADERS)
with_tools = ollama.Client(host=TOOLS, headers=HEADERS)
ASK = [{"role": "user", "content": "What is ownership in Rust?"}]
GREEDY = {"temperature": 0, "num_predict": 24, "repeat_penalty": 1.0}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {"unit": {"type": "string", "enum": ["c", "f"]}},
            "required": ["unit"],
        },
    },
}


def models():
    (listed,) = client.list().models
    assert listed.model == MODEL + ":latest" and listed.details.family == "llama", listed
    assert listed.details.quantization_level == "Q4_K" and listed.size > 7_000_000
    shown = client.show(MODEL)
    assert shown.modelinfo["general.architecture"] == "llama" and "completion" in shown.capabilities
    client.generate(model=MODEL, prompt="x", options={"num_predict": 1})
    (running,) = client.ps().models
    assert running.context_length == 1024 and running.size_vram == 0
    assert httpx.get(PLAIN + "/api/version", headers=HEADERS).json()["version"]


def generate():
    reply = client.generate(model=MODEL, prompt="Ownership is", raw=True, options=GREEDY)
    assert reply.response and reply.done and reply.done_reason == "length"
    assert reply.eval_count == 24 and reply.prompt_eval_count > 0
    assert reply.total_duration >= reply.eval_duration > 0 and reply.prompt_eval_duration > 0
    lines = list(client.generate(model=MODEL, prompt="Ownership is", raw=True, options=GREEDY, stream=True))
    assert "".join(line.response for line in lines) == reply.response and len(lines) > 5
    assert [line.done for line in lines] == [False] * (len(lines) - 1) + [True]
    told = client.generate(model=MODEL, prompt="Go on.", system="Docs.", options=GREEDY)
    assert told.response and told.done_reason == "length"
    loaded = client.generate(model=MODEL)
    assert loaded.done_reason == "load" and loaded.response == ""
    assert client.generate(model=MODEL, keep_alive=0).done_reason == "unload"
    assert client.generate(model=MODEL, prompt="x", keep_alive="5m", options={"num_predict": 1}).done


def chat():
    reply = client.chat(model=MODEL, messages=ASK, options=GREEDY)
    assert reply.message.role == "assistant" and reply.message.content
    lines = list(client.chat(model=MODEL + ":latest", messages=ASK, options=GREEDY, stream=True))
    assert "".join(line.message.content for line in lines) == reply.message.content
    assert lines[-1].done_reason == "length" and lines[-1].eval_count == 24
    word = reply.message.content.split()[3]
    stopped = client.chat(model=MODEL, messages=ASK, options={**GREEDY, "stop": [word]})
    assert stopped.message.content == reply.message.content[: reply.message.content.index(word)]
    assert stopped.done_reason == "stop"

    def seeded(seed):
        return client.chat(model=MODEL, messages=ASK, options={"seed": seed, "num_predict": 12}).message.content

    assert seeded(3) == seeded(3) and seeded(3) != seeded(4)


def log_probs():
    reply = client.chat(model=MODEL, messages=ASK, options=GREEDY, logprobs=True, top_logprobs=2)
    assert len(reply.logprobs) == 24 and all(len(token.top_logprobs) == 2 for token in reply.logprobs)
    lines = client.chat(model=MODEL, messages=ASK, options=GREEDY, logprobs=True, stream=True)
    assert sum(len(line.logprobs or []) for line in lines) == 24


def errors():
    def ask(to=client, model=MODEL, **options):
        return lambda: to.chat(model=model, messages=ASK, options={"num_predict": 4, **options})

    wrong = raises(ollama.ResponseError, ask(temperature=-1))
    assert wrong.status_code == 400 and "options.temperature" in wrong.error
    assert "options.num_gpu" in raises(ollama.ResponseError, ask(num_gpu=1)).error
    assert "options.num_ctx" in raises(ollama.ResponseError, ask(num_ctx=4096)).error
    assert raises(ollama.ResponseError, ask(model="other")).status_code == 404
    assert raises(ollama.ResponseError, lambda: client.show("other")).status_code == 404
    assert raises(ollama.ResponseError, ask(to=ollama.Client(host=PLAIN))).status_code == 401
    picture = [{"role": "user", "content": "x", "images": [b"GIF89a"]}]
    assert "images" in raises(ollama.ResponseError, lambda: client.chat(model=MODEL, messages=picture)).error
    long = [{"role": "user", "content": "word " * 3000}]
    too_long = raises(ollama.ResponseError, lambda: client.chat(model=MODEL, messages=long))
    assert too_long.status_code == 400 and "1024" in too_long.error
    narrow = ollama.Client(host=NARROW)
    for seed in range(5):
        held = narrow.chat(model=MODEL, messages=ASK, stream=True, options={"num_predict": 900, "seed": seed})
        next(held)
        try:
            busy = raises(ollama.ResponseError, ask(to=narrow))
        except AssertionError:
            continue
        assert busy.status_code == 429
        held.close()
        break
    else:
        raise AssertionError("it was never busy")
    wait_until(lambda: metric(NARROW, "gannet:num_requests_running") == 0)


def embed():
    pooled = ollama.Client(host=POOLED, headers=HEADERS)
    found = pooled.embed(model="pooled", input=["A crate.", "Ownership."])
    assert [len(vector) for vector in found.embeddings] == [256, 256] and found.prompt_eval_count > 0
    assert "embedding" in pooled.show("pooled").capabilities
    older = pooled.embeddings(model="pooled", prompt="Ownership.").embedding
    length = sum(value * value for value in older) ** 0.5
    assert max(abs(a / length - b) for a, b in zip(older, found.embeddings[1], strict=True)) < 1e-5, older
    assert list(pooled.embeddings(model="pooled", prompt="").embedding) == []
    assert raises(ollama.ResponseError, lambda: pooled.embeddings(model="pooled", prompt="word " * 3000)).status_code == 400
    cut = pooled.embed(model="pooled", input="word " * 3000, truncate=True)
    assert cut.prompt_eval_count == 1024
    long = raises(ollama.ResponseError, lambda: pooled.embed(model="pooled", input="word " * 3000, truncate=False))
    assert long.status_code == 400
    assert raises(ollama.ResponseError, lambda: client.embed(model=MODEL, input="x")).status_code == 400


def schema():
    wanted = {"type": "object", "properties": {"public": {"type": "boolean"}}, "required": ["public"],
              "additionalProperties": False}
    reply = client.chat(model=MODEL, messages=ASK, format=wanted, options={"num_predict": 100})
    assert isinstance(json.loads(reply.message.content)["public"], bool), reply
    raw = client.generate(model=MODEL, prompt="Ownership is", raw=True, format=wanted, options={"num_predict": 100})
    assert isinstance(json.loads(raw.response)["public"], bool), raw


def tools():
    history = ASK + [
        {"role": "assistant", "tool_calls": [{"function": {"name": "get_weather", "arguments": {"unit": "c"}}}]},
        {"role": "tool", "tool_name": "get_weather", "content": "Rain."},
    ]
    reply = with_tools.chat(model=MODEL, messages=history, tools=[WEATHER], options={"num_predict": 4})
    alone = with_tools.chat(model=MODEL, messages=ASK, options={"num_predict": 4})
    assert reply.prompt_eval_count > alone.prompt_eval_count + 20


models()
generate()
chat()
log_probs()
errors()
embed()
schema()
tools()
