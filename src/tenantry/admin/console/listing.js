// The tenants whose ids begin with something, as far as somebody wants to see them.
//
// The service lists tenants by their state, in the order of ids. Those that are wanted lie together there, so they are looked
// for once; where they begin is kept, and to look at them again costs no more than to list the first ones.

const PAGE_ROWS = 100;
/** How many the service lists in one answer: for those that are only passed by. */
const PASSED_ROWS = 1_000;

export class Listing {
  #prefix = "";
  #start = null;
  #isFound = true;

  /**
   * @param api
   * @param {string} state In which they are; of all but purged ones, of which only an entry is left, if empty.
   */
  constructor(api, state) {
    this.api = api;
    this.state = state;
  }

  /** Return those that are there now: {items, hasMore}. */
  async load(prefix, wanted, signal) {
    if (prefix !== this.#prefix) [this.#prefix, this.#start, this.#isFound] = [prefix, null, prefix === ""];
    const limit = this.#isFound ? PAGE_ROWS : PASSED_ROWS;
    const items = [];
    let cursor = this.#start;
    let isPast = false;
    do {
      const answer = await this.api.get("v1/tenants", { state: this.state, limit, cursor }, signal);
      items.push(...answer.items.filter((tenant) => this.#isWanted(tenant)));
      cursor = answer.next_cursor;
      if (items.length === 0 && cursor !== null) this.#start = cursor;
      const last = answer.items.at(-1)?.id ?? "";
      isPast = last > prefix && !last.startsWith(prefix);
    } while (cursor !== null && !isPast && items.length < wanted);
    this.#isFound = true;
    const hasMore = items.length > wanted || (cursor !== null && !isPast);
    return { items: items.slice(0, wanted), hasMore };
  }

  #isWanted({ id, state }) {
    return id.startsWith(this.#prefix) && (state !== "purged" || this.state === "purged");
  }
}
