// Draws line charts of the last minutes as SVG, with a description for screen readers.

import { element, fill, setText, shape } from "./dom.js";
import { NOTHING, time } from "./format.js";
import { GAP_MS, SHOWN_MS } from "./history.js";

const HEIGHT = 132;
const MARGIN = { top: 8, right: 16, bottom: 20, left: 58 };
const GRID_LINES = 3;
const MINUTE_MS = 60_000;

/** A chart that draws its lines from points of the form {at, <key>: number or null}. */
export class Chart {
  /**
   * @param {string} title
   * @param {Array<{key: string, label: string}>} lines The second line is dashed, so that the lines differ without colours.
   * @param {(value: number) => string} format Returns a value with its unit.
   * @param {number} least The smallest maximum of the value axis.
   * @param {boolean} isExact Whether the maximum of the value axis is not rounded up.
   */
  constructor({ title, lines, format, least = 1, isExact = false }) {
    this.title = title;
    this.lines = lines;
    this.format = format;
    this.least = least;
    this.isExact = isExact;
    this.points = [];
    this.chosen = null;
    this.drawing = shape("svg", { role: "img", class: "drawing" });
    this.readings = lines.map(() => element("b", {}, NOTHING));
    this.element = element(
      "figure",
      { class: "chart" },
      element("figcaption", {}, title),
      element("p", { class: "readings" }, lines.map((line, at) => this.#reading(line, at))),
      this.drawing,
    );
    this.resizing = new ResizeObserver(() => this.#draw());
    this.resizing.observe(this.element);
  }

  /** Show these points, with the readings of the point `chosen`, or of the last point if `chosen` is null. */
  update(points, chosen = null) {
    this.points = points;
    this.chosen = chosen;
    const told = chosen ?? points.at(-1);
    this.lines.forEach(({ key }, at) => setText(this.readings[at], told ? this.#told(told[key]) : NOTHING));
    this.#draw();
  }

  /** Return the point nearest to a horizontal position in the window, or null without points. */
  pointAt(clientX) {
    const box = this.drawing.getBoundingClientRect();
    const distance = ({ at }) => Math.abs(this.#x(at) + box.left - clientX);
    return this.points.reduce((best, one) => (best && distance(best) <= distance(one) ? best : one), null);
  }

  #reading(line, at) {
    const sample = shape("svg", { class: "sample", "aria-hidden": "true", width: 18, height: 8 });
    sample.append(shape("path", { class: `line line-${at}`, d: "M0 4H18" }));
    return element("span", {}, sample, this.readings[at], ` ${line.label}`);
  }

  #told(value) {
    return value === null || value === undefined ? NOTHING : this.format(value);
  }

  #x(at) {
    const width = this.element.clientWidth - MARGIN.left - MARGIN.right;
    return MARGIN.left + width * (1 - (this.end - at) / (this.minutes * MINUTE_MS));
  }

  #draw() {
    const width = this.element.clientWidth;
    if (width === 0) return;
    this.end = this.points.at(-1)?.at ?? Date.now();
    const values = this.points.flatMap((point) => this.lines.map(({ key }) => point[key] ?? 0));
    this.minutes = minutesFor(this.end - (this.points[0]?.at ?? this.end));
    const most = Math.max(this.least, ...values);
    const top = this.isExact ? most : niceTop(most);
    const bottom = HEIGHT - MARGIN.bottom;
    const y = (value) => bottom - (value / top) * (bottom - MARGIN.top);
    this.drawing.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.drawing.setAttribute("aria-label", this.#summary());
    fill(
      this.drawing,
      grid(top).map((value) => [
        shape("path", { class: "grid", d: `M${MARGIN.left} ${y(value)}H${width - MARGIN.right}` }),
        shape("text", { class: "tick", x: MARGIN.left - 8, y: y(value) + 4, "text-anchor": "end" }, short(this.format(value))),
      ]).flat(),
      shape("text", { class: "tick", x: MARGIN.left, y: HEIGHT - 4 }, `${this.minutes} min ago`),
      shape("text", { class: "tick", x: width - MARGIN.right, y: HEIGHT - 4, "text-anchor": "end" }, "now"),
      this.lines.map(({ key }, at) => shape("path", { class: `line line-${at}`, d: this.#path(key, y) })),
      this.chosen && shape("path", { class: "chosen", d: `M${this.#x(this.chosen.at)} ${MARGIN.top}V${bottom}` }),
    );
  }

  #path(key, y) {
    let before = null;
    let path = "";
    for (const point of this.points) {
      if (typeof point[key] !== "number") {
        before = null;
        continue;
      }
      const isNext = before !== null && point.at - before.at <= GAP_MS;
      const place = `${this.#x(point.at).toFixed(1)} ${y(point[key]).toFixed(1)}`;
      // A point without neighbours is a line without length, whose round ends draw a dot.
      path += isNext ? `L${place}` : `M${place}h0`;
      before = point;
    }
    return path;
  }

  #summary() {
    const told = this.lines.map(({ key, label }) => {
      const values = this.points.map((point) => point[key]).filter((value) => typeof value === "number");
      if (values.length === 0) return `${label}: nothing yet`;
      const [low, high] = [Math.min(...values), Math.max(...values)];
      const last = this.#told(this.points.at(-1)[key]);
      return `${label}: now ${last}, between ${this.format(low)} and ${this.format(high)}`;
    });
    return `${this.title}, the last ${this.minutes} min. ${told.join("; ")}.`;
  }
}

/** A group of charts that share one chosen time, which the pointer or a slider selects. */
export class ChartGroup {
  constructor(charts) {
    this.charts = charts;
    this.points = [];
    this.pointed = null;
    this.slider = element("input", { type: "range", min: -1, max: 0, value: 0, id: "look-back" });
    this.moment = element("output", { for: "look-back" }, "now");
    const lookBack = element("p", { class: "look-back" });
    lookBack.append(element("label", { for: "look-back" }, "Look back"), this.slider, this.moment);
    const grid = element("div", { class: "charts" }, charts.map((chart) => chart.element));
    this.element = element("div", {}, grid, lookBack);
    this.slider.addEventListener("input", () => this.#show());
    for (const chart of charts) {
      chart.element.addEventListener("pointermove", (event) => this.#point(chart.pointAt(event.clientX)));
      chart.element.addEventListener("pointerleave", () => this.#point(null));
    }
  }

  update(points) {
    this.points = points;
    this.slider.min = -Math.max(points.length - 1, 1);
    this.#show();
  }

  #point(point) {
    this.pointed = point;
    this.#show();
  }

  #show() {
    const back = Number(this.slider.value);
    const chosen = this.pointed ?? (back < 0 ? this.points.at(back - 1) : null) ?? null;
    const words = chosen === null ? "now" : time(chosen.at);
    setText(this.moment, words);
    this.slider.setAttribute("aria-valuetext", [words, ...this.#told(chosen)].join(", "));
    for (const chart of this.charts) chart.update(this.points, chosen);
  }

  #told(chosen) {
    if (chosen === null) return [];
    return this.charts.flatMap(({ lines, format }) =>
      lines
        .filter(({ key }) => typeof chosen[key] === "number")
        .map(({ key, label }) => `${label} ${format(chosen[key])}`),
    );
  }
}

/** Return the minutes that the time axis shows: few after the page was opened, because there is no earlier data. */
function minutesFor(ms) {
  return [1, 2, 3].find((minutes) => ms <= minutes * MINUTE_MS) ?? SHOWN_MS / MINUTE_MS;
}

/** "40.0 ms" → "40 ms" */
function short(text) {
  return text.replace(".0", "");
}

function grid(top) {
  return Array.from({ length: GRID_LINES }, (_, at) => (top * at) / (GRID_LINES - 1));
}

/** Return the next of 1, 2, 4 and 10 times a power of ten, because half of such a number is also short. */
function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 4, 10].find((step) => value <= step * power * (1 + 1e-9));
}
