// The actions taken on this page, with their results; operations with their steps as they happen.

import { path, Problem, Unreachable } from "./api.js";
import { element, keepInStep, setText } from "./dom.js";
import { capital, duration, seconds, words } from "./format.js";
import { forget, forgetAll, remember, underway } from "./underway.js";

// A browser opens six connections to one origin (HTTP/1.1): streams must leave some for everything else.
const STREAMS_MAX = 2;
const POLL_MS = 1_000;
const TICK_MS = 1_000;
const SUCCESS_SHOWN_MS = 8_000;
const ENTRIES_MAX = 6;

let streams = 0;

export class Activity {
  /**
   * @param {Element} place Where it is shown.
   * @param {Element} announcer Read aloud when its text changes.
   */
  constructor(place, announcer) {
    this.place = place;
    this.announcer = announcer;
    this.entries = [];
    this.isClosed = false;
    this.ticking = setInterval(() => this.#show(), TICK_MS);
    this.list = element("ul");
    place.replaceChildren(this.list);
    this.#show();
  }

  /** Show nothing more: what ends from now on is told to nobody. */
  close() {
    clearInterval(this.ticking);
    forgetAll();
    this.entries = [];
    this.#show();
    this.announcer.textContent = "";
    this.isClosed = true;
  }

  /** Show that something was done. */
  done(title) {
    this.#end(this.#add(title), "done", "Done.");
  }

  /**
   * Follow long work to its end, and return it as it is then.
   *
   * @param api
   * @param operation As the service answered.
   * @param {string} title What it does.
   * @param {number} at When it began, in milliseconds.
   */
  async follow(api, operation, title, at = Date.now()) {
    const entry = this.#add(title, at);
    if (operation.state === "running") remember({ id: operation.id, title, at });
    try {
      for await (const seen of progress(api, operation)) {
        operation = seen;
        entry.detail = told(seen);
        this.#show();
      }
      const hasFailed = operation.state === "failed";
      this.#end(entry, hasFailed ? "failed" : "done", hasFailed ? operation.problem.detail : doneIn(operation));
    } catch (error) {
      this.#end(entry, "failed", error.message);
    }
    forget(operation.id);
    return operation;
  }

  /**
   * Follow what was begun before the page was loaded anew, and call `onDone` when some of it has ended.
   *
   * What the service knows no longer, or does not tell this key, is left alone.
   */
  resume(api, onDone) {
    for (const { id, title, at } of underway()) this.#resume(api, id, title, at).then(onDone, () => {});
  }

  async #resume(api, id, title, at) {
    let operation;
    try {
      operation = await api.get(path`v1/operations/${id}`);
    } catch (error) {
      if (error instanceof Problem) forget(id);
      throw error;
    }
    await this.follow(api, operation, title, at);
  }

  #add(title, at = Date.now()) {
    const entry = { id: `${Date.now()} ${Math.random()}`, title, at, state: "running", detail: "" };
    this.entries = [entry, ...this.entries].slice(0, ENTRIES_MAX);
    this.#show();
    return entry;
  }

  #end(entry, state, detail) {
    Object.assign(entry, { state, detail });
    if (this.isClosed) return;
    this.#show();
    setText(this.announcer, `${entry.title}: ${detail}`);
    // A failure stays until it was seen.
    if (state === "done") setTimeout(() => this.#dismiss(entry), SUCCESS_SHOWN_MS);
  }

  #dismiss(entry) {
    this.entries = this.entries.filter((one) => one !== entry);
    this.#show();
  }

  #show() {
    if (this.isClosed) return;
    this.place.hidden = this.entries.length === 0;
    keepInStep(this.list, this.entries, ({ id }) => id, (entry) => this.#create(entry), update);
  }

  #create(entry) {
    const dismiss = element("button", { type: "button", class: "quiet", onclick: () => this.#dismiss(entry) }, "Dismiss");
    dismiss.setAttribute("aria-label", `Dismiss: ${entry.title}`);
    return element(
      "li",
      {},
      element("p", { class: "entry-title" }, entry.title),
      element("progress", { "aria-label": entry.title }),
      element("p", { class: "entry-detail" }),
      dismiss,
    );
  }
}

function update(node, entry) {
  const isRunning = entry.state === "running";
  node.dataset.state = entry.state;
  setText(node.querySelector(".entry-detail"), isRunning ? [entry.detail, runningFor(entry)].join(" ").trim() : entry.detail);
  node.querySelector("progress").hidden = !isRunning;
  node.querySelector("button").hidden = isRunning;
}

/** Yield an operation as it goes on, until it has ended. */
async function* progress(api, operation) {
  yield operation;
  if (streams < STREAMS_MAX) {
    streams += 1;
    try {
      for await (const seen of api.events(path`v1/operations/${operation.id}/events`)) {
        operation = seen;
        yield seen;
      }
    } catch (error) {
      // The stream broke off; the work did not.
      if (!(error instanceof Unreachable)) throw error;
    } finally {
      streams -= 1;
    }
  }
  while (operation.state === "running") {
    await new Promise((resume) => setTimeout(resume, POLL_MS));
    try {
      operation = await api.get(path`v1/operations/${operation.id}`);
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
      continue;
    }
    yield operation;
  }
}

function doneIn({ started_at: started, finished_at: finished }) {
  return `Done in ${seconds((new Date(finished) - new Date(started)) / 1000)}.`;
}

function told({ steps }) {
  return steps.length === 0 ? "" : `${capital(steps.map(words).join(", then "))}.`;
}

function runningFor({ at }) {
  return `Running for ${duration(Math.max(0, Date.now() - at) / 1000)}.`;
}
