// The page with the list of tenants, with search, filter and creation.

import { create } from "./actions.js";
import { element, fill, setText } from "./dom.js";
import { bytes, count, moment, NOTHING, rate, versions } from "./format.js";
import { LoadMeter } from "./load.js";
import { badge, chosenName, empty, heading, Table } from "./parts.js";

const PAGE_ROWS = 100;
/** The number of tenants that the service lists in one response. */
const ROWS_MAX = 1_000;
/** The number of tenants whose statistics the service returns in one response. */
const STATISTICS_MAX = 100;
/** Matches every prefix that an id can have. */
const PREFIX = /^[a-z0-9-]{0,48}$/;

export function tenants(app, parameters) {
  const states = Object.keys(app.states);
  const state = states.includes(parameters.get("state")) ? parameters.get("state") : "";
  const meter = new LoadMeter();
  let rows = [];
  let wanted = PAGE_ROWS;
  let hasMore = false;
  // The id prefix of the loaded rows; null before the first load.
  let looked = null;

  const search = element("input", {
    id: "search", type: "search", autocomplete: "off", autocapitalize: "off", spellcheck: "false",
    "aria-describedby": "found", oninput: () => look(), onkeydown: (event) => event.key === "Enter" && open(),
  });
  const filter = element(
    "select",
    { id: "state", onchange: () => app.go(filter.value ? `#/tenants?state=${filter.value}` : "#/tenants") },
    element("option", { value: "" }, "all"),
    states.map((one) => element("option", { value: one, selected: one === state }, one)),
  );
  const button = element("button", { type: "button", class: "primary", onclick: () => begin() }, "Create tenant");
  app.needs(button, "operate");
  const found = element("p", { class: "hint", id: "found", role: "status" });
  const more = element("button", { type: "button", hidden: true, onclick: () => showMore() }, `Show ${PAGE_ROWS} more`);
  const place = element("div", {}, empty("Loading…"));
  const table = new Table("Tenants", columns(meter, app.backends.length > 1), ({ id }) => id);
  const page = element(
    "div",
    {},
    heading("Tenants"),
    element(
      "div",
      { class: "tools" },
      element("div", { class: "field" }, element("label", { for: "search" }, "Id begins with"), search),
      element("div", { class: "field" }, element("label", { for: "state" }, "State"), filter),
      button,
    ),
    found,
    place,
    more,
  );

  function begin(id = "") {
    create(app, (tenant) => app.go(`#/tenants/${tenant.id}`), id);
  }

  // Filter the loaded rows immediately, then ask the service for all tenants with the prefix.
  function look() {
    show();
    app.refresh();
  }

  function open() {
    const shown = matching();
    const id = shown.length === 1 ? shown[0].id : search.value.trim();
    if (search.value && id) app.go(`#/tenants/${encodeURIComponent(id)}`);
  }

  function showMore() {
    wanted = Math.min(wanted + PAGE_ROWS, ROWS_MAX);
    app.refresh();
  }

  function prefix() {
    return search.value.trim().toLowerCase();
  }

  function matching() {
    return rows.filter(({ id }) => id.startsWith(prefix()));
  }

  function show() {
    const shown = matching();
    table.update(shown);
    more.hidden = !hasMore || rows.length >= ROWS_MAX;
    setText(found, told(shown.length));
    if (shown.length > 0) {
      if (table.element.parentNode !== place) fill(place, table.element);
    } else if (looked !== null) fill(place, nothing());
  }

  function told(shown) {
    if (looked === null) return "";
    const all = `${count(shown)} ${shown === 1 ? "tenant" : "tenants"}`;
    if (looked !== prefix()) return `${all} so far; searching all tenants.`;
    return hasMore ? `The first ${all} of a longer list.` : all;
  }

  function nothing() {
    if (looked !== prefix()) return empty("Searching all tenants…");
    const which = state ? `${state} tenant` : "tenant";
    if (looked !== "") return empty(`No ${which} has an id that begins with ${looked}.`);
    if (state) return empty(`No tenant is ${state}.`);
    return empty("There are no tenants yet. ", app.allows("operate") ? "Create the first one." : "");
  }

  async function refresh(signal) {
    const sought = prefix();
    const answer = await list(sought, signal);
    [rows, hasMore, looked] = [answer.items, answer.next_cursor !== null, sought];
    show();
    await measure(signal);
  }

  async function list(prefix, signal) {
    if (!PREFIX.test(prefix)) return { items: [], next_cursor: null };
    return app.api.get("v1/tenants", { state, id_prefix: prefix, limit: wanted }, signal);
  }

  async function measure(signal) {
    // Ask only for the statistics of visible rows.
    const ids = rowsInSight(table.body).map((row) => row.dataset.id).slice(0, STATISTICS_MAX);
    if (ids.length === 0) return;
    const { items } = await app.api.get("v1/statistics", { tenant_id: ids }, signal);
    for (const statistics of items) meter.note(statistics, Date.now());
    table.update(matching());
  }

  return { title: "Tenants", element: page, refresh };
}

function columns(meter, isOnSeveral) {
  const load = ({ id }) => {
    const known = meter.of(id);
    if (known === null) return NOTHING;
    return known.isOpen ? rate(known.total) : "closed";
  };
  return [
    {
      title: "Tenant",
      isHeader: true,
      isLong: true,
      create: ({ id }) => [element("a", { href: `#/tenants/${encodeURIComponent(id)}` }, id), element("small")],
      update: (cell, tenant) => {
        cell.parentNode.dataset.id = tenant.id;
        const name = cell.lastChild;
        if (name.textContent !== tenant.display_name) fill(name, chosenName(tenant.display_name));
        // Hide a display name that equals the id.
        name.hidden = tenant.display_name === tenant.id;
      },
    },
    {
      title: "State",
      isLong: true,
      create: () => [badge(""), element("small")],
      update: (cell, tenant) => {
        const [mark, note] = cell.children;
        mark.dataset.state = tenant.state;
        setText(mark, tenant.state);
        setText(note, noteOf(tenant));
        note.hidden = note.textContent === "";
      },
    },
    { title: "Size", isNumber: true, text: ({ id }) => bytes(meter.of(id)?.bytes) },
    { title: "Load", isNumber: true, text: load },
    ...(isOnSeveral ? [{ title: "Back end", text: (tenant) => tenant.backend }] : []),
    { title: "Schema", text: (tenant) => versions(tenant.schema_versions) },
    { title: "Since", isMoment: true, text: (tenant) => moment(tenant.state_changed_at) },
  ];
}

function noteOf({ busy_with: busy, last_error: error, reason }) {
  if (busy) return `${busy.replaceAll("_", " ")} running`;
  return error ?? reason ?? "";
}

function rowsInSight(body) {
  const height = window.innerHeight;
  return Array.from(body.children).filter((row) => {
    const { top, bottom } = row.getBoundingClientRect();
    return bottom > -height && top < 2 * height;
  });
}
