// Making elements, and keeping lists of them in step with data.
//
// Text only ever becomes a text node. Nothing here takes markup, so a tenant's name cannot be any.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Make an HTML element. Attributes that are null or false are left out; `onclick` and the like are listeners.
 */
export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** Make an SVG element. */
export function shape(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

/** Change a node's text, if it is another one: what did not change is not drawn or announced again. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Put something in the place of all that a node holds. */
export function fill(node, ...children) {
  node.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
}

/**
 * Keep a container's children in step with items: who is still there keeps its element, and with it the focus.
 *
 * @param {Element} container Holds nothing else.
 * @param {Array} items In the order in which they are to be shown.
 * @param {(item) => string} keyOf What tells one from another.
 * @param {(item) => Element} create
 * @param {(node: Element, item) => void} update Also called for what was just created.
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
    // Moved only if it is not in its place: moving takes the focus away.
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
