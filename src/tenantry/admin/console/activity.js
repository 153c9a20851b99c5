// Shows the actions of this session with their results, and the live steps of operations.

import { path, Problem, Unreachable } from "./api.js";
import { element, keepInStep, setText } from "./dom.js";
import { capital, duration, seconds, words } from "./format.js";
import { forget, forgetAll, remember, underway } from "./underway.js";

// With HTTP/1.1 a browser opens six connections to one origin, so streams must leave connections for other requests.
const STREAMS_MAX = 2;
const POLL_MS = 1_000;
const TICK_MS = 1_000;
const SUCCESS_SHOWN_MS = 8_000;
const ENTRIES_MAX = 6;

let streams = 0;

export class Activity {
  /**
   * @param {Element} place The container of the list.
   * @param {Element} announcer The element whose text screen readers read aloud after a change.
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

  /** Remove all entries; operations that end later are not shown. */
  close() {
    clearInterval(this.ticking);
    forgetAll();
    this.entries = [];
    this.#show();
    this.announcer.textContent = "";
    this.isClosed = true;
  }

  /** Show that an action has succeeded. */
  done(title) {
    this.#end(this.#add(title), "done", "Done.");
  }

  /**
   * Follow an operation to its end, and return the ended operation.
   *
   * @param api
   * @param operation The operation in the service's response.
   * @param {string} title
   * @param {number} at The operation's start time in milliseconds.
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
   * Follow the operations that were started before a reload of the page, and call `onDone` after the end of each.
   *
   * Operations that the service has forgotten, or that this key may not see, are dropped.
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
    // A failure stays until the user dismisses the failure.
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

/** Yield an operation after each change until its end. */
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
      // Only the stream broke off; the operation continues, so poll the operation.
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
