"""Compares the catalog with the files, and finds tenants that need an operator."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tenantry.config import SQLITE
from tenantry.doctor.finding import Finding, counted, note, ok, wrong
from tenantry.doctor.machine import held_locks, is_held
from tenantry.errors import PersistenceError
from tenantry.lifecycle import Permission, TenantEvent
from tenantry.storage.sqlite.database_files import log_note
from tenantry.storage.sqlite.database_files.data_files import LOST_AND_FOUND, find_tenant_directories
from tenantry.storage.sqlite.database_files.layout import tenant_paths
from tenantry.storage.sqlite.maintenance.inspection import read_closed_owner
from tenantry.tenancy.move.phase import places_of
from tenantry.tenancy.snapshot_storage.location import default_location
from tenantry.tenancy.tenant_record import TenantRecord


class Difference(NamedTuple):
    """A difference between the catalog and the files."""

    kind: str
    subject: str


ORPHAN = "orphan"
MISSING = "missing"
FOREIGN = "foreign"
DAMAGED = "damaged"
REPLACED = "replaced"
NO_SCHEMA = "no_schema"
UNKNOWN_SCHEMA = "unknown_schema"

_WHAT_TO_DO = {
    ORPHAN: (
        "directory that no tenant of the catalog owns",
        "directories that no tenant of the catalog owns",
        "look at their content, then move them away: until then no tenant with such a name can be created",
    ),
    MISSING: (
        "tenant has no database, or an empty one",
        "tenants have no database, or an empty one",
        "put the file back and repair the tenant, or restore a snapshot",
    ),
    FOREIGN: (
        "tenant's file is marked as another tenant's",
        "tenants' files are marked as another tenant's",
        "put the right files back, then repair the tenants",
    ),
    REPLACED: (
        "tenant's file was replaced, but the log of the former database remains",
        "tenants' files were replaced, but the logs of the former databases remain",
        "copy the right file to another place, and put it back with 'tenantry tenant replace-file'",
    ),
    NO_SCHEMA: (
        "tenant has no schema in its database",
        "tenants have no schema in their databases",
        "restore a snapshot, or check that the settings name the right database",
    ),
    UNKNOWN_SCHEMA: (
        "schema that no tenant of the catalog owns",
        "schemas that no tenant of the catalog owns",
        "look at their content, then rename or drop them: until then no tenant with such a name can be created",
    ),
    DAMAGED: (
        "tenant's file is damaged, or not a database",
        "tenants' files are damaged, or not databases",
        "repair the tenant; if that fails, restore its newest snapshot",
    ),
}


def compare(data_dir: Path, tenants: Sequence[TenantRecord]) -> set[Difference]:
    """Return the differences between the catalog and the files. Running operations also cause differences, so compare twice."""
    owned = {tenant_paths(data_dir, name).directory for name in owned_locations(tenants, {SQLITE})}
    living = [one for one in tenants if one.backend == SQLITE and one.state.allows(Permission.EXIST)]
    there = {path for path in find_tenant_directories(data_dir) if not path.parent.is_symlink()}
    found = {Difference(ORPHAN, str(path)) for path in there - owned}
    for tenant in living:
        if not tenant.is_under_way:
            kind = _disagreement(data_dir, tenant)
            if kind is not None:
                found.add(Difference(kind, tenant.id))
    return found


def with_database(tenants: Sequence[TenantRecord]) -> list[TenantRecord]:
    """Return the tenants that may have a database, including purged tenants whose purge was interrupted."""
    return [
        tenant for tenant in tenants if tenant.state.allows(Permission.EXIST) or tenant.intent is not None
    ]


def owned_locations(tenants: Sequence[TenantRecord], backends: Collection[str]) -> set[str]:
    """Return the locations on these back ends at which a tenant may have a database."""
    return {
        location
        for tenant in with_database(tenants)
        for backend, location in places_of(tenant)
        if backend in backends
    }


def report_differences(differences: set[Difference], tenants: Sequence[TenantRecord]) -> Iterator[Finding]:
    """Yield the findings about differences between the catalog and the tenants' databases."""
    check = "catalog and files"
    for kind, (one, many, to_do) in _WHAT_TO_DO.items():
        subjects = {difference.subject for difference in differences if difference.kind == kind}
        if subjects:
            yield wrong(check, counted(len(subjects), one, many), to_do, subjects)
    if not differences:
        living = [tenant for tenant in tenants if tenant.state.allows(Permission.EXIST)]
        what = "files" if all(tenant.backend == SQLITE for tenant in living) else "files and schemas"
        yield ok(
            check, f"the catalog's {counted(len(living), 'tenant matches its', 'tenants match their')} {what}"
        )


def check_states(tenants: Sequence[TenantRecord], running: Collection[str]) -> Iterator[Finding]:
    """Yield the findings about the tenants' states.

    Args:
        tenants: All tenants.
        running: The keys of the tenants whose operation is running in a process.
    """
    yield _quarantined(tenants)
    yield _interrupted(tenants, running)


def locked_operations(data_dir: Path, tenants: Sequence[TenantRecord]) -> Collection[str]:
    """Return the keys of the tenants whose operation is running, according to the locks of the data directory."""
    held = held_locks()
    return {tenant.uid for tenant in tenants if is_held(data_dir / "operations" / tenant.uid, held)}


def find_unknown_snapshots(data_dir: Path, tenants: Sequence[TenantRecord]) -> Finding:
    """Find snapshots in the data directory whose tenants the catalog does not know."""
    known = {tenant.uid for tenant in with_database(tenants)}
    unknown = {
        str(path)
        for path in default_location(data_dir).glob("*")
        if path.name not in known | {LOST_AND_FOUND}
    }
    if unknown:
        return note(
            "snapshots",
            f"{counted(len(unknown), 'directory', 'directories')} of tenants that the catalog does not know",
            "keep them if the catalog was lost; otherwise remove them",
            unknown,
        )
    return ok("snapshots", "the catalog knows the tenants of all snapshots")


def _disagreement(data_dir: Path, tenant: TenantRecord) -> str | None:
    paths = tenant_paths(data_dir, tenant.location)
    database = paths.database
    try:
        if not database.stat().st_size:
            return MISSING
        if log_note.is_foreign(paths.lock, database):
            return REPLACED
        uid = read_closed_owner(database)
    except FileNotFoundError:
        return MISSING
    except PersistenceError:
        return DAMAGED
    return FOREIGN if uid is not None and uid != tenant.uid else None


def _quarantined(tenants: Sequence[TenantRecord]) -> Finding:
    found = {tenant.id for tenant in tenants if tenant.state.allows(TenantEvent.REPAIR)}
    if found:
        return wrong(
            "quarantine",
            f"{counted(len(found), 'tenant is', 'tenants are')} quarantined: calls are refused",
            "'tenantry tenant get' shows the reason; use 'tenant repair', or 'snapshot restore'",
            found,
        )
    return ok("quarantine", "no tenant is quarantined")


def _interrupted(tenants: Sequence[TenantRecord], running: Collection[str]) -> Finding:
    left = {tenant.id for tenant in tenants if tenant.is_under_way and tenant.uid not in running}
    if left:
        return note(
            "lifecycle operations",
            f"{counted(len(left), 'tenant has', 'tenants have')} an interrupted operation",
            "nothing: the running service, or the next start, finishes the operation or rolls it back",
            left,
        )
    return ok("lifecycle operations", "no interrupted operations")
