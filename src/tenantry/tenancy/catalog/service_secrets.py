"""The service's secrets, the same in all its processes; `registry.secrets`."""

import secrets
from typing import Final

from tenantry.statements import Fetch, Statement
from tenantry.tenancy.catalog.session import CatalogSession

_SECRET_BYTES: Final = 32
_FIND: Final = "SELECT value FROM service_secrets WHERE name = ?"
_ADD: Final = "INSERT INTO service_secrets VALUES (?, ?) ON CONFLICT DO NOTHING"


class ServiceSecrets:
    """Keeps the service's secrets in the catalog.

    Args:
        store: The catalog.
    """

    def __init__(self, store: CatalogSession) -> None:
        self._store = store

    async def get(self, name: str) -> bytes:
        """Return the secret of this name; the first call makes it."""
        find = Statement("secrets.find", _FIND, (name,), Fetch.ONE)
        row = await self._store.read(find)
        if row is None:
            # Another process may make it at the same moment: the first one stays, and both read it.
            await self._store.write(
                Statement("secrets.add", _ADD, (name, secrets.token_bytes(_SECRET_BYTES)))
            )
            row = await self._store.read(find)
        value: bytes = row[0]
        return value
