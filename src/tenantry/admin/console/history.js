// Collects the service's metrics of the last minutes for the overview's charts, on every page.

import { Problem } from "./api.js";
import { between, lookAt, parse } from "./metrics.js";

export const SHOWN_MS = 5 * 60_000;
/** The time between two polls above which the charts show a gap. */
export const GAP_MS = 12_000;
const QUANTILE_LOOKS = 5;
const LOOKS_MAX = 1_000;

export class History {
  constructor(api) {
    this.api = api;
    this.points = [];
    /** The counts of the last poll, or null. */
    this.now = null;
    /** Whether the API's port serves the metrics, which may have their own port. */
    this.isServed = true;
    this.looks = [];
  }

  /** Poll the metrics. */
  async look() {
    if (!this.isServed) return;
    let text;
    try {
      text = await this.api.text("metrics");
    } catch (error) {
      if (!(error instanceof Problem) || error.status !== 404) throw error;
      this.isServed = false;
      return;
    }
    this.#add(lookAt(parse(text), Date.now()));
  }

  #add(look) {
    const before = this.looks.at(-1);
    if (before !== undefined && look.at > before.at) {
      const isFresh = (one) => look.at - one.at <= GAP_MS;
      const earlier = this.looks.slice(-QUANTILE_LOOKS).find(isFresh) ?? before;
      this.points.push(between(before, look, earlier));
    }
    this.looks.push(look);
    this.now = look;
    const isShown = ({ at }) => look.at - at <= SHOWN_MS;
    this.points = this.points.filter(isShown).slice(-LOOKS_MAX);
    this.looks = this.looks.slice(-QUANTILE_LOOKS);
  }
}
