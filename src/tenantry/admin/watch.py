"""Whether whoever follows a stream still may: a key can be revoked or expire while its stream goes on."""

from typing import Annotated, Final

import anyio
from fastapi import Depends, Request
from starlette.exceptions import HTTPException  # also the framework's own, which is one

from tenantry.admin.auth import Authenticate
from tenantry.admin.routing import CurrentService
from tenantry.errors import TenantryError

WATCH_SECONDS: Final = 1.0
"""How long a stream may outlive its key."""


class Watch:
    """Asks now and then for the key of a stream's request again.

    Args:
        request: The request.
        authenticate: Finds out who makes it.
    """

    def __init__(self, request: Request, authenticate: Authenticate) -> None:
        self._request = request
        self._authenticate = authenticate
        self._asked_at = anyio.current_time()

    async def is_over(self) -> bool:
        """Return whether the key is not good any more, or that cannot be found out; looked at every `WATCH_SECONDS`."""
        now = anyio.current_time()
        if now - self._asked_at < WATCH_SECONDS:
            return False
        self._asked_at = now
        try:
            await self._authenticate(self._request)
        except (HTTPException, TenantryError):
            return True
        return False


async def _watch(request: Request, service: CurrentService) -> Watch:
    return Watch(request, service.authenticate)


CurrentWatch = Annotated[Watch, Depends(_watch)]
