// What the page's modules do with any text: `node unit.mjs FOLDER`, where the page's files lie.

import assert from "node:assert/strict";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const load = (name) => import(pathToFileURL(join(process.argv[2], name)));
const { parseBlocks, Builder, Markdown } = await load("markdown.js");
const { parseInline, safeAddress } = await load("inline.js");
const { events, Reply } = await load("stream.js");
const { parametersOf } = await load("settings.js");
const { Store, newConversation, titleOf } = await load("store.js");

// As much of a document as the builder may use: anything else would be missing here.
class Node {
  constructor(name) {
    this.name = name;
    this.childNodes = [];
    this.attributes = {};
    this.className = "";
  }

  append(child) {
    child.parent = this;
    this.childNodes.push(child);
  }

  get lastChild() {
    return this.childNodes.at(-1);
  }

  remove() {
    this.parent.childNodes.splice(this.parent.childNodes.indexOf(this), 1);
  }

  setAttribute(name, value) {
    this.attributes[name] = value;
  }

  addEventListener() {}

  get textContent() {
    return this.text ?? this.childNodes.map((child) => child.textContent).join("");
  }

  all() {
    return [this, ...this.childNodes.flatMap((child) => child.all())];
  }
}

const page = {
  createElement: (name) => new Node(name),
  createTextNode: (text) => Object.assign(new Node("#text"), { text }),
};
const builder = new Builder(page, () => {});

const NAMES = new Set(
  "#text p h3 h4 h5 h6 hr blockquote ul ol li pre code div span button em strong del a table thead tbody tr th td"
    .split(" "),
);
const ATTRIBUTES = new Set(["href", "target", "rel", "title", "start", "type", "tabindex"]);

function shown(text) {
  const root = page.createElement("div");
  new Markdown(root, builder).show(text);
  for (const node of root.all()) {
    assert.ok(NAMES.has(node.name), node.name);
    for (const [name, value] of Object.entries(node.attributes)) {
      assert.ok(ATTRIBUTES.has(name), name);
      if (name === "href") {
        assert.match(value, /^(https?|mailto):/i);
      }
    }
  }
  return root;
}

// A short form of what is shown: names and texts.
function form(node) {
  if (node.name === "#text") {
    return node.text;
  }
  const inside = node.childNodes.filter((child) => child.className !== "bar").map(form).join("");
  return ["div", "pre"].includes(node.name) ? inside : `${node.name}(${inside})`;
}

function markdownMeansThis() {
  const cases = [
    ["plain\ntext", "p(plain\ntext)"],
    ["# One\n###### Six ##\n####### seven", "h3(One)h6(Six)p(####### seven)"],
    ["a *b* _c_ **d** __e__ ~~f~~ ***g***", "p(a em(b) em(c) strong(d) strong(e) del(f) em(strong(g)))"],
    ["**a *b***, ***a* b**", "p(strong(a em(b)), strong(em(a) b))"],
    ["snake_case_name, 2 * 3 * 4, *open", "p(snake_case_name, 2 * 3 * 4, *open)"],
    ["`a*b*` ``c`d`` `open", "p(code(a*b*) code(c`d) `open)"],
    ["\\*a\\* \\q `\\`", "p(*a* \\q code(\\))"],
    ["[a *b*](https://c.d 'x')", "p([a em(b)](a(https://c.d) 'x'))"],
    ["[a *b*](https://c.d \"x\")", "p(a(a em(b)))"],
    ["[x](javascript:a) [y](/z) [z](file:///q)", "p([x](javascript:a) [y](/z) [z](file:///q))"],
    ["(see https://a.b/c_(d).) xhttp://q", "p((see a(https://a.b/c_(d)).) xhttp://q)"],
    ["- a\n- b\n  - c\n\n1. d\n2) e", "ul(li(a)li(bul(li(c))))ol(li(d)li(e))"],
    ["- a\n\n- b", "ul(li(p(a))li(p(b)))"],
    ["3. a\n   ```\n   x\n   ```\n4. b", "ol(li(acode(x))li(b))"],
    ["> a\n> > b\n\nc", "blockquote(p(a)blockquote(p(b)))p(c)"],
    ["---\n* * *\n__", "hr()hr()p(__)"],
    ["```rust\nfn a() {\n  `b`\n}\n```\nc", "code(fn a() {\n  `b`\n})p(c)"],
    ["~~~\nopen\n```", "code(open\n```)"],
    ["a|b\n-|:-:\n`c`|d \\| e|f\ng", "table(thead(tr(th(a)th(b)))tbody(tr(td(code(c))td(d | e))))p(g)"],
    ["a|b\n-|-|-", "p(a|b\n-|-|-)"],
    ["text\n- item\n# head", "p(text)ul(li(item))h3(head)"],
    ["<b>bold</b> &amp; <!-- x -->", "p(<b>bold</b> &amp; <!-- x -->)"],
    ["", ""],
  ];
  for (const [text, expected] of cases) {
    assert.equal(form(shown(text)), expected, text);
  }
  assert.deepEqual(shown("3. a").childNodes[0].attributes, { start: "3" });
}

function onlyTheWebIsLinked() {
  for (const address of ["https://a.b", "http://a.b:1/c?d#e", "mailto:a@b.c", "HTTPS://A.B"]) {
    assert.equal(safeAddress(address), address);
  }
  const bad = ["javascript:1", " javascript:1", "JaVaScRiPt:1", "java\nscript:1", "data:text/html,x", "vbscript:x",
    "blob:https://a.b/c", "file:///x", "//a.b", "/a", "a", "", "\u0001javascript:1"];
  for (const address of bad) {
    assert.equal(safeAddress(address), null, address);
    assert.ok(shown(`[x](${address}) <${address}> ![y](${address})`));
  }
}

// Time in proportion to the text, and no depth that a stack does not hold, whatever comes.
function hostileTextsEnd() {
  const parts = [
    "*", "**", "***", "_a", "*a *", "a* ", "`", "`` ` ", "[", "](", "[a](", "[a](b", "![", "\\", "~~", "~~a", "> ",
    "- ", "1. ", "|", "|a|\n|-|\n", "# ", "#", "```\n", "~~~\n", "\n", " ", "\t", "  - a\n", "<a>", "https://", "http",
    "https://a.b)", "(https://a.b", "- - - - ", "***a**b*", "\u0000", "\ud800", "[[a](http://b)](c)", '[a](http://b "',
    "[a](http://b(", "*_~`[", "> - 1. ", "\r", "\r\n",
  ];
  for (const part of parts) {
    const text = part.repeat(Math.ceil(50_000 / part.length));
    for (const whole of [text, `${text}x`, `a\n${text}\n\n# b`]) {
      const begun = performance.now();
      const depth = depthOf(shown(whole));
      const took = performance.now() - begun;
      assert.ok(took < 5000, `${JSON.stringify(part)}: ${took} ms`);
      assert.ok(depth < 64, `${JSON.stringify(part)}: ${depth} deep`);
    }
  }
}

function depthOf(node) {
  return 1 + node.childNodes.reduce((most, child) => Math.max(most, depthOf(child)), 0);
}

// Every letter of a text without markup is shown, and texts at random are shown somehow.
function nothingIsLost() {
  let seed = 7;
  const random = (most) => {
    seed = (seed * 48271) % 2147483647;
    return seed % most;
  };
  const alphabet = [..."ab <>&\"'*_`~[]()!#|>-+.1\\\n\t:/"];
  for (let round = 0; round < 3000; round += 1) {
    const text = Array.from({ length: random(60) }, () => alphabet[random(alphabet.length)]).join("");
    const letters = (all) => all.replace(/[^ab<&"']/g, "");
    // The language of code is shown in its bar, and a table's row has as many cells as its head.
    if (!/[|`~[(]/.test(text)) {
      assert.equal(letters(shown(text).textContent), letters(text), JSON.stringify(text));
    } else {
      shown(text);
    }
  }
}

// A text that grows has the nodes of the whole, and keeps those that stay.
function growingTextsKeepTheirNodes() {
  const text = "# a\n\nb *c*\n\n- d\n- e\n\n```x\nf\n```\n\n|g|h|\n|-|-|\n|i|j|\n\nk";
  const root = page.createElement("div");
  const growing = new Markdown(root, builder);
  let first;
  for (let end = 1; end <= text.length; end += 1) {
    growing.show(text.slice(0, end));
    assert.equal(form(root), form(shown(text.slice(0, end))));
    first = end === 6 ? root.childNodes[0] : first;
  }
  assert.equal(root.childNodes[0], first);
  growing.show("other");
  assert.equal(form(root), "p(other)");
}

async function eventsAreReadWhereverTheyAreCut() {
  const said = ["{\"a\": \"\u00e9\u20ac\u{1f600}\"}", "2", "[DONE]"];
  const text = `: comment\r\ndata: ${said[0]}\r\n\r\nevent: x\ndata:${said[1]}\n\nid: 1\rdata: ${said[2]}\r\r`;
  const bytes = new TextEncoder().encode(text);
  for (let size = 1; size <= bytes.length; size += 1) {
    const body = new ReadableStream({
      start(to) {
        for (let at = 0; at < bytes.length; at += size) {
          to.enqueue(bytes.slice(at, at + size));
        }
        to.close();
      },
    });
    const read = [];
    for await (const data of events(body)) {
      read.push(data);
    }
    assert.deepEqual(read, said, `pieces of ${size}`);
  }
  let stopped = false;
  const endless = new ReadableStream({
    pull: (to) => to.enqueue(new TextEncoder().encode("data: x\n\n")),
    cancel: () => {
      stopped = true;
    },
  });
  for await (const data of events(endless)) {
    assert.equal(data, "x");
    break;
  }
  assert.ok(stopped, "whoever stops reading says so");
}

function repliesAreGathered() {
  const reply = new Reply();
  const deltas = [
    { role: "assistant", content: "" }, { reasoning_content: "hm" }, { content: "a" }, { content: "b" },
    { tool_calls: [{ index: 0, id: "c", function: { name: "f", arguments: "" } }] },
    { tool_calls: [{ index: 0, function: { arguments: "{}" } }] }, {},
  ];
  deltas.forEach((delta, i) => reply.add({ choices: [{ delta, finish_reason: i === 6 ? "tool_calls" : null }] }));
  assert.deepEqual([reply.content, reply.reasoning, reply.tokens], ["ab", "hm", 5]);
  assert.deepEqual(reply.calls, [{ id: "c", name: "f", arguments: "{}" }]);
  reply.add({ choices: [], usage: { completion_tokens: 9, total_tokens: 12 } });
  assert.deepEqual([reply.tokens, reply.finish], [9, "tool_calls"]);
}

function settingsBecomeParameters() {
  const settings = { temperature: "0.5", top_p: "", top_k: "0", seed: "-1", stop: "a\n\nb", min_p: "x" };
  assert.deepEqual(parametersOf(settings, null), { temperature: 0.5, top_k: 0, seed: -1, stop: ["a", "b"] });
  assert.deepEqual(parametersOf({}, { id: "m" }), {});
  const shown = parametersOf({ max_tokens: "9" }, { description: "a base model" });
  assert.deepEqual(shown, { temperature: 0, repetition_penalty: 1.2, max_tokens: 9 });
}

// What lies in a browser's storage may be anything, and there may be none.
function storageIsNotTrusted() {
  const told = [];
  const store = new Store((message) => told.push(message));
  const kept = newConversation("be brief");
  kept.messages.push({ role: "user", content: " first\nline" });
  store.keep(kept);
  assert.equal(store.conversation(kept.id).messages.length, 1);
  assert.equal(titleOf(kept), "first");
  assert.equal(told.length, 1, "no storage here, said once");
  const bad = ["", "null", "[]", "{", '{"version":1}', '{"version":2,"id":"a","messages":[]}'];
  for (const value of bad) {
    store.set("gannet.conversation.a", value);
    assert.equal(store.conversation("a"), null, value);
  }
  store.set("gannet.conversation.a", '{"version":1,"id":"a","messages":[{"role":"system"},{"role":"user","content":1},'
    + '{"role":"assistant","content":"x","calls":[null,{"name":{}}],"note":[]}],"changed":"z"}');
  const read = store.conversation("a").messages;
  assert.deepEqual(read.map((message) => message.content), ["", "x"]);
  assert.deepEqual(read[1].calls[1], { id: "", name: "", arguments: "" });
  store.deleteAll();
  assert.deepEqual(store.conversations(), []);
}

const checks = [
  markdownMeansThis, onlyTheWebIsLinked, hostileTextsEnd, nothingIsLost, growingTextsKeepTheirNodes,
  eventsAreReadWhereverTheyAreCut, repliesAreGathered, settingsBecomeParameters, storageIsNotTrusted,
];
for (const check of checks) {
  await check();
}
assert.ok(parseInline("a").length === 1 && parseBlocks("a").length === 1);
console.log(`${checks.length} checks`);
