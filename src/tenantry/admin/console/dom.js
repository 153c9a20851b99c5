// Creates elements, and updates lists of elements from data.
//
// Text always becomes a text node. No function accepts markup, so a tenant's name cannot inject markup.

const SVG = "http://www.w3.org/2000/svg";

/** Create an HTML element. Attributes that are null or false are omitted; attributes like `onclick` are event listeners. */
export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** Create an SVG element. */
export function shape(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

/** Change a node's text only if the text differs, so that unchanged text is not drawn or announced again. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Replace all children of a node. */
export function fill(node, ...children) {
  node.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
}

/**
 * Update a container's children from items. An item that remains keeps its element, and with the element the focus.
 *
 * @param {Element} container Has no other children.
 * @param {Array} items In display order.
 * @param {(item) => string} keyOf Returns the unique key of an item.
 * @param {(item) => Element} create
 * @param {(node: Element, item) => void} update Called for every item, also after `create`.
 */
export function keepInStep(container, items, keyOf, create, update = () => {}) {
  const there = known.get(container) ?? new Map();
  const wanted = new Map();
  let before = null;
  for (const item of items) {
    const key = keyOf(item);
    const node = there.get(key) ?? create(item);
    update(node, item);
    wanted.set(key, node);
    // Move an element only if necessary, because a move removes the focus.
    const next = before === null ? container.firstChild : before.nextSibling;
    if (next !== node) container.insertBefore(node, next);
    before = node;
  }
  for (const [key, node] of there) if (!wanted.has(key)) node.remove();
  known.set(container, wanted);
}

const known = new WeakMap();

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}
