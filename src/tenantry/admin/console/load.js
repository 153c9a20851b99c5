// Computes tenants' call rates from their counters, which only increase while a tenant is open.

import { rise } from "./metrics.js";

export class LoadMeter {
  #known = new Map();

  /** Record a tenant's statistics at a time in milliseconds. */
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

  /** Return a tenant's {read, write, total} calls per second and {bytes, isOpen}; null for an unknown tenant. */
  of(tenantId) {
    return this.#known.get(tenantId) ?? null;
  }
}
