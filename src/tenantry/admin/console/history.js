// The last minutes of the whole service: what the charts of the overview show, kept whichever page is open.

import { Problem } from "./api.js";
import { between, lookAt, parse } from "./metrics.js";

export const SHOWN_MS = 5 * 60_000;
/** Between looks that are farther apart than this nobody looked: the charts have a gap there. */
export const GAP_MS = 12_000;
const QUANTILE_LOOKS = 5;
const LOOKS_MAX = 1_000;

export class History {
  constructor(api) {
    this.api = api;
    this.points = [];
    /** The last look, or null. */
    this.now = null;
    /** Whether this service gives its metrics here: they may have a port of their own. */
    this.isServed = true;
    this.looks = [];
  }

  /** Look once more. */
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
