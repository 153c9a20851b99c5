// The page of one fleet job, with its live progress, its actions and the results of its tenants.

import { labelOf } from "./actions.js";
import { path, Problem, Unreachable } from "./api.js";
import { element, fill, setText } from "./dom.js";
import { bar, lacking, showBar } from "./fleet.js";
import { count, duration, moment, rate, seconds, versions, words } from "./format.js";
import { badge, Buttons, empty, Facts, heading, Table, tenantLink } from "./parts.js";
import { JOB_ACTIONS, steer } from "./steering.js";

const JOBS_ASKED = 100;
const ROWS = 50;
const ROWS_MAX = 1_000;
const LIVE = ["pending", "running"];
const OUTCOMES = { failed: "failed", left: "unfinished", skipped: "skipped", ok: "ok", "": "all" };
const FACTS = [
  "Ok", "Failed", "Skipped", "Left", "Wave", "Rate", "Time left", "Tenants", "First wave", "Failures allowed", "Concurrency",
  "Snapshot before", "Arguments", "Started", "In this state since", "By",
];

export function job(app, id) {
  let known = null;
  let isFollowed = false;
  let rows = ROWS;
  let shown = null;

  const state = badge("");
  state.setAttribute("role", "status");
  const title = heading("Job");
  const notice = element("p", { class: "notice", hidden: true });
  const buttons = new Buttons("Actions", (action) => {
    const button = element("button", { type: "button", class: action.isDangerous && "danger" }, labelOf(action));
    button.addEventListener("click", () => steer(app, action, known, () => app.refresh()));
    return button;
  });
  const line = bar();
  const facts = new Facts(FACTS);
  const outcome = element(
    "select",
    { id: "outcome", onchange: () => showOthers(ROWS) },
    Object.entries(OUTCOMES).map(([value, says]) => element("option", { value }, says)),
  );
  const results = new Table("Results", columns(), ({ tenant_uid: uid }) => uid);
  const place = element("div", {}, empty("Loading…"));
  const more = element("button", { type: "button", hidden: true, onclick: () => showOthers(rows + ROWS) }, `Show ${ROWS} more`);
  const content = element(
    "div",
    {},
    notice,
    buttons.element,
    lacking(app),
    line,
    facts.element,
    element("h2", {}, "Results by tenant"),
    element("div", { class: "tools" }, element("div", { class: "field" }, element("label", { for: "outcome" }, "Show"), outcome)),
    place,
    more,
  );
  const body = element("div", {}, empty("Loading…"));
  const page = element(
    "div",
    {},
    element("p", { class: "back" }, element("a", { href: "#/fleet" }, "All jobs")),
    element("div", { class: "title" }, title, state),
    element("p", { class: "hint" }, id),
    body,
  );

  async function refresh(signal) {
    try {
      await look(signal);
    } catch (error) {
      if (!(error instanceof Problem) || error.status !== 404) throw error;
      fill(body, empty(`Job ${id} does not exist.`));
    }
  }

  async function look(signal) {
    const before = known;
    show(await app.api.get(path`v1/jobs/${id}`, {}, signal));
    if (before?.state !== known.state) showJob(await find(signal));
    await lookAtResults(signal);
    if (!isFollowed && LIVE.includes(known.state)) follow(signal);
  }

  // The stream shows the progress between two polls. If the stream breaks off, the polls continue.
  async function follow(signal) {
    isFollowed = true;
    try {
      for await (const seen of app.api.events(path`v1/jobs/${id}/events`, signal)) show(seen);
      app.refresh();
    } catch (error) {
      if (!signal.aborted && !(error instanceof Unreachable)) app.showProblem(error);
    } finally {
      isFollowed = false;
    }
  }

  function show(progress) {
    known = progress;
    if (content.parentNode !== body) fill(body, content);
    setText(title, progress.kind);
    state.dataset.state = progress.state;
    setText(state, progress.state);
    setText(notice, progress.reason ? `Reason: ${progress.reason}` : "");
    notice.hidden = !progress.reason;
    buttons.update(app.allows("admin") ? JOB_ACTIONS.filter(({ from }) => from.includes(progress.state)) : []);
    showBar(line, progress);
    facts.set("Ok", count(progress.done - progress.skipped));
    facts.set("Failed", count(progress.failed));
    facts.set("Skipped", count(progress.skipped));
    facts.set("Left", count(progress.left));
    facts.set("Wave", progress.waves > 1 ? `${count(progress.wave)} of ${count(progress.waves)}` : null);
    facts.set("Rate", progress.rate_per_second === null ? null : rate(progress.rate_per_second));
    facts.set("Time left", progress.seconds_left === null ? null : duration(progress.seconds_left));
  }

  // Only the list of jobs has a job's options. The list is ordered by id, newest first.
  async function find(signal) {
    let cursor = null;
    do {
      const answer = await app.api.get("v1/jobs", { limit: JOBS_ASKED, cursor }, signal);
      const found = answer.items.find((one) => one.id === id);
      if (found !== undefined) return found;
      cursor = answer.items.at(-1)?.id > id ? answer.next_cursor : null;
    } while (cursor !== null);
    return null;
  }

  function showJob(started) {
    if (started === null) return;
    const { options } = started;
    facts.set("Tenants", chosenBy(options));
    facts.set("First wave", options.canary === null ? null : firstWave(options));
    facts.set("Failures allowed", allowed(options.failures_max));
    facts.set("Concurrency", count(options.concurrency));
    facts.set("Snapshot before", options.snapshot_before ? snapshotOf(options) : null);
    facts.set("Arguments", Object.keys(options.arguments).length > 0 ? JSON.stringify(options.arguments) : null);
    facts.set("Started", moment(started.created_at));
    facts.set("In this state since", moment(started.state_changed_at));
    facts.set("By", started.created_by);
  }

  // The results are read only after a tenant was finished, and not every two seconds.
  async function lookAtResults(signal) {
    const { done, failed } = known;
    const wanted = [outcome.value, rows, done, failed].join();
    if (wanted === shown) return;
    const answer = await app.api.get(path`v1/jobs/${id}/results`, { outcome: outcome.value, limit: rows }, signal);
    shown = wanted;
    results.update(answer.items);
    more.hidden = answer.next_cursor === null || rows >= ROWS_MAX;
    if (answer.items.length === 0) fill(place, empty(outcome.value === "failed" ? "No tenant has failed." : "No tenants."));
    else if (results.element.parentNode !== place) fill(place, results.element);
  }

  function showOthers(wanted) {
    rows = Math.min(wanted, ROWS_MAX);
    app.refresh();
  }

  return { title: "Job", element: page, refresh };
}

function columns() {
  return [
    { title: "Tenant", isHeader: true, isLong: true, create: ({ tenant_id: id }) => tenantLink(id) },
    {
      title: "Outcome",
      create: () => element("span", { class: "badge" }),
      update: (cell, { outcome }) => {
        const isFailure = outcome !== null && !["ok", "skipped"].includes(outcome);
        cell.firstChild.dataset.state = isFailure ? "failed" : outcome;
        setText(cell.firstChild, words(outcome ?? "unfinished"));
      },
    },
    { title: "Error", isLong: true, text: ({ error, detail }) => error ?? detailOf(detail) },
    { title: "Duration", isNumber: true, text: ({ seconds: took }) => seconds(took) },
    { title: "When", isMoment: true, text: ({ finished_at: at }) => moment(at) },
  ];
}

function detailOf(detail) {
  const texts = Object.entries(detail).map(([name, value]) => {
    return `${words(name)}: ${typeof value === "object" ? JSON.stringify(value) : value}`;
  });
  return texts.join(", ");
}

function chosenBy({ states, id_prefix: prefix, below }) {
  const texts = [states.join(" or "), prefix && `ids that begin with ${prefix}`, below && `below ${versions(below)}`];
  return texts.filter(Boolean).join(", ");
}

function firstWave({ canary, canary_failures_max: most }) {
  return `${canary}, ${allowed(most)} may fail`;
}

function allowed(most) {
  if (most === null) return "any number";
  return most > 0 && most < 1 ? `${count(most * 100)}%` : count(most);
}

function snapshotOf({ return_on_failure: isReturned }) {
  return isReturned ? "yes, restored on failure" : "yes";
}
