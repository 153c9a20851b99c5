// Converts the samples of `/metrics` to the charts' rates and quantiles between two polls.

const PREFIX = "tenantry_";
// The service's own operations on its catalog, such as this page's requests, are not tenants' load.
const OWN_OPERATIONS = new Set(["audit", "catalog", "clock", "fleet", "keys", "recorded_responses", "schemas"]);
const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;

/**
 * Parse tenantry's metrics in the text format (https://prometheus.io/docs/instrumenting/exposition_formats/).
 *
 * @returns {Map<string, Array<{labels: Object, value: number}>>} The samples by name.
 */
export function parse(text) {
  const samples = new Map();
  for (const line of text.split("\n")) {
    const found = line.startsWith(PREFIX) ? LINE.exec(line) : null;
    if (found === null) continue;
    const [, name, labels = "", value] = found;
    const sample = { labels: parseLabels(labels), value: toNumber(value) };
    if (samples.has(name)) samples.get(name).push(sample);
    else samples.set(name, [sample]);
  }
  return samples;
}

/** Reduce samples to the counts that the charts need; `at` is the time in milliseconds. */
export function lookAt(samples, at) {
  const all = (name) => samples.get(PREFIX + name) ?? [];
  const only = (name) => all(name)[0]?.value ?? null;
  const tenants = all("tenants").map(({ labels, value }) => [labels.state, value]);
  return {
    at,
    ok: sum(all("query_duration_seconds_count"), (labels) => isTenants(labels) && labels.outcome === "ok"),
    failed: sum(all("query_duration_seconds_count"), (labels) => isTenants(labels) && labels.outcome !== "ok"),
    latency: buckets(all("query_duration_seconds_bucket"), isTenants),
    write: batches(all, "write"),
    read: batches(all, "read"),
    open: only("pool_open_tenants"),
    idle: only("pool_idle_tenants"),
    capacity: only("pool_capacity_tenants"),
    waiters: only("pool_waiters"),
    tenants: Object.fromEntries(tenants),
  };
}

/**
 * Return the rates and quantiles between two polls; an unknown value is null.
 *
 * @param before The previous poll's counts.
 * @param now
 * @param earlier The counts of an earlier poll, because quantiles over a longer time fluctuate less.
 */
export function between(before, now, earlier = before) {
  const seconds = (now.at - before.at) / 1000;
  const perSecond = (name) => rise(before[name], now[name], seconds);
  const latency = subtract(now.latency, earlier.latency);
  return {
    at: now.at,
    ok: perSecond("ok"),
    failed: perSecond("failed"),
    p50: quantile(0.5, latency),
    p99: quantile(0.99, latency),
    writeBatch: batchSize(before.write, now.write),
    readBatch: batchSize(before.read, now.read),
    open: now.open,
    used: now.open === null ? null : now.open - now.idle,
    capacity: now.capacity,
  };
}

/**
 * Return a quantile of a histogram, with linear interpolation within the bucket like Prometheus' histogram_quantile.
 *
 * @param {number} q From 0 to 1.
 * @param {Array<[number, number]>?} cumulative Pairs of an upper bound and a cumulative count; the last bound is infinite.
 */
export function quantile(q, cumulative) {
  if (cumulative === null || cumulative.length < 2) return null;
  const total = cumulative.at(-1)[1];
  if (!(total > 0)) return null;
  const rank = q * total;
  const at = cumulative.findIndex(([, count]) => count >= rank);
  // A quantile in the infinite bucket is unknown, so return the largest finite bound.
  if (cumulative[at][0] === Infinity) return cumulative.at(-2)[0];
  const [lower, below] = at === 0 ? [0, 0] : cumulative[at - 1];
  const [upper, count] = cumulative[at];
  return lower + (upper - lower) * ((rank - below) / (count - below));
}

/** Return a counter's rate per second; null if the counter was reset in the meantime. */
export function rise(before, now, seconds) {
  if (before === null || now === null || now < before || !(seconds > 0)) return null;
  return (now - before) / seconds;
}

function parseLabels(text) {
  const labels = {};
  for (const [, name, value] of text.matchAll(LABEL)) {
    labels[name] = value.replace(/\\(.)/g, (_, escaped) => (escaped === "n" ? "\n" : escaped));
  }
  return labels;
}

function toNumber(text) {
  return text === "+Inf" ? Infinity : text === "-Inf" ? -Infinity : Number(text);
}

function isTenants(labels) {
  return !OWN_OPERATIONS.has(labels.operation.split(".", 1)[0]);
}

function sum(samples, isWanted) {
  return samples.reduce((total, { labels, value }) => (isWanted(labels) ? total + value : total), 0);
}

function buckets(samples, isWanted) {
  const counts = new Map();
  for (const { labels, value } of samples) {
    if (!isWanted(labels)) continue;
    const bound = toNumber(labels.le);
    counts.set(bound, (counts.get(bound) ?? 0) + value);
  }
  return counts;
}

function batches(all, channel) {
  const isWanted = (labels) => labels.channel === channel;
  return { calls: sum(all("batch_requests_sum"), isWanted), batches: sum(all("batch_requests_count"), isWanted) };
}

function batchSize(before, now) {
  const ran = now.batches - before.batches;
  return ran > 0 ? (now.calls - before.calls) / ran : null;
}

function subtract(now, before) {
  const bounds = Array.from(now.keys()).sort((one, other) => one - other);
  const left = bounds.map((bound) => [bound, now.get(bound) - (before.get(bound) ?? 0)]);
  return left.some(([, count]) => count < 0) ? null : left;
}
