// The tree of worlds: a fork hangs below the world that it began in.

import { countOf } from "./chunks.js";
import { paint } from "./panes.js";

export class Tree {
  /** acts: go(id), rename(world), close(id). */
  constructor(list, acts) {
    Object.assign(this, { list, acts, pictures: new Map(), shown: "" });
  }

  /** A picture of a world, for its place in the tree. */
  picture(world, picture) { this.pictures.set(world, picture); this.shown = ""; }

  show(worlds, current) {
    const text = JSON.stringify([worlds.map(({ world, name, parent, chunk }) => [world, name, parent, chunk]), current]);
    if (text === this.shown) return;
    this.shown = text;
    const ids = new Set(worlds.map(({ world }) => world));
    const below = (parent) => worlds.filter((w) => (ids.has(w.parent) ? w.parent : null) === parent);
    const branch = (parent) => below(parent).map((world) => {
      const item = document.createElement("li"), twigs = branch(world.world);
      item.append(this.#row(world, world.world === current));
      if (twigs.length) item.append(Object.assign(document.createElement("ul"), {}));
      if (twigs.length) item.lastChild.append(...twigs);
      return item;
    });
    this.list.replaceChildren(...branch(null));
    this.list.querySelector(".current")?.scrollIntoView({ block: "nearest" });
  }

  #row(world, current) {
    const row = document.createElement("div");
    row.className = current ? "world current" : "world";
    const button = (text, title, click) => Object.assign(document.createElement("button"), { textContent: text, title, onclick: click });
    const go = button("", "go on in this world", () => this.acts.go(world.world));
    go.className = "go";
    const canvas = document.createElement("canvas"), picture = this.pictures.get(world.world);
    if (picture) paint(canvas, picture);
    const name = Object.assign(document.createElement("span"), { textContent: world.name });
    go.append(canvas, name, Object.assign(document.createElement("small"), { textContent: countOf(world.chunk) }));
    row.append(go, button("✎", "rename", () => this.acts.rename(world)), button("✕", "close this world", () => this.acts.close(world.world)));
    return row;
  }
}
