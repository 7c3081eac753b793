// What people do with the page, in a browser: `node talk.mjs BROWSER ORIGIN [FOLDER]`.
//
// ORIGIN is a server with the demonstration model; a folder gets pictures of the page.

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";

import { Browser } from "./browser.mjs";
import { fake } from "./fake.mjs";

const [program, origin, folder] = process.argv.slice(2);
const SHIFT = 8;
const LAST = ".message:last-child";

async function say(page, text) {
  await page.eval("document.querySelector('#message').focus()");
  await page.type(text);
  await page.press("Enter");
}

// The reply has ended, and so have its buttons come.
function answered(page, count = 2) {
  return page.until(
    `document.querySelector('#stop').hidden && document.querySelectorAll('.message').length === ${count}
     && document.querySelector('${LAST} [data-action=delete]')`,
  );
}

async function cancelled() {
  const metrics = await (await fetch(`${origin}metrics`)).text();
  return Number(/finished_reason="abort"\} (\d+)/.exec(metrics)?.[1] ?? 0);
}

async function set(page, values) {
  await page.click("#open-settings");
  for (const [name, value] of Object.entries(values)) {
    await page.eval(`document.querySelector('#settings [name=${name}]').value = ${JSON.stringify(value)}`);
  }
  await page.click("#settings button[value=save]");
  await page.until("!document.querySelector('#settings').open");
}

// A message is sent, its reply streams, is stopped, and regenerated: by the model itself.
async function theModelReplies(browser) {
  const page = await browser.page(origin);
  await page.until("document.querySelector('#model').value === 'rustdoc-tiny'");
  assert.match(await page.text("#about"), /base model.*context of 1024/);
  await set(page, { max_tokens: "900" });
  const before = await cancelled();
  await say(page, "Ownership is");
  await page.until(`document.querySelector('${LAST} > .content')?.innerText.length > 10`);
  const early = await page.text(`${LAST} > .content`);
  assert.equal(await page.eval("document.querySelector('#stop').hidden"), false, "it is still coming");
  await page.until(`document.querySelector('${LAST} > .content').innerText.length > ${early.length + 10}`);
  await page.press("Escape");
  await answered(page);
  const stopped = await page.text(`${LAST} > .content`);
  assert.ok(stopped.length > early.length);
  assert.match(await page.text(`${LAST} .note`), /tokens\/s.*stopped/);
  for (let i = 0; (await cancelled()) === before; i += 1) {
    assert.ok(i < 100, "the server never heard of it");
    await new Promise((wake) => setTimeout(wake, 20));
  }
  await set(page, { max_tokens: "24" });
  await page.click(`${LAST} [data-action=again]`);
  await answered(page);
  const again = await page.text(`${LAST} > .content`);
  assert.equal(stopped.slice(0, 30), again.slice(0, 30), "greedy text comes again");
  assert.match(await page.text(`${LAST} .note`), /^24 tokens.*of 1024 in the context.*cut/);
  assert.deepEqual(page.complaints, []);
  for (const url of page.requests) {
    assert.ok(url.startsWith(origin), url);
  }
}

const HOSTILE = `<script>window.harm = 1</script>
<img src=x onerror="window.harm = 2"><svg onload="window.harm = 3"></svg>
<iframe srcdoc="<script>parent.harm = 4</script>"></iframe>
[click](javascript:window.harm=5) [data](data:text/html,<script>1</script>) ![picture](https://example.org/x.png)
**<b onclick="window.harm = 6">bold</b>** \`<i>code</i>\`

\`\`\`html
<script>window.harm = 7</script>
</code></pre><img src=x onerror="window.harm = 8">
\`\`\`

| <u>head</u> | two |
|---|---|
| <a href="javascript:1">cell</a> | https://example.org/a?b=1 |
`;

// Whatever a reply says stays text, and loads nothing.
async function markupStaysText(browser) {
  const server = await fake(origin, [
    (to) => {
      to.text("<img src=y onerror='window.harm = 9'> thoughts", "reasoning_content");
      to.text(HOSTILE);
      to.delta({ tool_calls: [{ index: 0, id: "c", function: { name: "<b>f</b>", arguments: "" } }] });
      to.delta({ tool_calls: [{ index: 0, function: { arguments: '{"a": "<img src=z onerror=1>"}' } }] });
      to.done(40, 64, "length");
    },
  ]);
  const page = await browser.page(server.address);
  await say(page, "<img src=u onerror='window.harm = 10'>");
  await answered(page);
  const shown = await page.eval("document.querySelector('#messages').textContent");
  for (const line of HOSTILE.split("\n").filter((line) => line.startsWith("<"))) {
    assert.ok(shown.includes(line), line);
  }
  for (const text of ["<img src=y onerror=", "<b>f</b>", '"<img src=z onerror=1>"', "<img src=u onerror="]) {
    assert.ok(shown.includes(text), text);
  }
  const made = "script, img, svg, iframe, b, i, u, object, embed, style, [onclick], [onerror], [onload]";
  assert.equal(await page.count(`#messages :is(${made})`), 0);
  assert.equal(await page.eval("window.harm ?? null"), null);
  const links = await page.eval("[...document.querySelectorAll('#messages a')].map((a) => a.href + a.rel)");
  const rel = "noopener noreferrer nofollow";
  assert.deepEqual(links, [`https://example.org/x.png${rel}`, `https://example.org/a?b=1${rel}`]);
  assert.match(await page.text(`${LAST} .reasoning summary`), /Thoughts/);
  assert.match(await page.text(`${LAST} .call`), /Call of <b>f<\/b>/);
  assert.match(await page.text(`${LAST} .note`), /64 of 64 in the context.*context is full/);
  assert.equal(await page.count(`${LAST} .code .copy`), 1);
  for (const url of page.requests) {
    assert.ok(url.startsWith(server.address), url);
  }
  assert.deepEqual(page.complaints, []);
  server.close();
}

// Stop reaches the server; errors are one line and what came before them is kept.
async function repliesEndInManyWays(browser) {
  const server = await fake(origin, [
    (to) => to.text("on and on"),
    (to) => {
      to.text("half");
      to.error("the device\nis lost");
    },
    (to) => {
      to.text("cut");
      to.response.end();
    },
    (to) => to.refuse(400, { message: "the prompt has 99 tokens", code: "context_length_exceeded" }),
    (to) => to.refuse(503, { message: "the model is loading; come again", code: "model_loading" }),
    (to) => {
      to.text("here");
      to.done(1, 9);
    },
  ]);
  const page = await browser.page(server.address);
  await say(page, "one");
  await page.until(`document.querySelector('${LAST} > .content').innerText === 'on and on'`);
  assert.equal(server.seen.gone, 0);
  await page.click("#stop");
  await answered(page);
  for (let i = 0; server.seen.gone === 0; i += 1) {
    assert.ok(i < 100, "the server never saw it");
    await new Promise((wake) => setTimeout(wake, 20));
  }
  const endings = [
    ["half", "the device is lost"],
    ["cut", "the connection ended before the reply did"],
    ["", "the prompt has 99 tokens"],
  ];
  for (const [text, error] of endings) {
    await page.click(`${LAST} [data-action=again]`);
    await answered(page);
    assert.equal(await page.text(`${LAST} > .content`), text);
    assert.ok((await page.text(`${LAST} .error`)).startsWith(error));
  }
  await page.click(`${LAST} [data-action=again]`);
  await page.until("document.querySelector('#notice').innerText === 'the model is loading'");
  await page.until(`document.querySelector('${LAST} > .content').innerText === 'here'`);
  await answered(page);
  assert.equal(await page.eval("document.querySelector('#notice').hidden"), true);
  const last = server.seen.bodies.at(-1);
  assert.deepEqual(last.messages, [{ role: "user", content: "one" }]);
  assert.equal(last.stream, true);
  server.close();
}

function replies(...texts) {
  return texts.map((text) => (to) => {
    to.text(text);
    to.done(text.length, text.length);
  });
}

// Edit, delete, settings, new conversations, and all of it again after the page is loaded anew.
async function conversationsAreKept(browser) {
  const server = await fake(origin, replies("first", "second", "third", "fourth"));
  const page = await browser.page(server.address);
  await set(page, { system: "Be brief.", temperature: "0.5", top_k: "7", seed: "3", stop: "END\n###" });
  await page.eval("document.querySelector('#message').focus()");
  await page.type("line");
  await page.press("Enter", SHIFT);
  await page.type("break");
  assert.equal(await page.count(".message"), 0, "Shift+Enter sends nothing");
  await page.press("Enter");
  await answered(page);
  const [body] = server.seen.bodies;
  assert.deepEqual(body.messages, [
    { role: "system", content: "Be brief." },
    { role: "user", content: "line\nbreak" },
  ]);
  const { temperature, top_k, seed, stop, top_p } = body;
  assert.deepEqual([temperature, top_k, seed, stop, top_p], [0.5, 7, 3, ["END", "###"], undefined]);
  await say(page, "more");
  await answered(page, 4);
  assert.equal(server.seen.bodies[1].messages.length, 4);
  // An edited message has another answer, and what was behind it is gone.
  await page.click(".message.user [data-action=edit]");
  await page.until("document.activeElement.closest('.edit')");
  await page.press("Escape");
  await page.until("!document.querySelector('.edit')");
  await page.click(".message.user [data-action=edit]");
  await page.eval("document.activeElement.select()");
  await page.type("changed");
  await page.press("Enter");
  await answered(page);
  assert.equal(server.seen.bodies[2].messages.at(-1).content, "changed");
  assert.equal(await page.text(`${LAST} > .content`), "third");
  await page.reload();
  await page.until("document.querySelectorAll('.message').length === 2");
  assert.equal(await page.text(".message.user .content"), "changed");
  await page.click("#new");
  assert.equal(await page.count(".message"), 0);
  await say(page, "other <b>talk</b>");
  await answered(page);
  assert.equal(await page.count("#conversations li"), 2);
  assert.equal(await page.text("#conversations li:first-child .conversation"), "other <b>talk</b>");
  await page.click(`${LAST} [data-action=delete]`);
  await page.until("document.querySelectorAll('.message').length === 1");
  assert.equal(await page.text(`${LAST} [data-action=again]`), "Answer");
  await page.click("#conversations li:last-child .conversation");
  await page.until("document.querySelectorAll('.message').length === 2");
  await page.click("#conversations li:last-child .remove");
  await page.until("document.querySelectorAll('#conversations li').length === 1");
  assert.deepEqual(page.complaints, []);
  server.close();
}

async function giveKey(page) {
  await page.until("document.querySelector('#settings').open && document.activeElement.name === 'key'");
  assert.equal(await page.text("#notice"), "an API key is needed");
  await page.type("secret");
  await page.press("Enter");
  await page.until("!document.querySelector('#settings').open");
}

// A server that wants a key is asked again with the one that somebody gives, once he opens the page or later.
async function keysAreAskedFor(browser) {
  const closed = await fake(origin, replies("welcome"), "secret");
  const visitor = await browser.page(closed.address);
  await giveKey(visitor);
  await visitor.until("document.querySelector('#model').value === 'fake'");
  await visitor.until("document.querySelector('#notice').hidden");
  closed.close();
  const refused = (to) => to.refuse(401, { message: "an API key is needed", code: "invalid_api_key" });
  const server = await fake(origin, [refused, ...replies("welcome")]);
  const page = await browser.page(server.address);
  await say(page, "hello");
  await giveKey(page);
  await page.click(`${LAST} [data-action=again]`);
  await answered(page);
  assert.equal(await page.text(`${LAST} > .content`), "welcome");
  assert.deepEqual(server.seen.keys, [null, "Bearer secret"]);
  const kept = await page.eval("JSON.stringify(localStorage)");
  assert.ok(!kept.includes("secret"), "keys are kept for the tab alone");
  server.close();
}

// A browser without room says so and goes on.
async function aFullBrowserIsSaid(browser) {
  const server = await fake(origin, replies("first", "second"));
  const page = await browser.page(server.address);
  await page.eval(`(() => {
    let text = "x".repeat(1 << 22);
    for (let i = 0; text; i += 1) {
      try {
        localStorage.setItem("other" + i, text);
      } catch {
        text = text.slice(0, text.length >> 1);
      }
    }
  })()`);
  await say(page, "hello");
  await answered(page);
  assert.match(await page.text("#notice"), /no more room.*gone when the tab closes/);
  assert.equal(await page.text(`${LAST} > .content`), "first");
  await say(page, "again");
  await answered(page, 4);
  assert.equal(await page.count("#conversations li"), 1);
  assert.deepEqual(page.complaints, []);
  server.close();
}

// Light, dark and a phone; everything that can be done has a name.
async function itFitsEveryScreen(browser) {
  const page = await browser.page(origin);
  await page.until("document.querySelector('#model').value === 'rustdoc-tiny'");
  await page.size(1000, 640);
  await page.colours("light");
  await set(page, { max_tokens: "96" });
  await say(page, "Ownership is");
  await answered(page);
  const paper = () => page.eval("getComputedStyle(document.body).backgroundColor");
  const light = await paper();
  await picture(page, "page-light");
  await page.colours("dark");
  const dark = await paper();
  assert.notEqual(light, dark);
  await page.eval("document.activeElement.blur()");
  await picture(page, "page-dark");
  await page.click("#theme");
  assert.equal(await paper(), light, "the switch counts more than the system");
  await page.reload();
  await page.until("document.querySelectorAll('.message').length === 2");
  assert.equal(await paper(), light);
  const nameless = `[...document.querySelectorAll("button, input, textarea, select")].filter((one) =>
    !one.innerText.trim() && !one.ariaLabel && !one.labels?.length && !one.hidden).map((one) => one.outerHTML)`;
  assert.deepEqual(await page.eval(nameless), []);
  await page.size(390, 780);
  await page.reload();
  await page.until("document.querySelectorAll('.message').length === 2");
  assert.equal(await page.eval("document.documentElement.scrollWidth <= innerWidth"), true);
  const drawn = "getComputedStyle(document.querySelector('#sidebar')).visibility";
  assert.equal(await page.eval(drawn), "hidden");
  await picture(page, "page-phone");
  await page.click("#menu");
  await page.until(`${drawn} === 'visible'`);
  await page.press("Escape");
  await page.until(`${drawn} === 'hidden'`);
}

async function picture(page, name) {
  if (folder) {
    writeFileSync(join(folder, `${name}.png`), await page.screenshot());
  }
}

const scenes = [
  theModelReplies, markupStaysText, repliesEndInManyWays, conversationsAreKept, keysAreAskedFor,
  aFullBrowserIsSaid, itFitsEveryScreen,
];
const browser = await Browser.start(program);
try {
  for (const scene of scenes) {
    await scene(browser).catch((error) => {
      error.message = `${scene.name}: ${error.message}`;
      throw error;
    });
    console.log(`${scene.name}: ok`);
  }
} finally {
  await browser.close();
}
process.exit(0);
