"""A cache of tenants' records; the cache is valid until any process changes the catalog."""

from collections.abc import Callable
from typing import Final

from tenantry.ids import TenantId
from tenantry.storage.protocol import ChangeToken
from tenantry.tenancy.tenant_record import TenantRecord

CACHED_TENANTS_MAX: Final = 16_384


class TenantCache:
    """Caches tenants' records until any process commits to the catalog."""

    def __init__(self, change_token: Callable[[], ChangeToken | None]) -> None:
        self._change_token = change_token
        self._records: dict[TenantId, TenantRecord] = {}
        self._token: ChangeToken | None = None  # the catalog's change token when the cached records were read

    def get(self, tenant_id: TenantId) -> TenantRecord | None:
        """Return the tenant's record if it is in the cache and the catalog has not changed."""
        if self._records and self._token != self._change_token():
            self._records.clear()
        return self._records.get(tenant_id)

    def add(self, record: TenantRecord, token: ChangeToken | None) -> None:
        """Add a record to the cache, unless `token`, which was read before the record, is no longer the catalog's token."""
        if token is None or token != self._change_token():
            return
        if self._token != token or len(self._records) >= CACHED_TENANTS_MAX:
            self._records.clear()
        self._token = token
        self._records[record.id] = record
