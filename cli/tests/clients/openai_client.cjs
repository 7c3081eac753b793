// The openai package of npm against a server.

const assert = require('node:assert');
const OpenAI = require('openai');

const { PLAIN, TOOLS, NARROW, KEY } = process.env;
const model = 'rustdoc-tiny';
const messages = [{ role: 'user', content: 'What is ownership in Rust?' }];
const at = (url, apiKey = KEY) => new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
const client = at(PLAIN);
const greedy = { model, messages, max_tokens: 24, temperature: 0 };

async function chat() {
  const reply = await client.chat.completions.create(greedy);
  const text = reply.choices[0].message.content;
  assert.ok(text);
  assert.equal(reply.usage.completion_tokens, 24);
  let streamed = '';
  let ends = 0;
  for await (const chunk of await client.chat.completions.create({ ...greedy, stream: true })) {
    streamed += chunk.choices[0]?.delta?.content ?? '';
    ends += chunk.choices[0]?.finish_reason === 'length' ? 1 : 0;
  }
  assert.equal(streamed, text);
  assert.equal(ends, 1);
  const seeded = { ...greedy, temperature: 1, seed: 5, n: 2, logprobs: true, top_logprobs: 2 };
  const [one, two] = [await client.chat.completions.create(seeded), await client.chat.completions.create(seeded)];
  assert.deepEqual(one.choices, two.choices);
  assert.equal(one.choices[0].logprobs.content.length, 24);
  const word = text.split(/\s+/).filter(Boolean)[3];
  const stopped = await client.chat.completions.create({ ...greedy, stop: word });
  assert.equal(stopped.choices[0].message.content, text.slice(0, text.indexOf(word)));
}

async function errors() {
  const ask = (to, more) => to.chat.completions.create({ ...greedy, max_tokens: 4, ...more });
  await assert.rejects(ask(client, { no_such_thing: 1 }), (e) => {
    assert.ok(e instanceof OpenAI.BadRequestError);
    return e.param === 'no_such_thing';
  });
  await assert.rejects(ask(client, { model: 'other' }), OpenAI.NotFoundError);
  await assert.rejects(ask(at(PLAIN, 'wrong'), {}), OpenAI.AuthenticationError);
  const narrow = at(NARROW);
  const held = await ask(narrow, { max_tokens: 900, ignore_eos: true, stream: true });
  await assert.rejects(ask(narrow, {}), OpenAI.RateLimitError);
  held.controller.abort();
  const again = new OpenAI({ baseURL: `${NARROW}/v1`, apiKey: KEY, maxRetries: 3 });
  assert.ok((await ask(again, {})).choices[0]);
}

async function structure() {
  const schema = {
    type: 'object',
    properties: { public: { type: 'boolean' } },
    required: ['public'],
    additionalProperties: false,
  };
  const reply = await client.chat.completions.create({
    ...greedy,
    max_tokens: 100,
    response_format: { type: 'json_schema', json_schema: { name: 'item', schema, strict: true } },
  });
  assert.equal(typeof JSON.parse(reply.choices[0].message.content).public, 'boolean');
  const tools = [{ type: 'function', function: { name: 'show', parameters: schema } }];
  const stream = at(TOOLS).chat.completions.stream({
    ...greedy,
    max_tokens: 200,
    tools,
    tool_choice: 'required',
    parallel_tool_calls: false,
  });
  const final = await stream.finalChatCompletion();
  const [call] = final.choices[0].message.tool_calls;
  assert.equal(call.function.name, 'show');
  assert.equal(typeof JSON.parse(call.function.arguments).public, 'boolean');
}

(async () => {
  await chat();
  await errors();
  await structure();
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
