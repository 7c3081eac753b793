"""Renders chat templates as Python's jinja2 does, with what `transformers` gives it.

Reads one JSON object a line (template's source, messages, tools, variables) and prints what it gives.
"""
import json
import os
import sys
import time
from datetime import datetime

os.environ["TZ"] = "UTC"
time.tzset()

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = 1_700_000_000


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


env = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
)
env.filters["tojson"] = tojson
env.globals["raise_exception"] = raise_exception
env.globals["strftime_now"] = lambda form: datetime.fromtimestamp(NOW).strftime(form)


def call(value, forms):
    function = dict(value["function"])
    if "text_arguments" in forms:
        function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
    found = {"type": "function", "function": function}
    return {"id": value["id"], **found} if "id" in value else found


def message(value, forms):
    content = value.get("content")
    if content is not None and "typed_content" in forms:
        content = [{"type": "text", "text": content}]
    if content is None and "empty_content" in forms:
        content = ""
    found = {"role": value["role"], "content": content}
    if "name" in value:
        found["name"] = value["name"]
    if "reasoning_content" in value:
        field = "thinking" if "thinking" in forms else "reasoning_content"
        found[field] = value["reasoning_content"]
    if "tool_calls" in value:
        found["tool_calls"] = [call(c, forms) for c in value["tool_calls"]]
    if "tool_call_id" in value:
        found["tool_call_id"] = value["tool_call_id"]
    return found


def render(case):
    forms = case.get("forms", [])
    try:
        text = env.from_string(case["source"]).render(
            bos_token=case["bos"],
            eos_token=case["eos"],
            messages=[message(m, forms) for m in case["messages"]],
            tools=case.get("tools"),
            documents=None,
            add_generation_prompt=case.get("generation", True),
            **case.get("variables", {}),
        )
        return {"text": text}
    except jinja2.exceptions.TemplateError as error:
        if type(error) is jinja2.exceptions.TemplateError:
            return {"refused": error.message}
        return {"error": True}
    except Exception:
        return {"error": True}


for line in sys.stdin:
    print(json.dumps(render(json.loads(line))), flush=True)
