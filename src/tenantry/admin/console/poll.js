// Polls the service: every two seconds while the page is visible, and less often after failures.

export const INTERVAL_MS = 2_000;
const INTERVAL_MS_MAX = 30_000;

export class Poller {
  #work;
  #onSettled;
  #timer = null;
  #failures = 0;
  #isStarted = false;
  #isBusy = false;
  #isWanted = false;
  #onSeen = () => this.now();

  /**
   * @param {() => Promise} work
   * @param {(outcome: {error: Error?, waitMs: number}) => void} onSettled Called after each attempt.
   */
  constructor(work, onSettled) {
    this.#work = work;
    this.#onSettled = onSettled;
  }

  start() {
    this.#isStarted = true;
    document.addEventListener("visibilitychange", this.#onSeen);
    this.now();
  }

  stop() {
    this.#isStarted = false;
    document.removeEventListener("visibilitychange", this.#onSeen);
    clearTimeout(this.#timer);
  }

  /** Poll now instead of at the next interval. A hidden page does not poll. */
  async now() {
    clearTimeout(this.#timer);
    if (!this.#isStarted || document.hidden) return;
    if (this.#isBusy) {
      // The running poll may have begun before the change that the user wants to see, so poll once more.
      this.#isWanted = true;
      return;
    }
    this.#isBusy = true;
    let error = null;
    do {
      this.#isWanted = false;
      error = await this.#work().then(() => null, (reason) => reason);
    } while (this.#isWanted && this.#isStarted);
    this.#isBusy = false;
    if (!this.#isStarted) return;
    this.#failures = error === null ? 0 : this.#failures + 1;
    const waitMs = Math.max(backOff(this.#failures), (error?.retryAfterSeconds ?? 0) * 1000);
    this.#onSettled({ error, waitMs });
    this.#timer = setTimeout(() => this.now(), waitMs);
  }
}

function backOff(failures) {
  return Math.min(INTERVAL_MS * 2 ** Math.max(0, failures - 1), INTERVAL_MS_MAX);
}
