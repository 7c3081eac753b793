// The @anthropic-ai/sdk package of npm against a server.

const assert = require('node:assert');
const Anthropic = require('@anthropic-ai/sdk');

const { PLAIN, TOOLS, NARROW, KEY } = process.env;
const model = 'rustdoc-tiny';
const messages = [{ role: 'user', content: 'What is ownership in Rust?' }];
const at = (url, apiKey = KEY) => new Anthropic({ baseURL: url, apiKey, maxRetries: 0 });
const client = at(PLAIN);
const greedy = { model, messages, max_tokens: 24, temperature: 0, system: [{ type: 'text', text: 'Docs.' }] };

async function message() {
  const reply = await client.messages.create(greedy);
  const text = reply.content[0].text;
  assert.equal(reply.stop_reason, 'max_tokens');
  assert.equal(reply.usage.output_tokens, 24);
  const final = await client.messages.stream(greedy).finalMessage();
  assert.equal(final.content[0].text, text);
  assert.equal(final.stop_reason, 'max_tokens');
  const counted = await client.messages.countTokens({ model, messages, system: greedy.system });
  assert.equal(counted.input_tokens, reply.usage.input_tokens + reply.usage.cache_read_input_tokens);
  const word = text.split(/\s+/).filter(Boolean)[3];
  const stopped = await client.messages.create({ ...greedy, stop_sequences: [word] });
  assert.equal(stopped.stop_sequence, word);
}

async function errors() {
  const ask = (to, more) => to.messages.create({ ...greedy, max_tokens: 4, ...more });
  await assert.rejects(ask(client, { no_such_thing: 1 }), Anthropic.BadRequestError);
  await assert.rejects(ask(client, { model: 'other' }), Anthropic.NotFoundError);
  await assert.rejects(ask(at(PLAIN, 'wrong'), {}), Anthropic.AuthenticationError);
  // Whoever goes away makes room for the next.
  const narrow = at(NARROW);
  const held = await ask(narrow, { max_tokens: 900, stream: true });
  held.controller.abort();
  const patient = new Anthropic({ baseURL: NARROW, apiKey: KEY, maxRetries: 3 });
  assert.ok((await ask(patient, {})).content);
}

async function tools() {
  const input_schema = {
    type: 'object',
    properties: { public: { type: 'boolean' } },
    required: ['public'],
    additionalProperties: false,
  };
  const final = await at(TOOLS)
    .messages.stream({
      ...greedy,
      max_tokens: 200,
      tools: [{ name: 'show', input_schema }],
      tool_choice: { type: 'any', disable_parallel_tool_use: true },
    })
    .finalMessage();
  const call = final.content.at(-1);
  assert.equal(final.stop_reason, 'tool_use');
  assert.equal(typeof call.input.public, 'boolean');
}

(async () => {
  await message();
  await errors();
  await tools();
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
