// Elements that several pages share.

import { element, keepInStep, setText } from "./dom.js";

/** Return a label of a tenant's state with a colour. */
export function badge(state) {
  return element("span", { class: "badge", "data-state": state }, state);
}

/** Return an element for a user-chosen name, which isolates the name's text direction from the surrounding text. */
export function chosenName(text) {
  return element("bdi", {}, text);
}

/** Return a link to a tenant's page. */
export function tenantLink(id) {
  return element("a", { href: `#/tenants/${encodeURIComponent(id)}` }, id);
}

/** A group of buttons, one for each offered action. */
export class Buttons {
  /**
   * @param {string} label The accessible name of the group.
   * @param {(action) => Element} create Returns the button of an action.
   */
  constructor(label, create) {
    this.create = create;
    this.element = element("div", { class: "buttons", role: "group", "aria-label": label, tabindex: "-1" });
  }

  update(actions) {
    const hadFocus = this.element.contains(document.activeElement);
    keepInStep(this.element, actions, ({ name }) => name, this.create);
    // The pressed button may have been removed, because the new state does not offer its action.
    if (hadFocus && !this.element.contains(document.activeElement)) this.element.focus();
  }
}

/** Return a heading that can receive the focus. */
export function heading(text) {
  return element("h1", { tabindex: "-1" }, text);
}

/** Return a paragraph for an empty list, with advice. */
export function empty(...children) {
  return element("p", { class: "empty" }, ...children);
}

/**
 * A table that becomes a list of cards in a narrow window. The elements have explicit roles, because browsers drop the roles of
 * a table that CSS lays out differently.
 */
export class Table {
  /**
   * @param {string} label The accessible name of the table.
   * @param {Array} columns {title, isNumber, isHeader, isLong, isMoment, text: (item) => string}, or instead of `text`
   *   {create: (item) => node, update: (cell, item) => void}.
   * @param {(item) => string} keyOf Returns the unique key of an item's row.
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

/** A list of names with values, in a fixed order: `set("Size", "4 KiB")`. */
export class Facts {
  constructor(names) {
    const pairs = names.map((name) => element("div", { hidden: true }, element("dt", {}, name), element("dd")));
    this.element = element("dl", { class: "facts" }, pairs);
    this.pairs = new Map(names.map((name, at) => [name, pairs[at]]));
  }

  /** Show a value, or hide the name if the value is null. */
  set(name, value) {
    const pair = this.pairs.get(name);
    pair.hidden = value === null;
    setText(pair.lastChild, value ?? "");
  }
}
