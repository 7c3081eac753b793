// Markdown inside a line of text: code, emphasis, links. Text to plain data; no document here.
//
// Every step takes time in proportion to the text, whatever the text is, and depth is bounded.

const MOST_OPEN = 12;
const LONGEST_TICKS = 8;
const SPECIAL = /[\\`*_~[]|https?:\/\//g;
const ESCAPED = /^[!-/:-@[-`{-~]$/;
const LINK =
  /!?\[((?:[^[\]\\\n]|\\.){0,1000})\]\(\s{0,9}<?([^\s()<>]{0,2000}(?:\([^\s()<>]{0,500}\)[^\s()<>]{0,500}){0,3})>?(?:\s{1,9}"[^"\n]{0,300}")?\s{0,9}\)/y;
const ADDRESS = /https?:\/\/[^\s<>"'`\\^{|}]{1,2000}/y;
const WORD = /[\p{L}\p{N}]/u;

// The address, if a click may lead there: to the web or to a mailbox, and to no script or file.
export function safeAddress(address) {
  try {
    const { protocol } = new URL(address);
    return ["http:", "https:", "mailto:"].includes(protocol) ? address : null;
  } catch {
    return null;
  }
}

// Nodes: {type: "text" | "code", text}, {type: "em" | "strong" | "del", children},
// {type: "link", href, children}.
export function parseInline(text, links = true) {
  return new Inline(text, links).parse();
}

class Inline {
  constructor(text, links) {
    this.text = text;
    this.links = links;
    this.at = 0;
    this.out = [];
    // Delimiters that may still be closed: {char, length, index}, where `out[index]` stands for it.
    this.open = [];
    // Runs of backticks of these lengths close nothing from here on.
    this.unclosed = new Set();
  }

  parse() {
    const { text } = this;
    while (this.at < text.length) {
      SPECIAL.lastIndex = this.at;
      const found = SPECIAL.exec(text);
      const next = found ? found.index : text.length;
      this.plain(text.slice(this.at, next));
      this.at = next;
      if (found) {
        this.special(found[0]);
      }
    }
    return joined(this.out);
  }

  plain(text) {
    if (text) {
      this.out.push({ type: "text", text });
    }
  }

  special(found) {
    switch (found[0]) {
      case "\\":
        return this.escape();
      case "`":
        return this.code();
      case "[":
        return this.link();
      case "h":
        return this.address();
      default:
        return this.delimiter(found[0]);
    }
  }

  escape() {
    const next = this.text[this.at + 1] ?? "";
    const isEscaped = ESCAPED.test(next);
    this.plain(isEscaped ? next : "\\");
    this.at += isEscaped ? 2 : 1;
  }

  // How often a character stands here in a row.
  run(char, from = this.at) {
    let end = from;
    while (this.text[end] === char) {
      end += 1;
    }
    return end - from;
  }

  code() {
    const length = this.run("`");
    const start = this.at + length;
    const end = this.closing(length, start);
    if (end < 0) {
      this.plain("`".repeat(length));
      this.at = start;
      return;
    }
    let code = this.text.slice(start, end).replaceAll("\n", " ");
    if (code.length > 2 && code.startsWith(" ") && code.endsWith(" ")) {
      code = code.slice(1, -1);
    }
    this.out.push({ type: "code", text: code });
    this.at = end + length;
  }

  closing(length, from) {
    if (length > LONGEST_TICKS || this.unclosed.has(length)) {
      return -1;
    }
    let at = this.text.indexOf("`", from);
    while (at >= 0) {
      const found = this.run("`", at);
      if (found === length) {
        return at;
      }
      at = this.text.indexOf("`", at + found);
    }
    this.unclosed.add(length);
    return -1;
  }

  link() {
    LINK.lastIndex = this.at;
    const found = this.links ? LINK.exec(this.text) : null;
    const href = found && safeAddress(found[2]);
    if (!href) {
      // What leads nowhere safe is shown as it was written.
      this.plain("[");
      this.at += 1;
      return;
    }
    const children = parseInline(found[1], false);
    this.out.push({ type: "link", href, children: children.length ? children : [{ type: "text", text: href }] });
    this.at += found[0].length;
  }

  address() {
    ADDRESS.lastIndex = this.at;
    const found = this.links ? ADDRESS.exec(this.text) : null;
    const before = this.text[this.at - 1] ?? "";
    if (!found || WORD.test(before)) {
      this.plain("http");
      this.at += 4;
      return;
    }
    const address = withoutEnd(found[0]);
    const href = safeAddress(address);
    if (href) {
      this.out.push({ type: "link", href, children: [{ type: "text", text: address }] });
    } else {
      this.plain(address);
    }
    this.at += address.length;
  }

  delimiter(char) {
    const length = this.run(char);
    const before = this.text[this.at - 1] ?? " ";
    const after = this.text[this.at + length] ?? " ";
    this.at += length;
    const inWord = char === "_";
    const opens = !/\s/.test(after) && !(inWord && WORD.test(before));
    const closes = !/\s/.test(before) && !(inWord && WORD.test(after));
    if (length > 3 || (char === "~" && length !== 2)) {
      this.plain(char.repeat(length));
      return;
    }
    const left = closes ? this.close(char, length) : length;
    if (left === 0) {
      return;
    }
    if (opens && this.open.length < MOST_OPEN) {
      this.open.push({ char, length: left, index: this.out.length });
    }
    this.out.push({ type: "text", text: char.repeat(left) });
  }

  // Closes what a run of delimiters closes; how many of it are left.
  close(char, length) {
    let left = length;
    while (left > 0) {
      const at = this.open.findLastIndex((open) => open.char === char);
      if (at < 0) {
        break;
      }
      const opener = this.open[at];
      const strong = opener.length >= 2 && left >= 2;
      const used = strong ? 2 : 1;
      const children = joined(this.out.splice(opener.index + 1));
      // Nothing in between is nothing to stress.
      if (children.length === 0) {
        break;
      }
      const type = char === "~" ? "del" : strong ? "strong" : "em";
      this.open.length = at;
      opener.length -= used;
      left -= used;
      this.out.pop();
      if (opener.length > 0) {
        this.out.push({ type: "text", text: char.repeat(opener.length) });
        this.open.push(opener);
      }
      this.out.push({ type, children });
    }
    return left;
  }
}

// An address without what ends the sentence around it: signs, and brackets that were opened before it.
function withoutEnd(address) {
  let closing = address.split(")").length - address.split("(").length;
  let end = address.length;
  for (; end > 0; end -= 1) {
    const last = address[end - 1];
    if (last === ")" && closing > 0) {
      closing -= 1;
    } else if (!/[.,;:!?*_~\]]/.test(last)) {
      break;
    }
  }
  return address.slice(0, end);
}

// Texts side by side as one.
function joined(nodes) {
  const all = [];
  for (const node of nodes) {
    const last = all.at(-1);
    if (node.type === "text" && last?.type === "text") {
      last.text += node.text;
    } else {
      all.push(node.type === "text" ? { ...node } : node);
    }
  }
  return all;
}
