// The page: what is done when somebody does something.
//
// One conversation is shown, and at most one reply comes at a time. What a reply says, however it ends, is
// kept; leaving the page keeps it too.

import { Composer } from "./composer.js";
import { Messages } from "./messages.js";
import { SettingsDialog, parametersOf } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { Store, newConversation } from "./store.js";
import { Trouble, chat, models } from "./stream.js";

const find = (id) => document.getElementById(id);

class App {
  constructor() {
    this.store = new Store((message) => this.notice(message));
    this.models = [];
    // What stops the reply that comes, while one does.
    this.stopper = null;
    this.messages = new Messages(find("messages"), {
      again: () => this.again(),
      edit: (message, text) => this.edit(message, text),
      remove: (message) => this.remove(message),
    });
    this.composer = new Composer(find("composer"), {
      send: (text) => this.send(text),
      stop: () => this.stop(),
    });
    this.sidebar = new Sidebar(find("sidebar"), {
      menu: find("menu"),
      shade: find("shade"),
      actions: {
        begin: () => this.open(newConversation(this.store.settings.system ?? "")),
        open: (id) => this.openKept(id),
        remove: (id) => this.removeConversation(id),
        removeAll: () => this.removeAll(),
      },
    });
    this.settings = new SettingsDialog(find("settings"), (saved) => this.save(saved));
    this.listen();
    const kept = this.store.conversation(this.store.current ?? "");
    this.open(kept ?? newConversation(this.store.settings.system ?? ""));
    this.loadModels();
  }

  listen() {
    find("open-settings").addEventListener("click", () => this.settings.open(this.state()));
    find("theme").addEventListener("click", () => this.switchTheme());
    find("model").addEventListener("change", (event) => {
      this.store.model = event.target.value;
      this.showModel();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !this.settings.isOpen) {
        this.sidebar.close();
        this.stop();
      }
    });
    // Another tab has changed what is kept.
    window.addEventListener("storage", () => this.showList());
    window.addEventListener("pagehide", () => this.keep());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.showTheme());
    this.showTheme();
  }

  // What the dialog of settings shows.
  state() {
    return {
      settings: this.store.settings,
      system: this.conversation.system,
      key: this.store.key,
      model: this.model,
    };
  }

  save({ settings, system, key }) {
    this.store.settings = { ...settings, system };
    this.conversation.system = system;
    this.keep();
    const isNewKey = key !== this.store.key;
    this.store.key = key;
    if (isNewKey || this.models.length === 0) {
      this.loadModels();
    }
    this.composer.focus();
  }

  // One line about what went wrong; nothing where all is well.
  notice(message) {
    find("notice").textContent = message;
    find("notice").hidden = !message;
  }

  // Says what went wrong where the whole page is concerned, and asks for a key where one is needed.
  fail(error) {
    const trouble = error instanceof Trouble ? error : new Trouble(`the page failed: ${error.message}`);
    this.notice(trouble.message);
    if (trouble.status === 401) {
      this.settings.askKey(this.state());
    }
    return trouble;
  }

  // --- models

  get model() {
    const id = find("model").value;
    return this.models.find((model) => model.id === id) ?? null;
  }

  async loadModels() {
    try {
      this.models = await models(this.store.key);
      this.notice("");
    } catch (error) {
      this.fail(error);
      return;
    }
    const select = find("model");
    const chosen = this.models.some((model) => model.id === this.store.model);
    const id = chosen ? this.store.model : (this.models[0]?.id ?? "");
    select.replaceChildren(
      ...this.models.map((model) => new Option(model.id, model.id, false, model.id === id)),
    );
    select.disabled = this.models.length < 2;
    this.showModel();
  }

  showModel() {
    const { model } = this;
    const parts = [model?.description ?? model?.chat];
    if (model?.max_model_len) {
      parts.push(`context of ${model.max_model_len} tokens`);
    }
    const about = parts.filter(Boolean).join("; ");
    find("about").textContent = about;
    find("about").hidden = !about;
  }

  // --- conversations

  open(conversation) {
    this.stop();
    this.conversation = conversation;
    this.store.current = conversation.id;
    this.notice("");
    this.show();
    this.composer.focus();
  }

  openKept(id) {
    const kept = this.store.conversation(id);
    if (kept) {
      this.open(kept);
    } else {
      this.notice("this conversation was deleted in another tab");
      this.showList();
    }
  }

  removeConversation(id) {
    this.store.delete(id);
    if (id === this.conversation.id) {
      this.conversation.messages = [];
      this.open(newConversation(this.store.settings.system ?? ""));
    }
    this.showList();
  }

  removeAll() {
    if (confirm("Delete all conversations in this browser?")) {
      this.store.deleteAll();
      this.conversation.messages = [];
      this.open(newConversation(this.store.settings.system ?? ""));
    }
  }

  keep() {
    this.store.keep(this.conversation);
  }

  show() {
    const busy = this.stopper !== null;
    this.messages.settle();
    this.messages.show(this.conversation.messages, busy);
    this.composer.setBusy(busy);
    this.showList();
  }

  showList() {
    this.sidebar.show(this.store.conversations(), this.conversation.id);
  }

  // A change of the conversation's messages.
  change(messages) {
    this.notice("");
    this.conversation.messages = messages;
    this.conversation.changed = Date.now();
    if (messages.length === 0) {
      this.store.delete(this.conversation.id);
    }
    this.keep();
    this.show();
  }

  // --- messages

  send(text) {
    if (this.stopper) {
      return false;
    }
    this.change([...this.conversation.messages, { role: "user", content: text }]);
    this.answer();
    return true;
  }

  // What is behind an edited message answers another one, and goes.
  edit(message, text) {
    const at = this.conversation.messages.indexOf(message);
    this.change([...this.conversation.messages.slice(0, at), { role: "user", content: text }]);
    this.answer();
    this.composer.focus();
  }

  remove(message) {
    this.change(this.conversation.messages.filter((other) => other !== message));
    this.composer.focus();
  }

  again() {
    const { messages } = this.conversation;
    const kept = messages.at(-1)?.role === "assistant" ? messages.slice(0, -1) : messages;
    this.change(kept);
    this.answer();
    this.composer.focus();
  }

  stop() {
    this.stopper?.abort();
    this.stopper = null;
  }

  request() {
    // A reply that never came says nothing.
    const said = this.conversation.messages
      .filter(({ role, content }) => role === "user" || content)
      .map(({ role, content }) => ({ role, content }));
    const system = this.conversation.system.trim() ? [{ role: "system", content: this.conversation.system }] : [];
    const model = this.model ? { model: this.model.id } : {};
    return { ...model, messages: [...system, ...said], ...parametersOf(this.store.settings, this.model) };
  }

  // Asks for the reply to what there is.
  async answer() {
    const body = this.request();
    const { conversation } = this;
    const message = { role: "assistant", content: "", reasoning: "", calls: [], note: "", error: "" };
    const stopper = new AbortController();
    this.stopper = stopper;
    conversation.messages.push(message);
    this.show();
    let reply = null;
    let waits = false;
    try {
      reply = await chat(body, {
        key: this.store.key,
        signal: stopper.signal,
        waiting: (what) => {
          waits = true;
          this.notice(what);
        },
        changed: (now) => {
          reply = now;
          Object.assign(message, partsOf(now), { note: figures(now, null) });
          if (conversation === this.conversation) {
            this.messages.follow(message);
          }
        },
      });
      Object.assign(message, partsOf(reply), { note: figures(reply, this.model) });
    } catch (error) {
      this.endEarly(message, reply, error);
    }
    if (waits) {
      this.notice("");
    }
    this.end(conversation, message, stopper);
  }

  endEarly(message, reply, error) {
    const trouble = error instanceof Trouble ? error : this.fail(error);
    if (reply) {
      message.note = figures(reply, null);
    }
    if (trouble.isStop) {
      message.note = [message.note, "stopped"].filter(Boolean).join(", ");
    } else {
      message.error = trouble.message;
    }
    if (trouble.status === 401) {
      this.fail(trouble);
    }
  }

  end(conversation, message, stopper) {
    const isEmpty = !message.content && !message.reasoning && message.calls.length === 0;
    // Nothing came and nothing went wrong: there is no message.
    if (isEmpty && !message.error && message.note.endsWith("stopped")) {
      conversation.messages = conversation.messages.filter((other) => other !== message);
    }
    conversation.changed = Date.now();
    this.store.keep(conversation);
    if (this.stopper === stopper) {
      this.stopper = null;
    }
    if (conversation === this.conversation) {
      this.show();
    } else {
      this.showList();
    }
    if (this.model && !this.model.loaded) {
      this.loadModels();
    }
  }

  // --- light and dark

  get isDark() {
    const { theme } = document.documentElement.dataset;
    return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  showTheme() {
    find("theme").textContent = this.isDark ? "Light" : "Dark";
    find("theme").setAttribute("aria-label", this.isDark ? "Light colours" : "Dark colours");
  }

  switchTheme() {
    const theme = this.isDark ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    this.store.set("gannet.theme", theme);
    this.showTheme();
  }
}

function partsOf({ content, reasoning, calls }) {
  return { content, reasoning, calls: [...calls] };
}

// What is known of a reply: its tokens, its speed, and how much of the context is used.
function figures(reply, model) {
  const parts = [reply.tokens === 1 ? "1 token" : `${reply.tokens} tokens`];
  if (reply.rate !== null) {
    parts.push(`${reply.rate.toPrecision(3)} tokens/s`);
  }
  if (reply.wait !== null) {
    parts.push(`first after ${reply.wait.toFixed(2)} s`);
  }
  const context = model?.max_model_len;
  const used = reply.usage?.total_tokens;
  if (context && used) {
    parts.push(`${used} of ${context} in the context`);
  }
  if (reply.finish === "length") {
    parts.push(
      context && used >= context
        ? "cut: the context is full; begin a new conversation"
        : "cut: it has as many tokens as the settings allow",
    );
  }
  return parts.join(", ");
}

new App();
