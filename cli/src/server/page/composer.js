// Where a message is written: it grows with its text, Enter sends it, Shift+Enter begins a line.

export class Composer {
  // `actions`: send(text), which says whether it was taken, and stop().
  constructor(form, actions) {
    this.form = form;
    this.area = form.querySelector("textarea");
    this.sendButton = form.querySelector("#send");
    this.stopButton = form.querySelector("#stop");
    this.area.addEventListener("input", () => this.fit());
    this.area.addEventListener("keydown", (event) => {
      // Enter while a method of input composes a word is that word's end.
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const text = this.area.value;
      if (text.trim() && actions.send(text)) {
        this.set("");
      }
    });
    this.stopButton.addEventListener("click", () => actions.stop());
  }

  set(text) {
    this.area.value = text;
    this.fit();
  }

  fit() {
    // As high as the text, as far as the style's limit.
    this.area.style.height = "auto";
    this.area.style.height = `${this.area.scrollHeight + 2}px`;
  }

  // While a reply comes there is nothing to send and something to stop.
  setBusy(busy) {
    this.sendButton.hidden = busy;
    this.stopButton.hidden = !busy;
  }

  focus() {
    this.area.focus();
  }
}
