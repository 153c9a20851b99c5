// The client of the API. The key stays in memory, and is sent only in a header and never in a URL.

// A URL relative to this file works wherever the service is mounted.
const BASE = new URL("../", import.meta.url);
const READ_TIMEOUT_MS = 10_000;
// Suspending a tenant waits for its running calls.
const WRITE_TIMEOUT_MS = 60_000;

/** The service refused a request, with problem details (RFC 9457). */
export class Problem extends Error {
  constructor(status, content) {
    super(content.detail || content.title || `the service responded with status ${status}`);
    this.status = status;
    this.type = content.type ?? "";
    this.retryAfterSeconds = content.retry_after_seconds ?? null;
  }
}

/** The service sent no response. */
export class Unreachable extends Error {
  constructor() {
    super("The service cannot be reached.");
    this.name = "Unreachable";
  }
}

/** Return a path with escaped parts: path`v1/tenants/${id}`. */
export function path(texts, ...parts) {
  return texts.reduce((all, text, at) => all + encodeURIComponent(parts[at - 1]) + text);
}

/** Return a key for one decision of the user. Every attempt sends the key, so that the decision takes effect once. */
export function newIdempotencyKey() {
  // Browsers do not offer crypto.randomUUID to pages that were loaded over plain HTTP.
  const random = crypto.getRandomValues(new Uint8Array(16));
  return `console-${Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

export class Api {
  #key;

  /**
   * @param {string} key
   * @param {() => void} onUnauthorized Called when the key is no longer valid.
   */
  constructor(key, onUnauthorized = () => {}) {
    this.#key = key;
    this.onUnauthorized = onUnauthorized;
  }

  /** Send a GET request, and return the JSON. A null in `query` is omitted; a list becomes repeated parameters. */
  async get(path, query = {}, signal = null) {
    const response = await this.#fetch("GET", withQuery(path, query), { signal });
    return response.json();
  }

  /** Send a GET request, and return the text, such as the metrics. */
  async text(path, signal = null) {
    const response = await this.#fetch("GET", path, { signal });
    return response.text();
  }

  /** Send a request that changes something. If no response arrives, a POST with `once` is retried once and takes effect once. */
  async send(method, path, { body = null, once = null, ifMatch = null } = {}) {
    const headers = {};
    if (body !== null) headers["Content-Type"] = "application/json";
    if (once !== null && method === "POST") headers["Idempotency-Key"] = once;
    if (ifMatch !== null) headers["If-Match"] = ifMatch;
    const request = { headers, body: body === null ? null : JSON.stringify(body), timeout: WRITE_TIMEOUT_MS };
    let response;
    try {
      response = await this.#fetch(method, path, request);
    } catch (error) {
      if (!(error instanceof Unreachable) || !("Idempotency-Key" in headers)) throw error;
      response = await this.#fetch(method, path, request);
    }
    return response.status === 204 ? null : response.json();
  }

  /** Yield the data of server-sent events. EventSource is not used, because it cannot send the key. */
  async *events(path, signal = null) {
    const response = await this.#fetch("GET", path, { accept: "text/event-stream", timeout: null, signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    try {
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        const events = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
        rest = events.pop();
        for (const event of events) {
          const data = event.split("\n").filter((line) => line.startsWith("data:"));
          if (data.length > 0) yield JSON.parse(data.map((line) => line.slice(5)).join("\n"));
        }
      }
    } catch (error) {
      throw error instanceof SyntaxError ? error : new Unreachable();
    } finally {
      reader.cancel().catch(() => {});
    }
  }

  async #fetch(method, path, { headers = {}, body = null, signal = null, accept = "*/*", timeout = READ_TIMEOUT_MS }) {
    const signals = [signal, timeout === null ? null : AbortSignal.timeout(timeout)].filter(Boolean);
    let response;
    try {
      response = await fetch(new URL(path, BASE), {
        method,
        body,
        headers: { Accept: accept, Authorization: `Bearer ${this.#key}`, ...headers },
        signal: AbortSignal.any(signals),
        cache: "no-store",
        referrerPolicy: "no-referrer",
        redirect: "error",
      });
    } catch (error) {
      // If the caller has aborted the request, raise the abort; every other failure means that the service is unreachable.
      if (signal?.aborted) throw error;
      throw new Unreachable();
    }
    if (response.ok) return response;
    if (response.status === 401) this.onUnauthorized();
    throw new Problem(response.status, await response.json().catch(() => ({})));
  }
}

function withQuery(path, query) {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== "") parameters.append(name, one);
    }
  }
  const text = parameters.toString();
  return text ? `${path}?${text}` : path;
}
