"""Whether a registry is open, and on which event loop: asked before anything is begun."""

import asyncio

from tenantry.errors import RegistryClosedError, TenantError
from tenantry.ids import TenantId


class RegistryState:
    """Says whether a registry is open; shared by all of its parts.

    Attributes:
        is_open: Whether it is.
        was_closed: Whether it was closed, and so cannot be opened again.
    """

    def __init__(self) -> None:
        self.is_open = False
        self.was_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Note that the registry is open on this event loop."""
        self.is_open = True
        self._loop = loop

    def close(self) -> None:
        """Note that the registry accepts no more calls."""
        self.is_open = False

    def check_open(self, tenant_id: TenantId | None = None) -> None:
        """Raise `RegistryClosedError` unless the registry is open."""
        if not self.is_open:
            raise RegistryClosedError(
                "the registry is not open: use it inside 'async with TenantRegistry(…)'", tenant_id=tenant_id
            )

    def check_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raise `TenantError` if the registry is open on another event loop than this one."""
        if not self.is_open or self._loop is loop:
            return
        if self._loop is not None and self._loop.is_closed():
            raise TenantError(
                "the event loop that the registry was opened on has ended, so it cannot be closed any more: drop every "
                "reference to it, and it gives its tenants back when it is collected; close it before its loop ends"
            )
        raise TenantError(
            "the registry is open on another event loop: close it on that loop "
            "(asyncio.run_coroutine_threadsafe(registry.aclose(), loop))"
        )
