// A server that has the page of the real one and says what a test wants said.

import { createServer } from "node:http";

// `replies`: what to do with each request for a reply, in order: functions of the response's writer. With a
// `key`, models are shown to those who give it.
export async function fake(origin, replies, key = null) {
  const seen = { bodies: [], gone: 0, keys: [] };
  const server = createServer(async (request, response) => {
    if (request.url === "/v1/models" && key && request.headers.authorization !== `Bearer ${key}`) {
      return json(response, 401, { error: { message: "an API key is needed", code: "invalid_api_key" } });
    }
    if (request.url === "/v1/models") {
      return json(response, 200, { object: "list", data: [{ id: "fake", loaded: true, max_model_len: 64 }] });
    }
    if (request.url !== "/v1/chat/completions") {
      const file = await fetch(new URL(request.url, origin));
      const headers = Object.fromEntries(file.headers);
      delete headers["content-length"];
      response.writeHead(file.status, headers);
      return response.end(Buffer.from(await file.arrayBuffer()));
    }
    let body = "";
    for await (const part of request) {
      body += part;
    }
    seen.bodies.push(JSON.parse(body));
    seen.keys.push(request.headers.authorization ?? null);
    response.on("close", () => {
      seen.gone += response.writableFinished ? 0 : 1;
    });
    return replies.shift()(new Writer(response));
  });
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  const address = `http://127.0.0.1:${server.address().port}/`;
  const close = () => {
    server.closeAllConnections();
    server.close();
  };
  return { address, seen, close };
}

function json(response, status, value) {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify(value));
}

class Writer {
  constructor(response) {
    this.response = response;
  }

  refuse(status, error) {
    json(this.response, status, { error });
  }

  raw(text) {
    if (!this.response.headersSent) {
      this.response.writeHead(200, { "content-type": "text/event-stream" });
    }
    this.response.write(text);
  }

  delta(delta, finish = null) {
    const chunk = { choices: [{ index: 0, delta, finish_reason: finish }] };
    this.raw(`data: ${JSON.stringify(chunk)}\n\n`);
  }

  // A text in pieces of a few characters, cut anywhere.
  text(text, name = "content") {
    for (let at = 0; at < text.length; at += 7) {
      this.delta({ [name]: text.slice(at, at + 7) });
    }
  }

  error(message) {
    this.raw(`data: ${JSON.stringify({ error: { message, code: "internal_error" } })}\n\n`);
    this.response.end();
  }

  done(tokens, total, finish = "stop") {
    this.delta({}, finish);
    const usage = { completion_tokens: tokens, total_tokens: total };
    this.raw(`data: ${JSON.stringify({ choices: [], usage })}\n\ndata: [DONE]\n\n`);
    this.response.end();
  }
}
