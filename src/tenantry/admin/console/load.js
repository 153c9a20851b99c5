// How much tenants call: from their counters, which only ever rise while a tenant is open.

import { rise } from "./metrics.js";

export class LoadMeter {
  #known = new Map();

  /** Note a tenant's statistics of a moment in milliseconds. */
  note(statistics, at) {
    const before = this.#known.get(statistics.tenant_id);
    const counts = { read: statistics.read?.calls ?? null, write: statistics.write?.calls ?? null };
    const elapsed = before === undefined ? 0 : (at - before.at) / 1000;
    const [read, write] = ["read", "write"].map((one) => rise(before?.counts[one] ?? null, counts[one], elapsed));
    this.#known.set(statistics.tenant_id, {
      at,
      counts,
      read,
      write,
      total: read === null || write === null ? null : read + write,
      bytes: statistics.database_bytes,
      isOpen: statistics.is_open,
    });
  }

  /** Return what is known of a tenant: {read, write, total} per second, {bytes, isOpen}; or null. */
  of(tenantId) {
    return this.#known.get(tenantId) ?? null;
  }
}
