// What is kept between visits: conversations, one entry each, and settings.
//
// All of it stays in this browser. An entry of its own for each conversation lets several tabs be open: the
// last one to change a conversation wins, and others are untouched. Where a browser keeps nothing, or has no
// room, everything works until the tab closes, and `trouble` hears of it once.

const CONVERSATION = "gannet.conversation.";
const SETTINGS = "gannet.settings";
const MODEL = "gannet.model";
const CURRENT = "gannet.current";
const KEY = "gannet.key";

export class Store {
  constructor(trouble = () => {}) {
    this.trouble = trouble;
    this.told = false;
    // What could not be kept, so that it is there as long as the tab is.
    this.unkept = new Map();
  }

  tell(message) {
    if (!this.told) {
      this.told = true;
      this.trouble(message);
    }
  }

  get(name) {
    if (this.unkept.has(name)) {
      return this.unkept.get(name);
    }
    try {
      return localStorage.getItem(name);
    } catch {
      return null;
    }
  }

  set(name, value) {
    try {
      localStorage.setItem(name, value);
      this.unkept.delete(name);
    } catch (error) {
      this.unkept.set(name, value);
      const full = error?.name === "QuotaExceededError";
      this.tell(
        full
          ? "the browser has no more room for conversations: this one is gone when the tab closes; delete others"
          : "the browser keeps nothing for this page: conversations are gone when the tab closes",
      );
    }
  }

  remove(name) {
    this.unkept.delete(name);
    try {
      localStorage.removeItem(name);
    } catch {
      // What is not kept is gone already.
    }
  }

  json(name) {
    try {
      return JSON.parse(this.get(name) ?? "null");
    } catch {
      return null;
    }
  }

  names() {
    const names = new Set(this.unkept.keys());
    try {
      for (let i = 0; i < localStorage.length; i += 1) {
        names.add(localStorage.key(i));
      }
    } catch {
      // Only what this tab has.
    }
    return [...names].filter((name) => name.startsWith(CONVERSATION));
  }

  // All conversations, the one that changed last in front.
  conversations() {
    const all = this.names().map((name) => readConversation(this.json(name)));
    return all.filter(Boolean).sort((a, b) => b.changed - a.changed);
  }

  conversation(id) {
    return readConversation(this.json(CONVERSATION + id));
  }

  // Keeps a conversation, if there is anything in it.
  keep(conversation) {
    if (conversation.messages.length > 0) {
      this.set(CONVERSATION + conversation.id, JSON.stringify(conversation));
    }
  }

  delete(id) {
    this.remove(CONVERSATION + id);
  }

  deleteAll() {
    for (const name of this.names()) {
      this.remove(name);
    }
  }

  get settings() {
    const settings = this.json(SETTINGS);
    return settings && typeof settings === "object" ? settings : {};
  }

  set settings(settings) {
    this.set(SETTINGS, JSON.stringify(settings));
  }

  get model() {
    return this.get(MODEL);
  }

  set model(id) {
    this.set(MODEL, id);
  }

  get current() {
    return this.get(CURRENT);
  }

  set current(id) {
    this.set(CURRENT, id);
  }

  // The API key is kept for this tab alone.
  get key() {
    try {
      return sessionStorage.getItem(KEY) ?? "";
    } catch {
      return this.unkept.get(KEY) ?? "";
    }
  }

  set key(key) {
    try {
      sessionStorage.setItem(KEY, key);
    } catch {
      this.unkept.set(KEY, key);
    }
  }
}

// A conversation without a message.
export function newConversation(system = "") {
  const id = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0"));
  return { version: 1, id: id.join(""), system, messages: [], changed: Date.now() };
}

// What a list calls it.
export function titleOf(conversation) {
  const first = conversation.messages.find((message) => message.role === "user");
  const line = (first?.content ?? "").trim().split("\n")[0];
  return [...line].slice(0, 60).join("") || "New conversation";
}

// A conversation as this program understands it, or null: what lies in a browser may be anything.
function readConversation(value) {
  const isOne = value?.version === 1 && typeof value.id === "string" && Array.isArray(value.messages);
  if (!isOne) {
    return null;
  }
  return {
    version: 1,
    id: value.id,
    system: textOf(value.system),
    messages: value.messages.map(readMessage).filter(Boolean),
    changed: Number(value.changed) || 0,
  };
}

function textOf(value) {
  return typeof value === "string" ? value : "";
}

function readMessage(value) {
  if (!["user", "assistant"].includes(value?.role)) {
    return null;
  }
  const message = { role: value.role, content: textOf(value.content) };
  if (message.role === "assistant") {
    message.reasoning = textOf(value.reasoning);
    const calls = Array.isArray(value.calls) ? value.calls : [];
    message.calls = calls.map((call) => ({
      id: textOf(call?.id),
      name: textOf(call?.name),
      arguments: textOf(call?.arguments),
    }));
    message.note = textOf(value.note);
    message.error = textOf(value.error);
  }
  return message;
}
