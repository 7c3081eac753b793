// Asking the server: models, and replies as they come.
//
// A reply is `POST /v1/chat/completions` with `stream`; its events are read as
// https://html.spec.whatwg.org/multipage/server-sent-events.html says, as far as the server uses it.

// What went wrong, in one line.
export class Trouble extends Error {
  constructor(message, { status = 0, code = null } = {}) {
    super(message.replace(/\s+/g, " ").trim());
    this.status = status;
    this.code = code;
  }

  get isStop() {
    return this.code === "stopped";
  }
}

const LOST = "the connection ended before the reply did; answer again";

function headers(key) {
  return key ? { authorization: `Bearer ${key}` } : {};
}

async function ask(path, key, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...headers(key), ...options.headers } });
  } catch (error) {
    throw ofFailure(error, options.signal, "the server cannot be reached; is it running?");
  }
  if (!response.ok) {
    throw await refusal(response);
  }
  return response;
}

function ofFailure(error, signal, otherwise) {
  if (error instanceof Trouble) {
    return error;
  }
  return signal?.aborted ? new Trouble("stopped", { code: "stopped" }) : new Trouble(otherwise);
}

// The error that a server's answer is.
async function refusal(response) {
  const { status } = response;
  let error = null;
  try {
    error = (await response.json()).error;
  } catch {
    // Not of this server: something in between answered.
  }
  const message = error?.message ?? `the server answered ${status} ${response.statusText}`;
  return new Trouble(message, { status, code: error?.code ?? null });
}

// The models that there are: [{id, loaded, chat, description, max_model_len}].
export async function models(key) {
  const response = await ask("v1/models", key);
  return (await response.json()).data;
}

// The data of a body's events, one by one.
export async function* events(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let parts = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) {
        return;
      }
      // What has no end yet is kept in parts: a long event is not copied again with each of them.
      const text = decoder.decode(value, { stream: true });
      const ends = text.search(/\n|\r/) >= 0;
      parts.push(text);
      if (!ends) {
        continue;
      }
      const lines = parts.join("").split(/\r\n|\n|\r(?!$)/);
      parts = [lines.pop()];
      for (const line of lines) {
        if (line.startsWith("data:")) {
          yield line.slice(5).trim();
        }
      }
    }
  } finally {
    // Whoever stops reading tells the server so.
    reader.cancel().catch(() => {});
  }
}

// What a chunk of a stream says, or why it says nothing.
function read(data) {
  let chunk;
  try {
    chunk = JSON.parse(data);
  } catch {
    throw new Trouble("the server sent something that is no JSON; answer again");
  }
  if (chunk.error) {
    const { message = "the reply failed", code = null } = chunk.error;
    throw new Trouble(message, { code });
  }
  return chunk;
}

// A reply that is under way.
export class Reply {
  constructor(begun = performance.now()) {
    this.content = "";
    this.reasoning = "";
    this.calls = [];
    this.finish = null;
    this.usage = null;
    this.pieces = 0;
    this.begun = begun;
    this.first = null;
    this.last = null;
  }

  add(chunk) {
    this.usage = chunk.usage ?? this.usage;
    const choice = chunk.choices?.[0];
    if (!choice) {
      return;
    }
    this.finish = choice.finish_reason ?? this.finish;
    const { content, reasoning_content: reasoning, tool_calls: calls } = choice.delta ?? {};
    if (content || reasoning || calls) {
      this.pieces += 1;
      this.last = performance.now();
      this.first ??= this.last;
    }
    this.content += content ?? "";
    this.reasoning += reasoning ?? "";
    for (const call of calls ?? []) {
      this.addCall(call);
    }
  }

  addCall({ index = 0, id, function: named = {} }) {
    this.calls[index] ??= { id: "", name: "", arguments: "" };
    const call = this.calls[index];
    call.id ||= id ?? "";
    call.name ||= named.name ?? "";
    call.arguments += named.arguments ?? "";
  }

  // Tokens, where the server has counted them; else as many as came one by one.
  get tokens() {
    return this.usage?.completion_tokens ?? this.pieces;
  }

  // Tokens a second behind the first.
  get rate() {
    const seconds = (this.last - this.first) / 1000;
    return this.tokens > 1 && seconds > 0 ? (this.tokens - 1) / seconds : null;
  }

  // Seconds until the first token.
  get wait() {
    return this.first === null ? null : (this.first - this.begun) / 1000;
  }
}

// Asks for a reply; `changed(reply)` hears of every piece. A model that is being loaded is waited for, which
// `waiting(message)` hears of.
export async function chat(body, { key, signal, changed, waiting }) {
  const whole = { ...body, stream: true, stream_options: { include_usage: true } };
  const options = {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(whole),
    signal,
  };
  let begun;
  const request = () => {
    begun = performance.now();
    return ask("v1/chat/completions", key, options);
  };
  const response = await patiently(request, signal, waiting);
  const reply = new Reply(begun);
  let ended = false;
  try {
    for await (const data of events(response.body)) {
      ended = data === "[DONE]";
      if (ended) {
        break;
      }
      reply.add(read(data));
      changed(reply);
    }
  } catch (error) {
    throw ofFailure(error, signal, LOST);
  }
  if (!ended) {
    throw ofFailure(null, signal, LOST);
  }
  return reply;
}

async function patiently(ask, signal, waiting) {
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (error.code !== "model_loading") {
        throw error;
      }
      waiting("the model is loading");
    }
    await new Promise((wake) => setTimeout(wake, 500));
    if (signal.aborted) {
      throw new Trouble("stopped", { code: "stopped" });
    }
  }
}
