// The messages of a conversation on the screen, and what can be done with each.
//
// Texts of the model become nodes in markdown.js, and all others are set as text.

import { Builder, Markdown } from "./markdown.js";

// Text on the clipboard, also where the page came without encryption and there is none for scripts.
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "offscreen";
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    return copied;
  }
}

async function copyBy(text, button) {
  const before = button.textContent;
  button.textContent = (await copyText(text)) ? "Copied" : "Not copied";
  setTimeout(() => {
    button.textContent = before;
  }, 1500);
}

function element(name, className, text = "") {
  const made = document.createElement(name);
  if (className) {
    made.className = className;
  }
  made.textContent = text;
  return made;
}

function button(label, name, act) {
  const made = element("button", "quiet", label);
  made.type = "button";
  made.dataset.action = name;
  made.addEventListener("click", () => act(made));
  return made;
}

const builder = new Builder(document, copyBy);

// One message.
class Message {
  constructor(message, actions, { last, busy }) {
    this.root = element("article", `message ${message.role}`);
    this.root.setAttribute("aria-label", message.role === "user" ? "You" : "Model");
    this.body = element("div", "content");
    this.note = element("p", "note");
    this.error = element("p", "error");
    if (message.role === "user") {
      this.body.textContent = message.content;
      this.root.append(this.body);
    } else {
      this.buildReply();
      this.update(message);
    }
    if (!busy) {
      this.root.append(this.buttons(message, actions, last));
    }
  }

  buildReply() {
    this.markdown = new Markdown(this.body, builder);
    this.thoughts = element("div", "content");
    this.thinking = new Markdown(this.thoughts, builder);
    this.fold = element("details", "reasoning");
    this.fold.append(element("summary", "", "Thoughts"), this.thoughts);
    this.calls = element("div", "calls");
    this.root.append(this.fold, this.body, this.calls, this.note, this.error);
  }

  // Shows what there is of a reply.
  update({ content, reasoning = "", calls = [], note = "", error = "" }) {
    this.markdown.show(content);
    this.fold.hidden = !reasoning;
    if (reasoning) {
      this.thinking.show(reasoning);
    }
    this.showCalls(calls);
    this.note.textContent = note;
    this.note.hidden = !note;
    this.error.textContent = error;
    this.error.hidden = !error;
  }

  showCalls(calls) {
    const shown = calls.filter(Boolean).map(({ name, arguments: given }) => {
      const call = element("details", "call");
      call.open = true;
      const pre = element("pre", "");
      pre.append(element("code", "", indented(given)));
      call.append(element("summary", "", `Call of ${name}`), pre);
      return call;
    });
    this.calls.replaceChildren(...shown);
    this.calls.hidden = shown.length === 0;
  }

  // While a reply comes, its thoughts are open until its text begins.
  follow(reply) {
    this.fold.open = reply.content === "";
    this.update(reply);
  }

  buttons(message, actions, last) {
    const all = element("div", "actions");
    all.append(button("Copy", "copy", (made) => copyBy(message.content, made)));
    if (message.role === "user") {
      all.append(button("Edit", "edit", () => this.edit(message, actions)));
    }
    if (last) {
      const label = message.role === "user" ? "Answer" : "Regenerate";
      all.append(button(label, "again", () => actions.again()));
    }
    all.append(button("Delete", "delete", () => actions.remove(message)));
    return all;
  }

  edit(message, actions) {
    const form = element("form", "edit");
    const area = element("textarea", "");
    area.value = message.content;
    area.setAttribute("aria-label", "Message");
    area.rows = Math.min(12, message.content.split("\n").length + 1);
    const send = element("button", "", "Send");
    send.type = "submit";
    const close = () => {
      form.replaceWith(this.body);
      this.root.querySelector('[data-action="edit"]')?.focus();
    };
    form.append(area, send, button("Cancel", "cancel", close));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (area.value.trim()) {
        actions.edit(message, area.value);
      }
    });
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        close();
      } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    this.body.replaceWith(form);
    area.focus();
  }
}

// JSON on lines of its own, if it is some yet.
function indented(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}

// All messages.
export class Messages {
  constructor(root, actions) {
    this.root = root;
    this.actions = actions;
    this.follows = true;
    this.pending = null;
    root.addEventListener("scroll", () => {
      this.follows = root.scrollHeight - root.scrollTop - root.clientHeight < 40;
    });
  }

  // Shows messages; while a reply comes nothing can be done with them.
  show(messages, busy) {
    const views = messages.map((message, i) => {
      const last = i === messages.length - 1;
      return new Message(message, this.actions, { last, busy });
    });
    this.root.replaceChildren(...views.map((view) => view.root));
    this.root.setAttribute("aria-busy", String(busy));
    this.last = views.at(-1) ?? null;
    this.toEnd();
  }

  // Shows a reply that grows, once a frame.
  follow(reply) {
    if (this.pending === null) {
      this.pending = requestAnimationFrame(() => {
        this.pending = null;
        this.last?.follow(reply);
        if (this.follows) {
          this.toEnd();
        }
      });
    }
  }

  // What was to be drawn is drawn otherwise.
  settle() {
    if (this.pending !== null) {
      cancelAnimationFrame(this.pending);
      this.pending = null;
    }
  }

  toEnd() {
    this.follows = true;
    this.root.scrollTop = this.root.scrollHeight;
  }
}
