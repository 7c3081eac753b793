"""The anthropic package of Python against a server."""

import anthropic
from common import KEY, MODEL, NARROW, PLAIN, TOOLS, metric, raises, wait_until

client = anthropic.Anthropic(base_url=PLAIN, api_key=KEY, max_retries=0)
with_tools = anthropic.Anthropic(base_url=TOOLS, api_key=KEY, max_retries=0)
ASK = [{"role": "user", "content": "What is ownership in Rust?"}]
GREEDY = dict(model=MODEL, messages=ASK, max_tokens=24, system="Docs.", extra_body={"temperature": 0})
WEATHER = {
    "name": "get_weather",
    "description": "The weather of a place.",
    "input_schema": {
        "type": "object",
        "properties": {"unit": {"enum": ["c", "f"]}, "days": {"type": "boolean"}},
        "required": ["unit", "days"],
        "additionalProperties": False,
    },
}


def message():
    reply = client.messages.create(**GREEDY)
    assert reply.role == "assistant" and reply.type == "message" and reply.model == MODEL
    assert [block.type for block in reply.content] == ["text"]
    assert reply.stop_reason == "max_tokens" and reply.stop_sequence is None
    assert reply.usage.output_tokens == 24
    counted = client.messages.count_tokens(model=MODEL, messages=ASK, system="Docs.")
    read = reply.usage.input_tokens + reply.usage.cache_read_input_tokens
    assert counted.input_tokens == read > 0
    return reply.content[0].text


def stream(text):
    with client.messages.stream(**GREEDY) as events:
        pieces = list(events.text_stream)
        final = events.get_final_message()
    assert "".join(pieces) == text and len(pieces) > 5
    assert final.content[0].text == text and final.stop_reason == "max_tokens"
    assert final.usage.output_tokens == 24
    kinds = [event.type for event in client.messages.create(stream=True, **GREEDY)]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"], kinds
    assert kinds.index("content_block_start") < kinds.index("content_block_delta") < kinds.index("content_block_stop")


def stops(text):
    word = text.split()[3]
    reply = client.messages.create(stop_sequences=["never said", word], **GREEDY)
    assert reply.stop_reason == "stop_sequence" and reply.stop_sequence == word, reply
    assert reply.content[0].text == text[: text.index(word)]


def beginnings(text):
    """An assistant's last message is gone on with."""
    half = text[:20]
    messages = ASK + [{"role": "assistant", "content": half}]
    reply = client.messages.create(**{**GREEDY, "messages": messages})
    assert reply.content[0].text and not reply.content[0].text.startswith(half)


def headers_that_change():
    """A block that is another with each call leaves the rest of the prompt known."""
    rules = "You document crates and modules of the standard library. " * 12

    def ask(number):
        header = f"x-anthropic-billing-header: cc_version=2.1.{number}; cc_entrypoint=cli; cch={number:05x};"
        system = [
            {"type": "text", "text": header},
            {"type": "text", "text": rules, "cache_control": {"type": "ephemeral"}},
        ]
        return client.messages.create(model=MODEL, messages=ASK, system=system, max_tokens=2).usage

    first, second = ask(1), ask(77)
    whole = second.input_tokens + second.cache_read_input_tokens
    assert first.input_tokens + first.cache_read_input_tokens == whole
    assert second.cache_read_input_tokens > whole - 64, second
    assert second.cache_creation_input_tokens == 0


def errors():
    def ask(to=client, **more):
        return lambda: to.messages.create(**{**GREEDY, "max_tokens": 4, **more})

    def kind(error):
        return error.body["error"]["type"]

    unknown = raises(anthropic.BadRequestError, ask(extra_body={"no_such_thing": 1}))
    assert unknown.body["type"] == "error" and kind(unknown) == "invalid_request_error", unknown.body
    assert "no_such_thing" in str(unknown)
    assert "temperature" in str(raises(anthropic.BadRequestError, ask(extra_body={"temperature": 1.5})))
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    image = raises(anthropic.BadRequestError, ask(messages=[{"role": "user", "content": [picture]}]))
    assert "messages[0].content[0]" in str(image) and "image" in str(image)
    version = raises(anthropic.BadRequestError, ask(extra_headers={"anthropic-version": "1999-01-01"}))
    assert "anthropic-version" in str(version)
    long = [{"role": "user", "content": "word " * 3000}]
    raises(anthropic.BadRequestError, ask(messages=long, stream=True))
    assert kind(raises(anthropic.NotFoundError, ask(model="other"))) == "not_found_error"
    wrong = raises(anthropic.AuthenticationError, ask(to=client.with_options(api_key="wrong")))
    assert kind(wrong) == "authentication_error"
    narrow = anthropic.Anthropic(base_url=NARROW, api_key="any", max_retries=0)
    # Several, since the model may end one soon.
    for _ in range(5):
        held = narrow.messages.create(**{**GREEDY, "max_tokens": 900, "stream": True, "extra_body": {}})
        next(iter(held))
        try:
            busy = raises(anthropic.RateLimitError, ask(to=narrow))
        except AssertionError:
            continue
        assert kind(busy) == "rate_limit_error"
        held.close()
        break
    else:
        raise AssertionError("it was never busy")
    wait_until(lambda: metric(NARROW, "gannet:num_requests_running") == 0)
    wait_until(lambda: metric(NARROW, "gannet:kv_cache_usage_perc") == 0)


def schema():
    wanted = {
        "type": "object",
        "properties": {"public": {"type": "boolean"}},
        "required": ["public"],
        "additionalProperties": False,
    }
    form = {"format": {"type": "json_schema", "schema": wanted}}
    reply = client.messages.create(**{**GREEDY, "max_tokens": 100, "output_config": form})
    assert reply.content[0].text.replace(" ", "").replace("\n", "") in ('{"public":true}', '{"public":false}'), reply


def tools():
    ask = {**GREEDY, "tools": [WEATHER], "max_tokens": 300, "extra_body": {}}
    one = {"type": "any", "disable_parallel_tool_use": True}
    reply = with_tools.messages.create(tool_choice=one, **ask)
    assert reply.stop_reason == "tool_use", reply
    call = reply.content[-1]
    assert call.type == "tool_use" and call.name == "get_weather" and call.id
    assert call.input["unit"] in ("c", "f") and call.input["days"] in (True, False)
    named = {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True}
    with with_tools.messages.stream(tool_choice=named, **ask) as events:
        final = events.get_final_message()
    assert final.stop_reason == "tool_use" and final.content[-1].input["unit"] in ("c", "f"), final
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "Rain."}]}
    history = ASK + [
        {"role": "assistant", "content": reply.content},
        {"role": "user", "content": [result, {"type": "text", "text": "And then?"}]},
    ]
    after = with_tools.messages.create(**{**ask, "messages": history, "max_tokens": 4, "tool_choice": {"type": "none"}})
    assert after.content and after.stop_reason in ("max_tokens", "end_turn")


greedy = message()
stream(greedy)
stops(greedy)
beginnings(greedy)
headers_that_change()
errors()
schema()
tools()
