// The list of conversations: beside the messages, or a drawer where there is little room.

import { titleOf } from "./store.js";

export class Sidebar {
  // `actions`: open(id), begin(), remove(id), removeAll().
  constructor(root, { menu, shade, actions }) {
    this.root = root;
    this.menu = menu;
    this.shade = shade;
    this.actions = actions;
    this.list = root.querySelector("#conversations");
    root.querySelector("#new").addEventListener("click", () => {
      this.close();
      actions.begin();
    });
    this.all = root.querySelector("#delete-all");
    this.all.addEventListener("click", () => actions.removeAll());
    menu.addEventListener("click", () => this.toggle(!this.isOpen));
    shade.addEventListener("click", () => this.close());
  }

  get isOpen() {
    return document.body.classList.contains("drawer");
  }

  toggle(open) {
    document.body.classList.toggle("drawer", open);
    this.menu.setAttribute("aria-expanded", String(open));
    this.shade.hidden = !open;
    if (open) {
      this.root.querySelector("#new").focus();
    }
  }

  close() {
    this.toggle(false);
  }

  show(conversations, current) {
    this.all.hidden = conversations.length === 0;
    this.list.replaceChildren(...conversations.map((one) => this.row(one, one.id === current)));
  }

  row(conversation, isCurrent) {
    const title = titleOf(conversation);
    const open = document.createElement("button");
    open.type = "button";
    open.className = "conversation";
    open.textContent = title;
    if (isCurrent) {
      open.setAttribute("aria-current", "true");
    }
    open.addEventListener("click", () => {
      this.close();
      this.actions.open(conversation.id);
    });
    const remove = document.createElement("button");
    remove.type = "button";
    remove.className = "quiet remove";
    remove.textContent = "\u00d7";
    remove.setAttribute("aria-label", `Delete ${title}`);
    remove.addEventListener("click", () => this.actions.remove(conversation.id));
    const row = document.createElement("li");
    row.append(open, remove);
    return row;
  }
}
