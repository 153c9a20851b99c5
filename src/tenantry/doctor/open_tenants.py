"""Finds the tenants that processes have open, and their owners, by the tenants' lock files."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tenantry.config import SQLITE
from tenantry.doctor.machine import held_locks, is_held, is_locked
from tenantry.doctor.process import OpenTenant
from tenantry.files.lock_file import LockFile, read_holder
from tenantry.lifecycle import Permission
from tenantry.storage.sqlite.database_files.layout import tenant_paths
from tenantry.tenancy.tenant_record import TenantRecord


def find_open_tenants(data_dir: Path, tenants: Sequence[TenantRecord]) -> list[OpenTenant]:
    """Return the open tenants with their owners, in the order of the given tenants.

    A lock file still names its holder after the holder was killed, so the lock itself decides. /proc/locks lists neither the locks of
    containers with process ids of their own nor, on some file systems, the inodes of the files. A lock that is not listed is therefore
    tried; a process that opens the tenant at this moment tries again.
    """
    named = list(_named(data_dir, tenants))
    # The locks are read after the files: otherwise a lock acquired in the meantime would seem abandoned.
    held = held_locks()
    return [tenant for lock, tenant in named if is_held(lock, held) or is_locked(lock)]


def _named(data_dir: Path, tenants: Sequence[TenantRecord]) -> Iterator[tuple[Path, OpenTenant]]:
    """Yield the lock files that name a holder."""
    for tenant in tenants:
        if tenant.backend != SQLITE or not tenant.state.allows(Permission.EXIST):
            continue
        lock = tenant_paths(data_dir, tenant.location).lock
        pid, host, socket_name = read_holder(LockFile(lock).read())
        if pid is not None and host is not None:
            yield lock, OpenTenant(tenant_id=tenant.id, pid=pid, host=host, socket_name=socket_name)
