"""The metrics of a registry, as Prometheus sees them."""

import shutil
import sqlite3
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from samples import a_message
from series import series_of
from tenantry import RegistryConfig, TenantRegistry
from tenantry.errors import DuplicateRecordError, TenantNotFoundError, TenantQuarantinedError
from tenantry.events import BatchFinished, CallRefused, CallSample, FleetTenantFinished, TenantMoved
from tenantry.observability import RegistryMetrics, export_metrics
from tenantry.tenancy.measurements.event_counts import OPERATIONS_MAX, SECONDS_BUCKETS
from tenants import HANG_SECONDS, until

FAMILIES = {
    "tenantry_batch_duration_seconds",
    "tenantry_batch_requests",
    "tenantry_call_duration_seconds",
    "tenantry_calls_refused",
    "tenantry_clock_held_seconds",
    "tenantry_connect_duration_seconds",
    "tenantry_database_capacity_connections",
    "tenantry_database_connections",
    "tenantry_database_connects",
    "tenantry_database_disconnects",
    "tenantry_database_waiters",
    "tenantry_disk_free_bytes",
    "tenantry_disk_size_bytes",
    "tenantry_engine_info",
    "tenantry_fleet_duration_seconds",
    "tenantry_forwarded_call_duration_seconds",
    "tenantry_forwarded_calls",
    "tenantry_forwarded_tenants",
    "tenantry_lifecycle_duration_seconds",
    "tenantry_lifecycle_last_success_timestamp_seconds",
    "tenantry_lifecycle_unfinished_calls",
    "tenantry_mailbox_peak_requests",
    "tenantry_mailbox_requests",
    "tenantry_migrate_duration_seconds",
    "tenantry_move_pause_duration_seconds",
    "tenantry_moved_rows",
    "tenantry_open_duration_seconds",
    "tenantry_opened_timestamp_seconds",
    "tenantry_peers",
    "tenantry_pool_capacity_tenants",
    "tenantry_pool_evictions",
    "tenantry_pool_idle_tenants",
    "tenantry_pool_open_tenants",
    "tenantry_pool_wait_duration_seconds",
    "tenantry_pool_waiters",
    "tenantry_process_capacity_files",
    "tenantry_process_cpu_seconds",
    "tenantry_process_open_files",
    "tenantry_process_resident_memory_bytes",
    "tenantry_query_duration_seconds",
    "tenantry_queue_wait_duration_seconds",
    "tenantry_snapshot_interval_seconds",
    "tenantry_tenants",
}


@pytest.fixture
def collectors() -> CollectorRegistry:
    """A collector registry of the test's own."""
    return CollectorRegistry()


@pytest.fixture
async def measured(data_dir: Path, collectors: CollectorRegistry):
    """An open registry that is measured from its start."""
    registry = TenantRegistry(RegistryConfig(data_dir=data_dir, open_tenants_max=2))
    export_metrics(registry, collectors)
    async with registry:
        yield registry


def _value(collectors: CollectorRegistry, name: str, **labels: str) -> float | None:
    return collectors.get_sample_value(name, labels)


async def test_all_families_are_exported(measured: TenantRegistry, collectors: CollectorRegistry):
    """Every documented family is there from the first scrape, and the text parses."""
    text = generate_latest(collectors).decode()
    assert {family.name for family in text_string_to_metric_families(text)} == FAMILIES


async def test_calls_are_counted_by_operation_and_outcome(
    measured: TenantRegistry, collectors: CollectorRegistry
):
    """A success, a refusal by the database and a read each land in their own series."""
    await measured.create("acme")
    acme = measured.tenant("acme")
    message = a_message()
    await acme.messages.save(message)
    with pytest.raises(DuplicateRecordError):
        await acme.messages.save(message)
    await acme.tasks.get("none")
    name = "tenantry_query_duration_seconds_count"
    series = [("messages.save", "ok"), ("messages.save", "duplicate"), ("tasks.get", "ok")]
    counts = [_value(collectors, name, backend="sqlite", operation=o, outcome=r) for o, r in series]
    assert counts == [1, 1, 1]


async def test_connect_and_migrate_are_measured(measured: TenantRegistry, collectors: CollectorRegistry):
    """The catalog and one tenant were connected and migrated, once each."""
    await measured.create("acme")
    labels = {"backend": "sqlite", "outcome": "ok"}
    assert _value(collectors, "tenantry_connect_duration_seconds_count", **labels) == 2
    assert _value(collectors, "tenantry_migrate_duration_seconds_count", **labels) == 2
    assert _value(collectors, "tenantry_open_duration_seconds_count", **labels) == 1


async def test_pool_and_states_are_gauges_of_the_moment(
    measured: TenantRegistry, collectors: CollectorRegistry
):
    """Occupancy, capacity and evictions follow the pool's own statistics."""
    for tenant_id in ("acme", "globex", "initech"):
        await measured.create(tenant_id)
    assert _value(collectors, "tenantry_pool_open_tenants") == 2
    assert _value(collectors, "tenantry_pool_capacity_tenants") == 2
    assert _value(collectors, "tenantry_pool_evictions_total", reason="capacity") == 1
    assert _value(collectors, "tenantry_lifecycle_duration_seconds_count", action="create", outcome="ok") == 3


async def test_series_do_not_grow_with_tenants(measured: TenantRegistry, collectors: CollectorRegistry):
    """A tenant's id is no label: the second tenant's calls add no series."""

    async def series_after(tenant_id: str) -> set[tuple[str, ...]]:
        await measured.create(tenant_id)
        await measured.tenant(tenant_id).messages.save(a_message())
        await until(lambda: measured.statistics().disk is not None)
        return series_of(collectors.collect())

    assert await series_after("acme") == await series_after("globex")


async def test_exemplars_name_the_tenant(measured: TenantRegistry, collectors: CollectorRegistry):
    """OpenMetrics tells which tenant a bucket's newest call was of; the classic format stays without."""
    await measured.create("acme")
    await measured.tenant("acme").messages.save(a_message())
    assert '# {tenant_id="acme"}' in generate_openmetrics(collectors).decode()
    assert "tenant_id" not in generate_latest(collectors).decode()


async def test_failed_openings_are_counted(measured: TenantRegistry, collectors: CollectorRegistry):
    """A tenant that does not exist is an outcome of opening."""
    with pytest.raises(TenantNotFoundError):
        await measured.tenant("nobody").tasks.get("x")
    assert _value(collectors, "tenantry_pool_wait_duration_seconds_count", outcome="not_found") == 1


async def test_calls_on_a_quarantined_tenant_are_counted(
    measured: TenantRegistry, collectors: CollectorRegistry
):
    """Each call that a tenant quarantined does not serve is one of the tenants' calls: its outcome counts as a fault."""
    await measured.create("acme")
    await measured.quarantine("acme", reason="for a look")
    for _ in range(2):
        with pytest.raises(TenantQuarantinedError):
            await measured.tenant("acme").tasks.get("x")
    labels = {"backend": "none", "channel": "none", "outcome": "quarantined"}
    assert _value(collectors, "tenantry_call_duration_seconds_count", **labels) == 2


def _batch(operation: str, seconds: float, channel: str = "write") -> BatchFinished:
    return BatchFinished("acme", "sqlite", channel, [CallSample(operation, "ok", 0.0)], 0.0, seconds)


async def test_calls_are_added_up_by_channel(measured: TenantRegistry, collectors: CollectorRegistry):
    """Tenants' calls are told by channel whatever their operation; the catalog's own calls are not among them."""
    await measured.create("acme")
    acme = measured.tenant("acme")
    await acme.messages.save(a_message())
    await acme.messages.save(a_message())
    await acme.tasks.get("none")
    with pytest.raises(TenantNotFoundError):
        await measured.tenant("nobody").tasks.get("x")
    name = "tenantry_call_duration_seconds_count"
    series = [("sqlite", "write", "ok"), ("sqlite", "read", "ok"), ("none", "none", "not_found")]
    counts = [_value(collectors, name, backend=b, channel=c, outcome=r) for b, c, r in series]
    assert counts == [2, 1, 1]
    assert sum(s.value for f in collectors.collect() for s in f.samples if s.name == name) == 4


async def test_refused_calls_count_with_their_channel(
    registry: TenantRegistry, collectors: CollectorRegistry
):
    """A refusal is of the channel that its operation runs on, as soon as that is known."""
    metrics = RegistryMetrics(registry.statistics)
    collectors.register(metrics)
    metrics.observe(CallRefused("acme", "sqlite", "tasks.get", "timeout", 30.0))
    labels = {"backend": "sqlite", "channel": "read", "outcome": "timeout"}
    assert _value(collectors, "tenantry_call_duration_seconds_count", **labels) is None
    metrics.observe(_batch("tasks.get", 0.001, "read"))
    assert _value(collectors, "tenantry_call_duration_seconds_count", **labels) == 1


async def test_channels_keep_the_newest_exemplar(registry: TenantRegistry, collectors: CollectorRegistry):
    """Of two operations' exemplars in one bucket the channel has the later one."""
    metrics = RegistryMetrics(registry.statistics)
    collectors.register(metrics)
    metrics.observe(_batch("messages.save", 0.001))
    metrics.observe(_batch("tasks.save", 0.001)._replace(tenant_id="globex"))
    [line] = [
        line
        for line in generate_openmetrics(collectors).decode().splitlines()
        if line.startswith("tenantry_call_duration_seconds_bucket") and "#" in line
    ]
    assert '# {tenant_id="globex"}' in line


async def test_the_last_success_of_an_action_is_told(measured: TenantRegistry, collectors: CollectorRegistry):
    """A call that went well leaves its moment; one that failed does not."""
    await measured.create("acme")
    with pytest.raises(TenantNotFoundError):
        await measured.suspend("nobody")
    name = "tenantry_lifecycle_last_success_timestamp_seconds"
    assert _value(collectors, name, action="create") == pytest.approx(time.time(), abs=HANG_SECONDS)
    assert _value(collectors, name, action="suspend") is None


async def test_disk_space_is_measured(measured: TenantRegistry, collectors: CollectorRegistry):
    """The space under the data directory is there as soon as the registry has looked."""
    await until(lambda: measured.statistics().disk is not None)
    size = _value(collectors, "tenantry_disk_size_bytes")
    assert size == shutil.disk_usage(measured.config.data_dir).total
    assert 0 < (_value(collectors, "tenantry_disk_free_bytes") or 0) <= size


async def test_the_engine_is_told(data_dir: Path, collectors: CollectorRegistry):
    """A chart tells which process has which engine, and which SQLite."""
    config = RegistryConfig(data_dir=data_dir, engine="python")
    export_metrics(TenantRegistry(config), collectors)
    assert _value(collectors, "tenantry_engine_info", engine="python", sqlite=sqlite3.sqlite_version) == 1
    assert _value(collectors, "tenantry_engine_info", engine="native", sqlite=sqlite3.sqlite_version) is None


@pytest.mark.parametrize("interval_seconds", [None, 3600.0])
async def test_the_snapshot_schedule_is_told(
    data_dir: Path, collectors: CollectorRegistry, interval_seconds: float | None
):
    """An alert can tell a service without a schedule from one whose snapshots do not come."""
    config = RegistryConfig(data_dir=data_dir, snapshot_interval_seconds=interval_seconds)
    export_metrics(TenantRegistry(config), collectors)
    assert _value(collectors, "tenantry_snapshot_interval_seconds") == interval_seconds


async def test_fleet_work_is_measured(registry: TenantRegistry, collectors: CollectorRegistry):
    """A fleet job's work on a tenant counts by kind and outcome."""
    metrics = RegistryMetrics(registry.statistics)
    collectors.register(metrics)
    metrics.observe(FleetTenantFinished("acme", "migrate", "ok", 0.2))
    labels = {"kind": "migrate", "outcome": "ok"}
    assert _value(collectors, "tenantry_fleet_duration_seconds_count", **labels) == 1


async def test_moves_are_measured(registry: TenantRegistry, collectors: CollectorRegistry):
    """A move counts its rows and the pause of the callers, by where the tenant was and is."""
    metrics = RegistryMetrics(registry.statistics)
    collectors.register(metrics)
    for _ in range(2):
        metrics.observe(TenantMoved("acme", "sqlite", "east", 1_000, 2.5, 0.1))
    labels = {"source": "sqlite", "target": "east"}
    assert _value(collectors, "tenantry_moved_rows_total", **labels) == 2_000
    assert _value(collectors, "tenantry_move_pause_duration_seconds_sum", **labels) == pytest.approx(0.2)


async def test_made_up_operations_do_not_make_up_series(
    registry: TenantRegistry, collectors: CollectorRegistry
):
    """Operations beyond the limit are counted together."""
    metrics = RegistryMetrics(registry.statistics)
    collectors.register(metrics)
    for number in range(OPERATIONS_MAX + 5):
        metrics.observe(_batch(f"made.up_{number}", 0.001))
    labels = {"backend": "sqlite", "operation": "other", "outcome": "ok"}
    assert _value(collectors, "tenantry_query_duration_seconds_count", **labels) == 5


@pytest.mark.parametrize("bound", SECONDS_BUCKETS)
async def test_a_bucket_holds_what_is_not_longer(
    registry: TenantRegistry, collectors: CollectorRegistry, bound: float
):
    """A duration equal to a bound is in that bound's bucket, as Prometheus defines `le`."""
    metrics = RegistryMetrics(registry.statistics)
    collectors.register(metrics)
    metrics.observe(_batch("messages.save", bound))
    labels = {"backend": "sqlite", "channel": "write"}
    bucket = "tenantry_batch_duration_seconds_bucket"
    assert _value(collectors, bucket, le=format(bound, "g"), **labels) == 1
    shorter = [b for b in SECONDS_BUCKETS if b < bound]
    assert all(_value(collectors, bucket, le=format(b, "g"), **labels) == 0 for b in shorter)
