// Markdown to nodes of the document, which are made one by one: text only ever becomes text.
//
// What is written is what is read: markup of the document's own language stays visible, images are not
// loaded, and links lead to the web or nowhere. Time is in proportion to the text and depth is bounded,
// whatever a model writes. `Markdown` shows a text that grows: blocks that stay as they were keep their
// nodes.

import { parseInline } from "./inline.js";

const DEEPEST = 6;
const FENCE = /^( {0,3})(`{3,}|~{3,})[ \t]*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+|$)/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,12})([-*+]|\d{1,9}[.)])( {1,4}|\t|$)/;

// Blocks of a text, in order; each has a `source`, by which it is known again.
export function parseBlocks(text) {
  const lines = text.replaceAll("\r\n", "\n").split("\n");
  return blocksOf(lines, 0);
}

function blocksOf(lines, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (isBlank(lines[at])) {
      at += 1;
      continue;
    }
    const [block, end] = blockAt(lines, at, depth);
    block.source = lines.slice(at, end).join("\n");
    blocks.push(block);
    at = end;
  }
  return blocks;
}

function blockAt(lines, at, depth) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) {
    return fenced(lines, at, fence);
  }
  const heading = HEADING.exec(line);
  if (heading) {
    const level = heading[1].length;
    return [{ type: "heading", level, children: parseInline(headingText(line.slice(heading[0].length))) }, at + 1];
  }
  if (isRule(line)) {
    return [{ type: "rule" }, at + 1];
  }
  if (depth < DEEPEST && QUOTE.test(line)) {
    return quoted(lines, at, depth);
  }
  if (depth < DEEPEST && ITEM.test(line)) {
    return listed(lines, at, depth);
  }
  return tabled(lines, at) ?? paragraph(lines, at, depth);
}

function isBlank(line) {
  return line.trim() === "";
}

function isRule(line) {
  const marks = line.replace(/[ \t]+/g, "");
  const isOne = marks.length >= 3 && "-*_".includes(marks[0]) && !/^ {4}/.test(line);
  return isOne && marks === marks[0].repeat(marks.length);
}

function headingText(text) {
  const trimmed = text.trim();
  let end = trimmed.length;
  while (trimmed[end - 1] === "#") {
    end -= 1;
  }
  return end === 0 || /\s/.test(trimmed[end - 1]) ? trimmed.slice(0, end).trim() : trimmed;
}

function fenced(lines, at, [, indent, marks, info]) {
  const closes = (line) => {
    const text = line.trim();
    return text.length >= marks.length && text === marks[0].repeat(text.length);
  };
  let end = at + 1;
  const code = [];
  while (end < lines.length && !closes(lines[end])) {
    const line = lines[end];
    code.push(line.startsWith(indent) ? line.slice(indent.length) : line.trimStart());
    end += 1;
  }
  const language = info.trim().split(/\s/)[0].slice(0, 40);
  return [{ type: "code", language, text: code.join("\n") }, Math.min(end + 1, lines.length)];
}

function quoted(lines, at, depth) {
  const inside = [];
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) {
    inside.push(lines[end].replace(QUOTE, ""));
    end += 1;
  }
  return [{ type: "quote", blocks: blocksOf(inside, depth + 1) }, end];
}

function listed(lines, at, depth) {
  const [, indent, mark] = ITEM.exec(lines[at]);
  const ordered = /\d/.test(mark);
  const items = [];
  let end = at;
  let tight = true;
  const ofThis = (line) => {
    const found = ITEM.exec(line);
    const isOne = found && found[1].length < indent.length + 2 && /\d/.test(found[2]) === ordered;
    return isOne && !isRule(line) ? found : null;
  };
  let found = ofThis(lines[at]);
  while (found) {
    const [inside, next, loose] = item(lines, end, found);
    items.push(blocksOf(inside, depth + 1));
    end = next;
    found = end < lines.length ? ofThis(lines[end]) : null;
    tight &&= !(loose && found);
  }
  const start = ordered ? Number.parseInt(mark, 10) : 1;
  return [{ type: "list", ordered, start, tight, items }, end];
}

// The lines of an item without their indentation, where it ends, and whether a blank line does that.
function item(lines, at, [all, indent, mark]) {
  const width = Math.max(indent.length + mark.length + 1, all.length);
  const inside = [lines[at].slice(all.length)];
  let end = at + 1;
  let blank = 0;
  while (end < lines.length) {
    const line = lines[end];
    if (isBlank(line)) {
      blank += 1;
    } else {
      const own = line.length - line.trimStart().length;
      const isInside = own >= Math.min(width, indent.length + 2);
      if (!isInside && (blank > 0 || begins(line))) {
        break;
      }
      for (; blank > 0; blank -= 1) {
        inside.push("");
      }
      inside.push(line.slice(Math.min(own, width)));
    }
    end += 1;
  }
  return [inside, end, blank > 0];
}

// Whether a line begins a block of its own, whatever stands in front of it.
function begins(line) {
  return FENCE.test(line) || HEADING.test(line) || QUOTE.test(line) || isRule(line) || ITEM.test(line);
}

function cells(line) {
  const parts = line.trim().replaceAll("\\|", "\u0000").split("|");
  if (parts[0].trim() === "") {
    parts.shift();
  }
  if (parts.length && parts.at(-1).trim() === "") {
    parts.pop();
  }
  return parts.map((cell) => cell.replaceAll("\u0000", "|").trim());
}

function tabled(lines, at) {
  const below = lines[at + 1] ?? "";
  if (!lines[at].includes("|") || !below.includes("-") || !below.includes("|")) {
    return null;
  }
  const head = cells(lines[at]);
  const marks = cells(below);
  if (marks.length !== head.length || !marks.every((mark) => /^:?-+:?$/.test(mark))) {
    return null;
  }
  const align = marks.map((mark) => (mark.endsWith(":") ? (mark.startsWith(":") ? "center" : "right") : "left"));
  const rows = [];
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) {
    const row = cells(lines[end]).slice(0, head.length);
    rows.push(row.map((cell) => parseInline(cell)));
    end += 1;
  }
  return [{ type: "table", head: head.map((cell) => parseInline(cell)), align, rows }, end];
}

function paragraph(lines, at, depth) {
  let end = at + 1;
  const interrupts = (line) => begins(line) && (depth < DEEPEST || FENCE.test(line));
  while (end < lines.length && !isBlank(lines[end]) && !interrupts(lines[end])) {
    end += 1;
  }
  const text = lines.slice(at, end).map((line) => line.trim());
  return [{ type: "paragraph", children: parseInline(text.join("\n")) }, end];
}

// Makes nodes of blocks. `page` is the document; `copy(text)` is called by the buttons of code.
export class Builder {
  constructor(page, copy) {
    this.page = page;
    this.copy = copy;
  }

  element(name, className = "", children = []) {
    const element = this.page.createElement(name);
    if (className) {
      element.className = className;
    }
    // One by one: there may be more than fit the arguments of a call.
    for (const child of children) {
      element.append(child);
    }
    return element;
  }

  text(text) {
    return this.page.createTextNode(text);
  }

  inline(nodes) {
    return nodes.map((node) => {
      switch (node.type) {
        case "text":
          return this.text(node.text);
        case "code":
          return this.element("code", "", [this.text(node.text)]);
        case "link":
          return this.link(node);
        default:
          return this.element(node.type, "", this.inline(node.children));
      }
    });
  }

  link(node) {
    const link = this.element("a", "", this.inline(node.children));
    link.setAttribute("href", node.href);
    link.setAttribute("target", "_blank");
    link.setAttribute("rel", "noopener noreferrer nofollow");
    link.setAttribute("title", node.href);
    return link;
  }

  block(block) {
    switch (block.type) {
      case "heading":
        return this.element(`h${Math.min(block.level + 2, 6)}`, "", this.inline(block.children));
      case "rule":
        return this.element("hr");
      case "code":
        return this.code(block);
      case "quote":
        return this.element("blockquote", "", block.blocks.map((inner) => this.block(inner)));
      case "list":
        return this.list(block);
      case "table":
        return this.table(block);
      default:
        return this.element("p", "", this.inline(block.children));
    }
  }

  code({ language, text }) {
    const button = this.element("button", "copy", [this.text("Copy")]);
    button.setAttribute("type", "button");
    button.addEventListener("click", () => this.copy(text, button));
    const name = this.element("span", "language", [this.text(language || "text")]);
    const bar = this.element("div", "bar", [name, button]);
    const code = this.element("code", "", [this.text(text)]);
    const pre = this.element("pre", "", [code]);
    pre.setAttribute("tabindex", "0");
    return this.element("div", "code", [bar, pre]);
  }

  list({ ordered, start, tight, items }) {
    const list = this.element(ordered ? "ol" : "ul");
    if (ordered && start !== 1) {
      list.setAttribute("start", String(start));
    }
    for (const blocks of items) {
      const children = blocks.flatMap((block) =>
        tight && block.type === "paragraph" ? this.inline(block.children) : [this.block(block)],
      );
      list.append(this.element("li", "", children));
    }
    return list;
  }

  table({ head, align, rows }) {
    const cell = (name) => (children, i) => this.element(name, align[i], this.inline(children));
    const row = (name, cells) => this.element("tr", "", cells.map(cell(name)));
    const top = this.element("thead", "", [row("th", head)]);
    const body = this.element("tbody", "", rows.map((cells) => row("td", cells)));
    return this.element("div", "table", [this.element("table", "", [top, body])]);
  }
}

// A text in an element, shown as it grows.
export class Markdown {
  constructor(element, builder) {
    this.element = element;
    this.builder = builder;
    this.sources = [];
  }

  show(text) {
    const blocks = parseBlocks(text);
    let same = 0;
    while (same < blocks.length && blocks[same].source === this.sources[same]) {
      same += 1;
    }
    while (this.element.childNodes.length > same) {
      this.element.lastChild.remove();
    }
    for (const block of blocks.slice(same)) {
      this.element.append(this.builder.block(block));
    }
    this.sources = blocks.map((block) => block.source);
  }
}
