"""The state of a registry: whether it is open, and its event loop."""

import asyncio
import time
from typing import Final
from weakref import WeakSet

from tenantry.errors import RegistryClosedError, TenantError
from tenantry.forks import left_in_children
from tenantry.ids import TenantId
from tenantry.tenancy.refusals import forked_error, loops_of_parents


class RegistryState:
    """The state of a registry, shared by all of its parts.

    Attributes:
        is_open: Whether the registry is open.
        was_closed: Whether the registry was closed and so cannot be opened again.
        opened_at_seconds: The time at which the registry was opened, in seconds since 1970; None before.
        is_forked: Whether this process is a forked child of the process that opened the registry.
    """

    def __init__(self) -> None:
        self.is_open = False
        self.was_closed = False
        self.is_forked = False
        self.opened_at_seconds: float | None = None
        _all_states.add(self)
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Record that the registry is open on this event loop."""
        self.is_open = True
        self.opened_at_seconds = time.time()
        self._loop = loop

    def close(self) -> None:
        """Record that the registry accepts no more calls."""
        self.is_open = False

    def check_open(self, tenant_id: TenantId | None = None) -> None:
        """Raise `RegistryClosedError` unless the registry is open."""
        if self.is_forked:
            raise forked_error(tenant_id)
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
                "the registry cannot be closed, because its event loop has ended: drop every reference to the registry, so that "
                "it is garbage-collected and releases its tenants; next time close it before the loop ends"
            )
        raise TenantError(
            "the registry is open on another event loop: close it on that loop "
            "(asyncio.run_coroutine_threadsafe(registry.aclose(), loop))"
        )

    def leave_in_child(self) -> None:
        """Let a forked child refuse every call: the parent has the files, the locks and the event loop."""
        if self.is_open:
            self.is_open = False
            self.was_closed = self.is_forked = True
            if self._loop is not None:
                loops_of_parents.add(self._loop)


_all_states: Final[WeakSet[RegistryState]] = left_in_children()
