"""Errors that several parts of tenancy raise for a call that they refuse."""

from typing import Final

from tenantry.errors import TenantBusyError, TenantError
from tenantry.ids import TenantId

BUSY_RETRY_AFTER_SECONDS: Final = 1.0
"""When a caller may try again if nobody knows how long the operation takes."""


def another_loop_error(tenant_id: str) -> TenantError:
    """Return the error of a call from another event loop: a future cannot be awaited across loops, the call would hang."""
    return TenantError(
        "the registry belongs to another event loop: call it on the loop, and in the thread, that opened it "
        "(asyncio.run_coroutine_threadsafe)",
        tenant_id=tenant_id,
    )


def busy_error(
    tenant_id: TenantId, action: str, retry_after_seconds: float = BUSY_RETRY_AFTER_SECONDS
) -> TenantBusyError:
    """Return the error of a call that arrives while an operation works on the tenant."""
    return TenantBusyError(
        f"tenant {tenant_id!r} is busy with {action!r}: try again in {retry_after_seconds:.2f} s",
        tenant_id=tenant_id,
        action=action,
        retry_after_seconds=retry_after_seconds,
    )


def unexpected_error(tenant_id: TenantId, error: Exception) -> TenantError:
    """Return an error of ours for an unexpected one, so that callers see only one tree."""
    failure = TenantError(f"tenant {tenant_id!r}: {error!r}", tenant_id=tenant_id)
    failure.__cause__ = error
    return failure
