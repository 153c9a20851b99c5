// The page with the list of fleet jobs, newest first.

import { path } from "./api.js";
import { element, fill, setText } from "./dom.js";
import { count, moment } from "./format.js";
import { badge, empty, heading, Table } from "./parts.js";
import { start } from "./steering.js";

const PAGE_ROWS = 20;
const ROWS_MAX = 1_000;
const STATES = ["pending", "running", "paused", "stopped", "cancelled", "done"];

export function fleet(app, parameters) {
  const state = STATES.includes(parameters.get("state")) ? parameters.get("state") : "";
  const progress = new Map();
  let jobs = [];
  let wanted = PAGE_ROWS;

  const filter = element(
    "select",
    { id: "state", onchange: () => app.go(filter.value ? `#/fleet?state=${filter.value}` : "#/fleet") },
    element("option", { value: "" }, "all"),
    STATES.map((one) => element("option", { value: one, selected: one === state }, one)),
  );
  const tools = element(
    "div",
    { class: "tools" },
    element("div", { class: "field" }, element("label", { for: "state" }, "State"), filter),
  );
  const more = element("button", { type: "button", hidden: true, onclick: () => showMore() }, `Show ${PAGE_ROWS} more`);
  const place = element("div", {}, empty("Loading…"));
  const table = new Table("Jobs", columns((id) => progress.get(id)), ({ id }) => id);
  const page = element("div", {}, heading("Fleet"));
  if (app.isForFleet) page.append(tools, lacking(app), place, more);
  else page.append(empty("This key is limited to some tenants: jobs need a key for all tenants."));
  if (app.allows("admin")) {
    const begin = () => start(app, (job) => app.go(`#/fleet/${encodeURIComponent(job.id)}`));
    tools.append(element("button", { type: "button", class: "primary", onclick: begin }, "Start job"));
  }

  function showMore() {
    wanted = Math.min(wanted + PAGE_ROWS, ROWS_MAX);
    app.refresh();
  }

  async function refresh(signal) {
    if (!app.isForFleet) return;
    const answer = await app.api.get("v1/jobs", { state, limit: wanted }, signal);
    jobs = answer.items;
    // The progress of a done job no longer changes. Any other job may still be working on a tenant.
    const moving = jobs.filter(({ id }) => progress.get(id)?.state !== "done");
    const measured = await Promise.all(moving.map(({ id }) => app.api.get(path`v1/jobs/${id}`, {}, signal)));
    for (const one of measured) progress.set(one.job_id, one);
    show();
    more.hidden = answer.next_cursor === null || wanted >= ROWS_MAX;
  }

  function show() {
    table.update(jobs);
    if (jobs.length === 0) fill(place, empty(state ? `No job is ${state}.` : "There are no jobs yet."));
    else if (table.element.parentNode !== place) fill(place, table.element);
  }

  return { title: "Fleet", element: page, refresh };
}

/** Return a hint that is shown only to keys without the scope admin. */
export function lacking(app) {
  return element("p", { class: "hint", hidden: app.allows("admin") }, "Starting, pausing, resuming and cancelling jobs needs a key with the scope admin.");
}

/** Return an element for a job's progress: a bar with numbers. */
export function bar() {
  return element("div", { class: "bar" }, element("progress", { "aria-label": "Progress", value: 0 }), element("small"));
}

export function showBar(node, { total, left }) {
  const [line, words] = node.children;
  line.max = Math.max(total, 1);
  line.value = total - left;
  setText(words, total === 0 ? "No tenant was chosen" : `${count(total - left)} of ${count(total)}`);
}

function columns(progressOf) {
  const counted = (title, value) => ({
    title,
    isNumber: true,
    update: (cell, { id }) => {
      const known = progressOf(id);
      setText(cell, count(known && value(known)));
      cell.classList.toggle("bad", title === "Failed" && known?.failed > 0);
    },
  });
  return [
    {
      title: "Job",
      isHeader: true,
      isLong: true,
      create: ({ id, kind }) => [element("a", { href: `#/fleet/${encodeURIComponent(id)}` }, kind), element("small", {}, id)],
    },
    {
      title: "State",
      isLong: true,
      create: () => [badge(""), element("small")],
      update: (cell, { state, reason }) => {
        const [mark, note] = cell.children;
        mark.dataset.state = state;
        setText(mark, state);
        setText(note, reason ?? "");
        note.hidden = !reason;
      },
    },
    {
      title: "Progress",
      create: () => bar(),
      update: (cell, { id }) => progressOf(id) && showBar(cell.firstChild, progressOf(id)),
    },
    counted("Ok", ({ done, skipped }) => done - skipped),
    counted("Failed", ({ failed }) => failed),
    counted("Skipped", ({ skipped }) => skipped),
    { title: "Started", isMoment: true, text: (job) => moment(job.created_at) },
  ];
}
