// What several pages are made of.

import { element, keepInStep, setText } from "./dom.js";

/** A tenant's state, in a word and a colour. */
export function badge(state) {
  return element("span", { class: "badge", "data-state": state }, state);
}

/** A name that somebody chose: whatever its letters do, they do it inside of their own piece of text. */
export function chosenName(text) {
  return element("bdi", {}, text);
}

/** The way to a tenant's page. */
export function tenantLink(id) {
  return element("a", { href: `#/tenants/${encodeURIComponent(id)}` }, id);
}

/** Buttons for actions, kept in step with those that are offered. */
export class Buttons {
  /**
   * @param {string} label What they do it to.
   * @param {(action) => Element} create Makes one's button.
   */
  constructor(label, create) {
    this.create = create;
    this.element = element("div", { class: "buttons", role: "group", "aria-label": label, tabindex: "-1" });
  }

  update(actions) {
    const hadFocus = this.element.contains(document.activeElement);
    keepInStep(this.element, actions, ({ name }) => name, this.create);
    // The button that was pressed may be gone with the state that offered it.
    if (hadFocus && !this.element.contains(document.activeElement)) this.element.focus();
  }
}

/** A heading that can be jumped to. */
export function heading(text) {
  return element("h1", { tabindex: "-1" }, text);
}

/** Text for a place where there is nothing yet, and what to do about it. */
export function empty(...children) {
  return element("p", { class: "empty" }, ...children);
}

/**
 * A table that becomes a list of cards where the window is narrow. Its roles are said: CSS that lays it out anew would
 * otherwise take them from it.
 */
export class Table {
  /**
   * @param {string} label What it shows.
   * @param {Array} columns {title, isNumber, isHeader, isLong, isMoment, text: (item) => string}, or instead of `text`
   *   {create: (item) => node, update: (cell, item) => void}.
   * @param {(item) => string} keyOf What tells one row from another.
   */
  constructor(label, columns, keyOf) {
    this.columns = columns;
    this.keyOf = keyOf;
    this.body = element("tbody", { role: "rowgroup" });
    const titles = columns.map(({ title, isNumber }) =>
      element("th", { role: "columnheader", scope: "col", class: isNumber && "number" }, title),
    );
    this.element = element(
      "table",
      { role: "table", "aria-label": label },
      element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, titles)),
      this.body,
    );
  }

  update(items) {
    keepInStep(
      this.body,
      items,
      this.keyOf,
      (item) => this.#row(item),
      (row, item) => this.columns.forEach((column, at) => fillCell(column, row.children[at], item)),
    );
  }

  #row(item) {
    const cells = this.columns.map(({ title, isNumber, isHeader, isLong, isMoment, create }) => {
      const role = isHeader ? "rowheader" : "cell";
      const looks = (isNumber && "number") || (isLong && "long") || (isMoment && "moment");
      const attributes = { role, class: looks, "data-title": title, scope: isHeader && "row" };
      return element(isHeader ? "th" : "td", attributes, create?.(item));
    });
    return element("tr", { role: "row" }, cells);
  }
}

function fillCell({ text, update }, cell, item) {
  if (update) update(cell, item);
  else if (text) setText(cell, text(item));
}

/** Names with values, in a fixed order: `set("Size", "4 KiB")`. */
export class Facts {
  constructor(names) {
    const pairs = names.map((name) => element("div", { hidden: true }, element("dt", {}, name), element("dd")));
    this.element = element("dl", { class: "facts" }, pairs);
    this.pairs = new Map(names.map((name, at) => [name, pairs[at]]));
  }

  /** Show a value; null takes it away. */
  set(name, value) {
    const pair = this.pairs.get(name);
    pair.hidden = value === null;
    setText(pair.lastChild, value ?? "");
  }
}
