"""The benchmarks by name, each a small file; a new one is a file here and a line in `WORKS`."""

from benchmarks.harness import Work
from benchmarks.works import (
    admin_api,
    catalog_at_scale,
    cold_call,
    event_loop,
    get_latency,
    get_one_tenant,
    hooks_and_metrics,
    large_table,
    many_tenants,
    memory,
    migrate_fleet,
    mixed_tenants,
    noisy_neighbour,
    save_latency,
    save_one_tenant,
    snapshot_writes,
)

WORKS: dict[str, Work] = {
    "save_one_tenant": save_one_tenant.WORK,
    "save_latency": save_latency.WORK,
    "get_one_tenant": get_one_tenant.WORK,
    "get_latency": get_latency.WORK,
    "mixed_tenants": mixed_tenants.WORK,
    "cold_call": cold_call.WORK,
    "many_tenants": many_tenants.WORK,
    "noisy_neighbour": noisy_neighbour.WORK,
    "migrate_fleet": migrate_fleet.WORK,
    "catalog_at_scale": catalog_at_scale.WORK,
    "memory": memory.WORK,
    "hooks_and_metrics": hooks_and_metrics.WORK,
    "large_table": large_table.WORK,
    "snapshot_writes": snapshot_writes.WORK,
    "admin_api": admin_api.WORK,
    "event_loop": event_loop.WORK,
}
