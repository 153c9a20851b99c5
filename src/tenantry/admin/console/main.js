// The frame of the console: signing in and out, opening pages, and showing whether the data is fresh.

import { Activity } from "./activity.js";
import { Api, Problem } from "./api.js";
import { audit } from "./audit.js";
import { fill, setText } from "./dom.js";
import { fleet } from "./fleet.js";
import { count, time } from "./format.js";
import { History } from "./history.js";
import { job } from "./job.js";
import { overview } from "./overview.js";
import { Poller } from "./poll.js";
import { tenant } from "./tenant.js";
import { tenants } from "./tenants.js";

const KEPT_KEY = "tenantry.key";
const SCOPES = ["read", "operate", "admin"];
const at = (id) => document.getElementById(id);

/** The state of a session, which is dropped at sign-out. */
class App {
  #view = null;
  #leaving = new AbortController();
  #freshAt = null;

  constructor(api, caller, service) {
    this.api = api;
    this.caller = caller;
    this.service = service;
    this.history = new History(api);
    this.activity = new Activity(at("activity"), at("announcer"));
    this.poller = new Poller(() => this.#look(), (outcome) => this.#showOutcome(outcome));
  }

  /** The permissions and transitions of each lifecycle state, in order. */
  get states() {
    return this.service.states;
  }

  /** The names of the back ends that can keep tenants' databases; the default one is first. */
  get backends() {
    return this.service.backends.map(({ name }) => name);
  }

  /** Return the lifecycle states that allow a permission or a transition. */
  statesThatAllow(what) {
    return Object.keys(this.states).filter((state) => this.states[state].includes(what));
  }

  /** Whether the key is for all tenants. */
  get isForFleet() {
    return (this.caller.key?.tenants ?? null) === null;
  }

  /** Return whether the key has a scope; each scope in `SCOPES` includes the scopes before it. */
  allows(scope) {
    if (this.caller.key === null) return true;
    return this.caller.key.scopes.some((one) => SCOPES.indexOf(one) >= SCOPES.indexOf(scope));
  }

  /** Disable a button if the key lacks the scope, and return the button. The service checks the scope anyway. */
  needs(button, scope) {
    if (!this.allows(scope)) {
      button.disabled = true;
      button.title = `Needs a key with the scope ${scope}`;
    }
    return button;
  }

  go(hash) {
    if (location.hash === hash) this.open();
    else location.hash = hash;
  }

  refresh() {
    this.poller.now();
  }

  start() {
    this.open();
    this.poller.start();
    this.activity.resume(this.api, () => this.#lookAnew());
  }

  close() {
    this.poller.stop();
    this.#leaving.abort();
    this.activity.close();
  }

  /** Open the page in the address bar. */
  open() {
    this.#leaving.abort();
    this.#leaving = new AbortController();
    this.#view = viewOf(this);
    document.title = `${this.#view.title} – tenantry`;
    fill(at("view"), this.#view.element);
    at("problem").hidden = true;
    markCurrent();
    // Focus the heading: screen readers announce the heading, and keyboard users continue from the heading.
    this.#view.element.querySelector("h1").focus();
    scrollTo(0, 0);
    this.refresh();
  }

  /** Poll now, including the data that a page reads only after a change. */
  #lookAnew() {
    this.#view.changed?.();
    this.refresh();
  }

  showProblem(error) {
    setText(at("problem"), error.message);
    at("problem").hidden = false;
  }

  async #look() {
    const { signal } = this.#leaving;
    const results = await Promise.allSettled([this.history.look(), this.#view.refresh(signal)]);
    const failed = results.find(({ status }) => status === "rejected");
    // Ignore a failure if the user has opened another page in the meantime.
    if (failed !== undefined && !signal.aborted) throw failed.reason;
  }

  #showOutcome({ error, waitMs }) {
    const freshness = at("freshness");
    if (error === null) {
      this.#freshAt = Date.now();
      at("problem").hidden = true;
      freshness.dataset.state = "live";
      setText(freshness, "Live");
      return;
    }
    freshness.dataset.state = "stale";
    setText(freshness, this.#freshAt === null ? "No data" : `Stale since ${time(this.#freshAt)}`);
    const isExpected = error instanceof Problem || error.name === "Unreachable";
    const advice = `The next attempt is in ${count(waitMs / 1000)} s.`;
    this.showProblem(isExpected ? new Error(`${error.message} ${advice}`) : error);
  }

}

let app = null;

function viewOf(app) {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, id] = path.split("/");
  const parameters = new URLSearchParams(query);
  if (name === "tenants" && id) return tenant(app, decoded(id));
  if (name === "tenants") return tenants(app, parameters);
  if (name === "fleet" && id) return job(app, decoded(id));
  if (name === "fleet") return fleet(app, parameters);
  if (name === "audit") return audit(app, parameters);
  return overview(app);
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function markCurrent() {
  const name = location.hash.split(/[/?]/)[1] || "overview";
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#/${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

async function signIn(key, isKept) {
  if (!/^[\x21-\x7e]+$/.test(key)) throw new Error("This is not a key: keys begin with tnt_.");
  const api = new Api(key);
  const [caller, service] = await Promise.all([api.get("v1/caller"), api.get("v1/version")]);
  api.onUnauthorized = () => signOut("The key is no longer valid: it expired or was revoked.");
  if (isKept) sessionStorage.setItem(KEPT_KEY, key);
  app = new App(api, caller, service);
  at("fleet-link").hidden = !app.isForFleet;
  setText(at("caller"), callerName(caller));
  setText(at("bottom"), serviceName(service));
  show(true);
  app.start();
}

function signOut(why = "") {
  sessionStorage.removeItem(KEPT_KEY);
  app?.close();
  app = null;
  fill(at("view"));
  for (const dialog of document.querySelectorAll("dialog")) dialog.remove();
  at("problem").hidden = true;
  for (const id of ["freshness", "caller", "bottom"]) setText(at(id), "");
  showSignIn(why);
}

function showSignIn(why) {
  document.title = "tenantry console";
  show(false);
  setText(at("sign-in-problem"), why);
  at("sign-in-problem").hidden = why === "";
  at("key").focus();
}

function show(isSignedIn) {
  at("sign-in").hidden = isSignedIn;
  for (const id of ["top", "bottom"]) at(id).hidden = !isSignedIn;
}

function callerName({ name, key }) {
  if (key === null) return name;
  const scope = SCOPES.findLast((one) => key.scopes.includes(one));
  return `${key.name || `key ${key.id}`} (${scope})`;
}

function serviceName({ tenantry, backend, backend_version: version, engine }) {
  return `tenantry ${tenantry} on ${backend} ${version}, engine ${engine.name}. Times are ${zone()}.`;
}

function zone() {
  return Intl.DateTimeFormat().resolvedOptions().timeZone;
}

async function submitKey(event) {
  event.preventDefault();
  const [input, button] = [at("key"), at("sign-in-button")];
  button.disabled = true;
  at("sign-in-problem").hidden = true;
  try {
    await signIn(input.value.trim(), at("keep").checked);
  } catch (error) {
    showSignIn(error.message);
  } finally {
    // Clear the input, so that the key does not stay on the page.
    input.value = "";
    button.disabled = false;
  }
}

async function begin() {
  at("sign-in-form").addEventListener("submit", submitKey);
  at("sign-out").addEventListener("click", () => signOut());
  at("skip").addEventListener("click", (event) => {
    // The fragment of the address names the page, so the fragment must not become "#content".
    event.preventDefault();
    at("content").focus();
  });
  addEventListener("hashchange", () => app?.open());
  const kept = sessionStorage.getItem(KEPT_KEY);
  if (kept === null) showSignIn("");
  else await signIn(kept, true).catch((error) => signOut(error.message));
}

begin();
