"""The errors for refused calls that several modules raise."""

import asyncio
from typing import Final
from weakref import WeakSet

from tenantry.errors import RegistryClosedError, TenantBusyError, TenantError
from tenantry.ids import TenantId

BUSY_RETRY_AFTER_SECONDS: Final = 1.0
"""The caller's waiting time before a retry if the duration of the running operation is unknown."""


loops_of_parents: Final[WeakSet[asyncio.AbstractEventLoop]] = WeakSet()
"""The event loops of registries that were open when this process was forked. The loops run in the parent only."""


def forked_error(tenant_id: str | None = None) -> RegistryClosedError:
    """Return the error for a call in a forked child: the parent has the registry's files, locks and event loop."""
    return RegistryClosedError(
        "this process was forked from the process that opened the registry, and cannot use it: open a registry in each process after the "
        "fork (gunicorn: in the application's lifespan; Celery: in worker_process_init)",
        tenant_id=tenant_id,
    )


def another_loop_error(tenant_id: str, loop: asyncio.AbstractEventLoop | None = None) -> TenantError:
    """Return the error for a call from another event loop: the call would hang on a future of the registry's loop.

    Args:
        tenant_id: The tenant of the call.
        loop: The registry's loop, if a forked child may get here.
    """
    if loop in loops_of_parents:
        return forked_error(tenant_id)
    return TenantError(
        "the registry belongs to another event loop: call it on the loop, and in the thread, that opened it "
        "(asyncio.run_coroutine_threadsafe)",
        tenant_id=tenant_id,
    )


def busy_error(
    tenant_id: TenantId, action: str, retry_after_seconds: float = BUSY_RETRY_AFTER_SECONDS
) -> TenantBusyError:
    """Return the error for a call that arrives while an operation of the tenant is running."""
    return TenantBusyError(
        f"tenant {tenant_id!r} is busy with {action!r}: try again in {retry_after_seconds:.2f} s",
        tenant_id=tenant_id,
        action=action,
        retry_after_seconds=retry_after_seconds,
    )


def unexpected_error(tenant_id: TenantId, error: Exception) -> TenantError:
    """Return an error of tenantry for an unexpected exception, so that callers only need to catch `TenantryError`."""
    failure = TenantError(f"tenant {tenant_id!r}: {error!r}", tenant_id=tenant_id)
    failure.__cause__ = error
    return failure
