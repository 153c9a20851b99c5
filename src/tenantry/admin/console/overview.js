// The overview page of the service: tenants by state, throughput, latency, and the busiest tenants.

import { Chart, ChartGroup } from "./chart.js";
import { element, fill, keepInStep, setText } from "./dom.js";
import { count, decimal, rate, seconds } from "./format.js";
import { empty, heading, Table, tenantLink } from "./parts.js";

const TOP_TENANTS = 10;

export function overview(app) {
  const states = element("ul", { class: "states" });
  const charts = new ChartGroup([
    new Chart({
      title: "Throughput",
      lines: [{ key: "ok", label: "answered" }, { key: "failed", label: "refused or failed" }],
      format: rate,
    }),
    new Chart({
      title: "Latency",
      lines: [{ key: "p50", label: "p50" }, { key: "p99", label: "p99" }],
      format: seconds,
      least: 0.001,
    }),
    new Chart({
      title: "Batch size",
      lines: [{ key: "writeBatch", label: "writes per batch" }, { key: "readBatch", label: "reads per batch" }],
      format: decimal,
      least: 2,
    }),
    new Chart({
      title: "Pool occupancy",
      lines: [{ key: "open", label: "open" }, { key: "used", label: "in use" }],
      format: count,
      least: 2,
      isExact: true,
    }),
  ]);
  const pool = charts.charts.at(-1);
  const chartsPlace = element("section", { "aria-label": "Load" }, charts.element);
  const busiest = new Table(
    "Busiest tenants",
    [
      { title: "Tenant", isHeader: true, isLong: true, create: ({ tenant_id: id }) => tenantLink(id) },
      { title: "Calls", isNumber: true, text: ({ calls_per_second: calls }) => rate(calls) },
    ],
    ({ tenant_id: id }) => id,
  );
  const busiestPlace = element("div", { class: "narrow" }, empty("Loading…"));
  const page = element(
    "div",
    {},
    heading("Overview"),
    states,
    chartsPlace,
    element("h2", {}, "Busiest tenants of the last minute"),
    busiestPlace,
  );

  function showHistory() {
    if (!app.history.isServed) {
      fill(chartsPlace, empty("No charts: the metrics are served at another port."));
      states.hidden = true;
      return;
    }
    const { now, points } = app.history;
    if (now !== null && now.capacity !== null) {
      pool.least = now.capacity;
      const waiting = now.waiters > 0 ? `, ${count(now.waiters)} callers wait` : "";
      setText(pool.element.querySelector("figcaption"), `Pool occupancy, of ${count(now.capacity)}${waiting}`);
    }
    charts.update(points);
    showStates(now?.tenants ?? {});
  }

  function showStates(tenants) {
    // Show a state without tenants only if tenants serve calls in this state.
    const shown = app.statesThatAllow("exist").filter((state) => app.states[state].includes("read") || tenants[state] > 0);
    keepInStep(
      states,
      shown,
      (state) => state,
      (state) => element("li", {}, element("a", { href: `#/tenants?state=${state}` }, element("b"), ` ${state}`)),
      (node, state) => setText(node.querySelector("b"), count(tenants[state] ?? 0)),
    );
  }

  async function refresh(signal) {
    showHistory();
    if (!app.isForFleet) {
      fill(busiestPlace, empty("This key is limited to some tenants: ", element("a", { href: "#/tenants" }, "see the tenants"), "."));
      return;
    }
    const { items } = await app.api.get("v1/statistics/top", { limit: TOP_TENANTS }, signal);
    busiest.update(items);
    if (items.length === 0) fill(busiestPlace, empty("No calls in the last minute."));
    else if (busiest.element.parentNode !== busiestPlace) fill(busiestPlace, busiest.element);
  }

  showHistory();
  return { title: "Overview", element: page, refresh };
}
