"""Finds dates in the future, which stay in a data directory after the machine's clock was ahead."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from tenantry.config import RegistryConfig
from tenantry.doctor.finding import Finding, counted, note, ok, wrong
from tenantry.lifecycle import Permission
from tenantry.tenancy.clock_watch import LEAP_SECONDS_MIN, ClockRecord
from tenantry.tenancy.snapshot_storage.location import default_location
from tenantry.tenancy.snapshots.snapshot import is_snapshot_id, newest_first
from tenantry.tenancy.snapshots.snapshot_archive import MANIFEST_SUFFIX
from tenantry.tenancy.tenant_record import TenantRecord


def check_dates(
    config: RegistryConfig, tenants: Sequence[TenantRecord], record: ClockRecord | None
) -> Iterator[Finding]:
    """Yield findings about the clock, and about the dates of tenants and of snapshots in the data directory."""
    now = datetime.now(UTC)
    latest = now + timedelta(seconds=LEAP_SECONDS_MIN)
    yield _clock(config, record, now, latest)
    yield _tenants(config, tenants, latest)
    yield _snapshots(config, latest)


def _clock(config: RegistryConfig, record: ClockRecord | None, now: datetime, latest: datetime) -> Finding:
    check = "clock"
    if record is not None and record.seen_at > latest:
        return wrong(
            check,
            f"the clock says {now:%Y-%m-%d %H:%M} UTC, but a process has recorded {record.seen_at:%Y-%m-%d %H:%M} UTC",
            "set the machine's clock; if the clock is right now, it was ahead before: the next start of a service records that",
        )
    if record is not None and record.steady_since is not None:
        until = record.steady_since + timedelta(seconds=config.clock_hold_seconds)
        if until > now:
            return note(
                check,
                f"before {record.steady_since:%Y-%m-%d %H:%M} UTC the clock leapt, or no process checked it for long: nothing "
                f"is deleted because of its age before {until:%Y-%m-%d %H:%M} UTC",
                "check that the machine's clock is right and synchronized",
            )
    return ok(check, "the clock has not leapt")


def _tenants(config: RegistryConfig, tenants: Sequence[TenantRecord], latest: datetime) -> Finding:
    check = "dates of tenants"
    longest_seconds = (config.snapshot_interval_seconds or 0) + config.snapshot_jitter_seconds
    due_latest = latest + timedelta(seconds=longest_seconds)
    ahead = {
        tenant.id
        for tenant in tenants
        if tenant.state.allows(Permission.EXIST)
        and (
            max(tenant.created_at, tenant.state_changed_at) > latest
            or (
                config.snapshot_interval_seconds is not None
                and tenant.snapshot_due_at is not None
                and tenant.snapshot_due_at > due_latest
            )
        )
    }
    if ahead:
        return note(
            check,
            f"{counted(len(ahead), 'tenant has', 'tenants have')} dates in the future: the clock was ahead when they were set",
            "nothing: deleted tenants are kept for longer, unless 'tenant purge --force' removes them, and the service schedules "
            "their snapshots again",
            ahead,
        )
    return ok(check, "no date is in the future")


def _snapshots(config: RegistryConfig, latest: datetime) -> Finding:
    check = "dates of snapshots"
    ahead = set()
    for directory in default_location(config.data_dir).glob("*/"):
        names = (path.name.removesuffix(MANIFEST_SUFFIX) for path in directory.glob(f"*{MANIFEST_SUFFIX}"))
        ahead |= {
            str(directory / name) for name in newest_first(filter(is_snapshot_id, names), latest).future
        }
    if ahead:
        return note(
            check,
            f"{counted(len(ahead), 'snapshot is', 'snapshots are')} dated in the future: such a snapshot counts neither as the newest nor for retention",
            "take a new snapshot of each tenant concerned, then delete the listed snapshots with 'tenantry snapshot delete'",
            ahead,
        )
    return ok(check, "no date is in the future")
