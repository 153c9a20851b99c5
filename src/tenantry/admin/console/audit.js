// The page of the audit, newest first, with a verification of the hash chain.

import { element, fill, setText } from "./dom.js";
import { count, moment, NOTHING, words } from "./format.js";
import { empty, heading, Table, tenantLink } from "./parts.js";

const PAGE_ROWS = 50;

/** Return a table of audit entries, with or without a column for the tenant. */
export function auditTable(label, { hasTenant = true } = {}) {
  const columns = [
    { title: "When", isHeader: true, isMoment: true, text: ({ at }) => moment(at) },
    { title: "Who", isLong: true, text: ({ principal }) => principal },
    { title: "What", text: ({ action }) => words(action) },
    {
      title: "Tenant",
      isLong: true,
      update: (cell, { tenant_id: id }) => {
        if (id === null) setText(cell, NOTHING);
        else if (cell.textContent !== id) fill(cell, tenantLink(id));
      },
    },
    {
      title: "Outcome",
      create: () => element("span", { class: "badge" }),
      update: (cell, { outcome }) => {
        cell.firstChild.dataset.state = outcome === "ok" ? "ok" : "failed";
        setText(cell.firstChild, words(outcome));
      },
    },
    { title: "Detail", isLong: true, text: ({ detail }) => detailOf(detail) },
    { title: "No.", isNumber: true, text: ({ seq }) => count(seq) },
  ];
  return new Table(label, columns.filter(({ title }) => hasTenant || title !== "Tenant"), ({ seq }) => String(seq));
}

export function audit(app, parameters) {
  const tenantId = parameters.get("tenant") ?? "";
  const entries = new Map();
  let older = null;
  let isLoaded = false;

  const input = element("input", {
    id: "of", type: "search", value: tenantId, autocomplete: "off", autocapitalize: "off", spellcheck: "false",
    maxlength: 48,
  });
  const form = element(
    "form",
    { class: "tools", role: "search", onsubmit: (event) => filter(event) },
    element("div", { class: "field" }, element("label", { for: "of" }, "Tenant id"), input),
    element("button", {}, "Show"),
  );
  const verify = element("button", { type: "button", onclick: () => check() }, "Verify the chain");
  const verified = element("p", { class: "hint", role: "status" });
  if (app.isForFleet) form.append(verify);
  const table = auditTable("Audit");
  const place = element("div", {}, empty("Loading…"));
  const more = element("button", { type: "button", hidden: true, onclick: () => showOlder() }, "Show older");
  const page = element("div", {}, heading("Audit"), form, verified, place, more);

  function filter(event) {
    event.preventDefault();
    const id = input.value.trim();
    app.go(id ? `#/audit?tenant=${encodeURIComponent(id)}` : "#/audit");
  }

  async function refresh(signal) {
    if (!app.isForFleet && tenantId === "") {
      fill(place, empty("This key is limited to some tenants: choose the tenant to show."));
      return;
    }
    const answer = await fetchPage(null, signal);
    const isAllNew = isLoaded && !answer.items.some(({ seq }) => entries.has(seq));
    // If no entry is known, entries since the last poll are missing: clear the list to avoid a gap.
    if (isAllNew && answer.items.length > 0) entries.clear();
    if (entries.size === 0) older = answer.next_cursor;
    isLoaded = true;
    add(answer.items);
  }

  async function showOlder() {
    more.disabled = true;
    try {
      const answer = await fetchPage(older, null);
      older = answer.next_cursor;
      add(answer.items);
    } catch (error) {
      app.showProblem(error);
    } finally {
      more.disabled = false;
    }
  }

  function fetchPage(cursor, signal) {
    return app.api.get("v1/audit", { tenant_id: tenantId, limit: PAGE_ROWS, cursor }, signal);
  }

  function add(items) {
    for (const entry of items) entries.set(entry.seq, entry);
    const shown = Array.from(entries.values()).sort((one, other) => other.seq - one.seq);
    table.update(shown);
    more.hidden = older === null;
    if (shown.length === 0) fill(place, empty(tenantId ? `The audit has no entries of ${tenantId}.` : "The audit has no entries yet."));
    else if (table.element.parentNode !== place) fill(place, table.element);
  }

  async function check() {
    verify.disabled = true;
    setText(verified, "Verifying…");
    try {
      const { is_intact: isIntact, rows, hash, problem } = await app.api.get("v1/audit/verification");
      setText(verified, isIntact ? `Intact: ${count(rows)} rows, the last hash is ${hash}` : `Not intact: ${problem}`);
      verified.classList.toggle("problem", !isIntact);
    } catch (error) {
      setText(verified, error.message);
    } finally {
      verify.disabled = false;
    }
  }

  return { title: "Audit", element: page, refresh };
}

function detailOf(detail) {
  const said = Object.entries(detail).filter(([, value]) => value !== null && value !== "");
  return said.map(([name, value]) => `${words(name)}: ${told(value)}`).join(", ");
}

function told(value) {
  if (Array.isArray(value) && value.every((one) => typeof one !== "object")) return value.join(" and ");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
