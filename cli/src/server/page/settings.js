// The dialog of settings: what they are, how they are read, and what they become in a request.

const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"];

// What shows a base model of few weights at its best; other models are left to the server.
const DEMONSTRATION = { temperature: 0, repetition_penalty: 1.2, max_tokens: 256 };

// What holds of a model where somebody has set nothing.
export function defaultsOf(model) {
  return model?.description ? DEMONSTRATION : {};
}

// The parameters of a request.
export function parametersOf(settings, model) {
  const parameters = { ...defaultsOf(model) };
  for (const name of NUMBERS) {
    const value = Number(settings[name]);
    if (settings[name] !== undefined && settings[name] !== "" && Number.isFinite(value)) {
      parameters[name] = value;
    }
  }
  const stop = String(settings.stop ?? "").split("\n").filter(Boolean);
  if (stop.length > 0) {
    parameters.stop = stop;
  }
  return parameters;
}

export class SettingsDialog {
  // `saved({settings, system, key})` hears of what somebody saves.
  constructor(dialog, saved) {
    this.dialog = dialog;
    this.form = dialog.querySelector("form");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      saved(this.read());
      this.dialog.close();
    });
    dialog.querySelector("#cancel-settings").addEventListener("click", () => dialog.close());
    dialog.querySelector("#clear-settings").addEventListener("click", () => this.fill({}));
  }

  get isOpen() {
    return this.dialog.open;
  }

  field(name) {
    return this.form.elements.namedItem(name);
  }

  fill(settings) {
    for (const name of NUMBERS) {
      this.field(name).value = settings[name] ?? "";
    }
    this.field("stop").value = settings.stop ?? "";
  }

  read() {
    const settings = { stop: this.field("stop").value };
    for (const name of NUMBERS) {
      settings[name] = this.field(name).value;
    }
    return { settings, system: this.field("system").value, key: this.field("key").value.trim() };
  }

  open({ settings, system, key, model }) {
    this.fill(settings);
    this.field("system").value = system;
    this.field("key").value = key;
    const defaults = defaultsOf(model);
    for (const name of NUMBERS) {
      this.field(name).placeholder = defaults[name] ?? "";
    }
    this.dialog.showModal();
  }

  // Opened where the server wants a key.
  askKey(state) {
    if (!this.isOpen) {
      this.open(state);
    }
    this.field("key").focus();
  }
}
