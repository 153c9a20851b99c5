// The page of one tenant, with its facts, actions, snapshots and audit entries.

import { ACTIONS, create, isOffered, labelOf, perform, SNAPSHOT_ACTIONS } from "./actions.js";
import { path, Problem } from "./api.js";
import { auditTable } from "./audit.js";
import { Chart, ChartGroup } from "./chart.js";
import { element, fill, keepInStep, setText } from "./dom.js";
import { bytes, count, moment, rate, versions, words } from "./format.js";
import { LoadMeter } from "./load.js";
import { badge, Buttons, chosenName, empty, Facts, heading, Table } from "./parts.js";

const AUDIT_ROWS = 10;
const POINTS_MAX = 150;
const FACTS = [
  "Size", "Open", "Calls since it was opened", "Waiting", "Refused", "Timed out", "Back end", "Schema",
  "Limits", "Protected from deletion", "In this state since", "Created", "Next snapshot", "Former id", "Open in", "Stable key",
];

export function tenant(app, id) {
  const meter = new LoadMeter();
  const points = [];
  let known = null;
  let seen = null;
  let canUndo = false;
  let missing = null;

  const name = element("p", { class: "display-name" });
  const state = badge("");
  const notice = element("p", { class: "notice", hidden: true });
  const buttons = new Buttons("Actions", (action) => {
    const button = element("button", { type: "button", class: action.isDangerous && "danger" }, labelOf(action));
    button.addEventListener("click", () => perform(app, action, known, null, changed));
    return app.needs(button, action.scope);
  });
  const lacking = element("p", { class: "hint", hidden: true });
  const facts = new Facts(FACTS);
  const charts = new ChartGroup([
    new Chart({
      title: "Load",
      lines: [{ key: "read", label: "reads" }, { key: "write", label: "writes" }],
      format: rate,
    }),
  ]);
  const snapshots = new Table("Snapshots", snapshotColumns(app, () => known, changed), (snapshot) => snapshot.id);
  const damaged = element("p", { class: "notice", hidden: true });
  const snapshotsPlace = element("div", {}, empty("Loading…"));
  const audit = auditTable("Latest audit entries", { hasTenant: false });
  const auditPlace = element("div", {}, empty("Loading…"));
  const content = element(
    "div",
    {},
    name,
    notice,
    buttons.element,
    lacking,
    facts.element,
    charts.element,
    element("h2", {}, "Snapshots"),
    damaged,
    snapshotsPlace,
    element("h2", {}, "Latest audit entries"),
    auditPlace,
    element("p", {}, element("a", { href: `#/audit?tenant=${encodeURIComponent(id)}` }, "All audit entries of this tenant")),
  );
  const body = element("div", {}, empty("Loading…"));
  const title = heading(id);
  const page = element(
    "div",
    {},
    element("p", { class: "back" }, element("a", { href: "#/tenants" }, "All tenants")),
    element("div", { class: "title" }, title, state),
    body,
  );

  async function refresh(signal) {
    try {
      await look(signal);
    } catch (error) {
      if (!(error instanceof Problem) || ![404, 422].includes(error.status)) throw error;
      showMissing(error);
    }
  }

  async function look(signal) {
    const tenant = await app.api.get(path`v1/tenants/${id}`, {}, signal);
    const hasChanged = tenant.revision !== known?.revision;
    known = tenant;
    showTenant();
    if (!tenant.allows.includes("exist")) return;
    const statistics = await app.api.get(path`v1/tenants/${id}/statistics`, {}, signal);
    showLoad(statistics);
    if (hasChanged) seen = null;
    if (seen === null) await lookBack(signal);
  }

  // Snapshots, restore points and the audit are read only after the tenant has changed, and not every two seconds, because the
  // snapshot storage may be slow.
  async function lookBack(signal) {
    const mark = {};
    seen = mark;
    try {
      const [kept, replaced, done] = await Promise.all([
        app.api.get(path`v1/tenants/${id}/snapshots`, {}, signal),
        app.api.get(path`v1/tenants/${id}/restore-points`, {}, signal),
        app.api.get("v1/audit", { tenant_id: id, limit: AUDIT_ROWS }, signal),
      ]);
      setText(damaged, `Delete these damaged snapshots: ${kept.damaged.join(", ")}.`);
      damaged.hidden = kept.damaged.length === 0;
      canUndo = replaced.items.length > 0;
      showActions();
      showList(snapshots, snapshotsPlace, kept.items, "No snapshots yet. A snapshot keeps the tenant's current data.");
      showList(audit, auditPlace, done.items, "No audit entries yet.");
    } catch (error) {
      if (seen === mark) seen = null;
      throw error;
    }
  }

  function showTenant() {
    if (content.parentNode !== body) fill(body, content);
    state.hidden = false;
    state.dataset.state = known.state;
    setText(state, known.state);
    if (name.textContent !== known.display_name) fill(name, chosenName(known.display_name));
    name.hidden = known.display_name === known.id;
    const notes = [
      known.busy_with && `The operation ${words(known.busy_with)} is running.`,
      known.reason && `Reason: ${known.reason}`,
      known.last_error && `Last error: ${known.last_error}`,
      known.purge_after && `The tenant is purged after ${moment(known.purge_after)}.`,
    ].filter(Boolean);
    setText(notice, notes.join("\n"));
    notice.hidden = notes.length === 0;
    showActions();
    facts.set("Back end", known.backend);
    facts.set("Schema", versions(known.schema_versions));
    facts.set("In this state since", moment(known.state_changed_at));
    facts.set("Created", moment(known.created_at));
    facts.set("Protected from deletion", known.deletion_protected ? "yes" : null);
    facts.set("Next snapshot", known.snapshot_due_at && moment(known.snapshot_due_at));
    facts.set("Former id", known.previous_id);
    facts.set("Open in", known.owner ? `process ${known.owner.pid} on ${known.owner.host}` : null);
    facts.set("Limits", limitsOf(known.limits));
    facts.set("Stable key", known.uid);
  }

  function showActions() {
    const canMove = app.backends.length > 1;
    const isPossible = ({ name }) => (canUndo || name !== "undo_restore") && (canMove || name !== "move");
    const offered = ACTIONS.filter((action) => isOffered(action, known) && isPossible(action));
    buttons.update(offered);
    const missing = [...new Set(offered.map(({ scope }) => scope))].filter((scope) => !app.allows(scope));
    setText(lacking, `Some actions need a key with the scope ${missing.join(" or ")}.`);
    lacking.hidden = missing.length === 0;
  }

  function showLoad(statistics) {
    const now = Date.now();
    meter.note(statistics, now);
    const { read, write, isOpen } = meter.of(id);
    points.push({ at: now, read, write });
    if (points.length > POINTS_MAX) points.shift();
    charts.update(points);
    // Hide the charts of a tenant that serves no calls and has served none since the page was opened.
    charts.element.hidden = !known.allows.includes("read") && points.every((point) => point.read === null);
    const sides = [statistics.read, statistics.write].filter(Boolean);
    const total = (counter) => sides.reduce((sum, side) => sum + side[counter], 0);
    facts.set("Size", bytes(statistics.database_bytes));
    facts.set("Open", isOpen ? "yes" : "no");
    facts.set("Calls since it was opened", isOpen ? count(total("calls")) : null);
    facts.set("Waiting", isOpen ? count(total("waiting_requests")) : null);
    facts.set("Refused", isOpen ? count(total("refused")) : null);
    facts.set("Timed out", isOpen ? count(total("timed_out")) : null);
  }

  function showMissing(error) {
    known = null;
    state.hidden = true;
    // Each poll calls this function; keep the button, or the button loses the focus.
    if (missing?.parentNode === body) return;
    const make = element("button", { type: "button", onclick: () => create(app, changed, id) }, "Create this tenant");
    missing = empty(error.status === 404 ? `Tenant ${id} does not exist.` : error.message);
    fill(body, missing, make);
    if (error.status === 404) app.needs(make, "operate");
    else make.remove();
  }

  function changed(answer, before) {
    // A long operation may end after the user has opened another page, which must stay open.
    if (!page.isConnected) return;
    seen = null;
    // Compare with the tenant before the action, because a poll in the meantime may have found no tenant with this id.
    const isOfThisOne = answer?.uid !== undefined && answer.uid === before?.uid;
    if (isOfThisOne && !answer.allows.includes("exist")) app.go("#/tenants");
    // After a rename, follow the tenant to its new address. After a clone, stay on this tenant's page.
    else if (isOfThisOne && answer.id !== id) app.go(`#/tenants/${answer.id}`);
    else app.refresh();
  }

  return { title: id, element: page, refresh, changed: () => changed(null, null) };
}

function snapshotColumns(app, tenant, changed) {
  return [
    { title: "Taken", isHeader: true, isMoment: true, text: (snapshot) => moment(snapshot.created_at) },
    { title: "Trigger", text: (snapshot) => snapshot.trigger },
    { title: "Rows", isNumber: true, text: ({ row_counts: rows }) => count(total(rows)) },
    { title: "Size", isNumber: true, text: (snapshot) => bytes(snapshot.database_bytes) },
    { title: "Stored size", isNumber: true, text: (snapshot) => bytes(snapshot.stored_bytes) },
    {
      title: "Actions",
      create: (snapshot) => element("div", { class: "buttons", role: "group", "aria-label": `Snapshot ${snapshot.id}` }),
      update: (cell, snapshot) => {
        const offered = SNAPSHOT_ACTIONS.filter((action) => isOffered(action, tenant()));
        keepInStep(cell.firstChild, offered, (action) => action.name, (action) => {
          const button = element("button", { type: "button", class: action.isDangerous && "danger" }, labelOf(action));
          button.addEventListener("click", () => perform(app, action, tenant(), snapshot, changed));
          return app.needs(button, action.scope);
        });
      },
    },
  ];
}

function showList(table, place, items, nothing) {
  table.update(items);
  if (items.length === 0) fill(place, empty(nothing));
  else if (table.element.parentNode !== place) fill(place, table.element);
}

function total(rows) {
  return Object.values(rows).reduce((sum, one) => sum + one, 0);
}

function limitsOf(limits) {
  const texts = [
    limits.database_bytes_max !== null && bytes(limits.database_bytes_max),
    limits.calls_per_second_max !== null && `${rate(limits.calls_per_second_max)} calls`,
    limits.calls_burst_max !== null && `${count(limits.calls_burst_max)} calls at once`,
    limits.calls_in_flight_max !== null && `${count(limits.calls_in_flight_max)} calls in flight`,
    limits.durability !== null && `durability ${limits.durability}`,
  ].filter(Boolean);
  return texts.length > 0 ? texts.join(", ") : "no tenant-specific limits";
}
