"""What was read of the catalog lately, for as long as its file has not changed."""

import time
from pathlib import Path
from typing import Final

from tenantry.ids import TenantId
from tenantry.tenancy.tenant_record import TenantRecord

CACHED_TENANTS_MAX: Final = 16_384
_TICK_NANOSECONDS: Final = 2_000_000_000  # the coarsest of a file system in use


class TenantCache:
    """Records of tenants, as they were read; emptied when any process changes the catalog.

    Without a write-ahead log every commit writes the file, so its time of modification tells of it.

    Args:
        file: The catalog's.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._tenants: dict[TenantId, TenantRecord] = {}
        self._changed_at: int | None = None  # the file's modification time that they belong to

    def changed_at(self) -> int | None:
        """Return when the file was last changed, in nanoseconds; None if that cannot be found out."""
        try:
            return self._file.stat().st_mtime_ns
        except OSError:  # SQLite will say what is wrong with it
            return None

    def get(self, tenant_id: TenantId) -> TenantRecord | None:
        """Return what is known of the tenant, if the file has not changed since it was read."""
        if self._tenants and self._changed_at != self.changed_at():
            self._tenants.clear()
        return self._tenants.get(tenant_id)

    def add(self, tenant: TenantRecord | None, changed_at: int | None) -> None:
        """Remember what was read when the file had last been changed at `changed_at`, and has not been since.

        Not within the tick of the file system's clock: two changes in one have the same time (Git calls such an entry
        racily clean).
        """
        if tenant is None or changed_at is None or changed_at != self.changed_at():
            return
        if time.time_ns() - changed_at < _TICK_NANOSECONDS:
            return
        if self._changed_at != changed_at or len(self._tenants) >= CACHED_TENANTS_MAX:
            self._tenants.clear()
        self._changed_at = changed_at
        self._tenants[tenant.id] = tenant
