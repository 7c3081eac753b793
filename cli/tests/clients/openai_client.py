"""The openai package of Python against a server."""

import json

import openai
from common import KEY, MODEL, NARROW, PLAIN, POOLED, TOOLS, metric, raises, wait_until

client = openai.OpenAI(base_url=PLAIN + "/v1", api_key=KEY, max_retries=0)
with_tools = openai.OpenAI(base_url=TOOLS + "/v1", api_key=KEY, max_retries=0)
ASK = [{"role": "system", "content": "Docs."}, {"role": "user", "content": "What is ownership in Rust?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {"unit": {"enum": ["c", "f"]}, "days": {"type": "boolean"}},
            "required": ["unit", "days"],
            "additionalProperties": False,
        },
    },
}


def models():
    listed = client.models.list()
    assert [m.id for m in listed.data] == [MODEL], listed
    assert client.models.retrieve(MODEL).id == MODEL


def chat():
    reply = client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=24, temperature=0)
    choice = reply.choices[0]
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason == "length" and choice.message.tool_calls is None
    usage = reply.usage
    assert usage.completion_tokens == 24 and usage.prompt_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    again = client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=24, temperature=0)
    assert again.choices[0].message.content == choice.message.content
    return choice.message.content


def stream(text):
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=ASK, max_tokens=24, temperature=0, stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    assert len([c for c in chunks if c.choices and c.choices[0].delta.content]) > 5, "it came at once"
    ends = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    assert ends == ["length"], ends
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 24
    assert len({c.id for c in chunks}) == 1


def seeds_and_choices():
    def texts(**more):
        reply = client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=12, temperature=1, **more)
        return [choice.message.content for choice in reply.choices]

    assert texts(seed=7) == texts(seed=7)
    assert texts(seed=7) != texts(seed=8)
    three = texts(seed=7, n=3)
    assert len(three) == 3 and len(set(three)) == 3
    assert three[0] == texts(seed=7)[0]
    reply = client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=3, n=2)
    assert reply.usage.completion_tokens == 6
    seen = {0: "", 1: ""}
    for chunk in client.chat.completions.create(
        model=MODEL, messages=ASK, max_tokens=12, temperature=1, seed=7, n=2, stream=True
    ):
        seen[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert [seen[0], seen[1]] == three[:2]


def stops(text):
    word = text.split()[3]
    reply = client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=24, temperature=0, stop=[word])
    assert reply.choices[0].finish_reason == "stop"
    assert reply.choices[0].message.content == text[: text.index(word)]


def log_probs():
    reply = client.chat.completions.create(
        model=MODEL, messages=ASK, max_tokens=5, temperature=0, logprobs=True, top_logprobs=3
    )
    content = reply.choices[0].logprobs.content
    assert len(content) == 5
    for token in content:
        assert len(token.top_logprobs) == 3
        assert token.logprob <= 0 and token.top_logprobs[0].logprob == token.logprob
    said = b"".join(bytes(token.bytes) for token in content).decode()
    assert said == reply.choices[0].message.content
    legacy = client.completions.create(model=MODEL, prompt="Ownership is", max_tokens=4, temperature=0, logprobs=2)
    assert len(legacy.choices[0].logprobs.tokens) == 4
    assert all(len(top) == 2 for top in legacy.choices[0].logprobs.top_logprobs)


def completions():
    reply = client.completions.create(model=MODEL, prompt=["Ownership is", "A crate is"], max_tokens=8, temperature=0)
    assert [choice.index for choice in reply.choices] == [0, 1]
    text = reply.choices[0].text
    chunks = client.completions.create(model=MODEL, prompt="Ownership is", max_tokens=8, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == text
    tokens = client.completions.create(model=MODEL, prompt=[1, 2, 3], max_tokens=2)
    assert tokens.usage.prompt_tokens == 3


def errors():
    def ask(to=client, model=MODEL, **more):
        return lambda: to.chat.completions.create(model=model, messages=ASK, max_tokens=4, **more)

    unknown = raises(openai.BadRequestError, ask(extra_body={"no_such_thing": 1}))
    assert unknown.param == "no_such_thing" and unknown.type == "invalid_request_error", unknown
    wrong = raises(openai.BadRequestError, ask(temperature=3))
    assert wrong.param == "temperature", wrong
    role = raises(
        openai.BadRequestError,
        lambda: client.chat.completions.create(model=MODEL, messages=[{"role": "wizard", "content": "x"}]),
    )
    assert role.param.startswith("messages"), role
    long = raises(
        openai.BadRequestError,
        lambda: client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "word " * 3000}], stream=True
        ),
    )
    assert long.code == "context_length_exceeded" and "1024" in str(long), long
    assert raises(openai.NotFoundError, ask(model="other")).code == "model_not_found"
    raises(openai.AuthenticationError, ask(to=client.with_options(api_key="wrong")))
    narrow = openai.OpenAI(base_url=NARROW + "/v1", api_key="any", max_retries=0)
    held = narrow.chat.completions.create(
        model=MODEL, messages=ASK, stream=True, max_tokens=900, extra_body={"ignore_eos": True}
    )
    next(iter(held))
    busy = raises(openai.RateLimitError, ask(to=narrow))
    assert busy.response.headers["retry-after"] == "1"
    held.close()
    # Whoever goes away gives back what was held.
    wait_until(lambda: metric(NARROW, "gannet:num_requests_running") == 0)
    wait_until(lambda: metric(NARROW, "gannet:kv_cache_usage_perc") == 0)
    # A slot is free again, with retries as the client makes them.
    assert ask(to=narrow.with_options(max_retries=3))().choices


def schema():
    wanted = {
        "type": "object",
        "properties": {"kind": {"enum": ["crate", "module"]}, "public": {"type": "boolean"}},
        "required": ["kind", "public"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "item", "schema": wanted, "strict": True}}
    for seed in range(3):
        reply = client.chat.completions.create(
            model=MODEL, messages=ASK, response_format=form, seed=seed, temperature=1, max_tokens=200
        )
        assert reply.choices[0].finish_reason == "stop", reply
        value = json.loads(reply.choices[0].message.content)
        assert value["kind"] in ("crate", "module") and value["public"] in (True, False), value
    bad = raises(
        openai.BadRequestError,
        lambda: client.chat.completions.create(
            model=MODEL, messages=ASK, response_format={"type": "json_schema", "json_schema": {"name": "x"}}
        ),
    )
    assert bad.param == "response_format.json_schema.schema", bad


def responses():
    ask = dict(model=MODEL, input="What is ownership in Rust?", instructions="Docs.", temperature=0)
    reply = client.responses.create(max_output_tokens=24, **ask)
    assert reply.status == "incomplete" and reply.incomplete_details.reason == "max_output_tokens"
    assert reply.output_text and reply.output[0].type == "message" and reply.output[0].role == "assistant"
    assert reply.usage.output_tokens == 24 and reply.usage.input_tokens > 0
    assert reply.usage.input_tokens_details.cached_tokens >= 0
    events = list(client.responses.create(max_output_tokens=24, stream=True, **ask))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created" and events[-1].type == "response.incomplete"
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert "".join(event.delta for event in deltas) == reply.output_text and len(deltas) > 5
    final = events[-1].response
    assert {event.item_id for event in deltas} == {final.output[0].id}
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert done == final.output
    told = client.responses.create(
        max_output_tokens=4, include=["message.output_text.logprobs"], top_logprobs=2, **ask
    )
    assert sum(len(part.logprobs) for part in told.output[0].content) == 4
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Look."}]},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "A crate."},
    ]
    offered = [
        {"type": "web_search"},
        {"type": "custom", "name": "apply_patch"},
        {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}, "strict": False},
    ]
    after = with_tools.responses.create(model=MODEL, input=items, tools=offered, max_output_tokens=4)
    assert [tool.name for tool in after.tools] == ["look"]
    stored = raises(openai.BadRequestError, lambda: client.responses.create(previous_response_id="resp_1", **ask))
    assert stored.param == "previous_response_id", stored
    picture = [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]}]
    image = raises(openai.BadRequestError, lambda: client.responses.create(model=MODEL, input=picture))
    assert image.param == "input[0].content[0]", image
    form = {"type": "json_schema", "name": "item", "strict": True, "schema": {
        "type": "object", "properties": {"public": {"type": "boolean"}}, "required": ["public"],
        "additionalProperties": False}}
    matched = client.responses.create(max_output_tokens=100, text={"format": form}, **ask)
    assert matched.status == "completed" and isinstance(json.loads(matched.output_text)["public"], bool)


def embeddings():
    pooled = openai.OpenAI(base_url=POOLED + "/v1", api_key=KEY, max_retries=0)
    texts = ["Ownership moves.", "A crate is a package.", "Ownership moves."]
    # The client asks for base64 and reads it.
    found = pooled.embeddings.create(model="pooled", input=texts)
    vectors = [entry.embedding for entry in found.data]
    assert [len(vector) for vector in vectors] == [256] * 3 and [entry.index for entry in found.data] == [0, 1, 2]
    assert vectors[0] == vectors[2] != vectors[1]
    assert all(abs(sum(value * value for value in vector) - 1) < 1e-5 for vector in vectors)
    assert found.usage.prompt_tokens == found.usage.total_tokens > 0
    plain = pooled.embeddings.create(model="pooled", input=texts[1], encoding_format="float")
    assert max(abs(a - b) for a, b in zip(plain.data[0].embedding, vectors[1])) < 1e-6
    none = raises(openai.BadRequestError, lambda: client.embeddings.create(model=MODEL, input="x"))
    assert "llama.pooling_type" in str(none) and none.code == "no_embeddings", none
    cut = raises(openai.BadRequestError, lambda: pooled.embeddings.create(model="pooled", input="x", dimensions=8))
    assert cut.param == "dimensions", cut
    long = raises(openai.BadRequestError, lambda: pooled.embeddings.create(model="pooled", input=["x", "word " * 3000]))
    assert long.code == "context_length_exceeded" and long.param == "input[1]", long


def check_call(call):
    assert call.function.name == "get_weather" and call.id
    value = json.loads(call.function.arguments)
    assert value["unit"] in ("c", "f") and value["days"] in (True, False), value


def tools():
    ask = dict(model=MODEL, messages=ASK, tools=[WEATHER], max_tokens=300, temperature=1, seed=3)
    reply = with_tools.chat.completions.create(tool_choice="required", parallel_tool_calls=False, **ask)
    assert reply.choices[0].finish_reason == "tool_calls", reply
    (call,) = reply.choices[0].message.tool_calls
    check_call(call)
    with with_tools.chat.completions.stream(
        tool_choice={"type": "function", "function": {"name": "get_weather"}}, parallel_tool_calls=False, **ask
    ) as events:
        for _ in events:
            pass
        (streamed,) = events.get_final_completion().choices[0].message.tool_calls
    check_call(streamed)
    history = ASK + [
        reply.choices[0].message.to_dict(),
        {"role": "tool", "tool_call_id": call.id, "content": "Rain."},
    ]
    after = with_tools.chat.completions.create(model=MODEL, messages=history, tools=[WEATHER], max_tokens=4)
    assert after.usage.prompt_tokens > reply.usage.prompt_tokens


models()
greedy = chat()
stream(greedy)
seeds_and_choices()
stops(greedy)
log_probs()
completions()
errors()
schema()
responses()
embeddings()
tools()
