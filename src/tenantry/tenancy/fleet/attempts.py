"""Repeats work whose error may pass: a tenant that is busy or open in another process, or a catalog that is locked."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenantry.errors import TenantryError
from tenantry.tenancy.fleet.limits import FleetLimits

T = TypeVar("T")


async def with_retries(
    work: Callable[[], Awaitable[T]], limits: FleetLimits, *, wait: Callable[[float], Awaitable[object]]
) -> T:
    """Await work, and await it again after a wait while it fails with a retryable error.

    Args:
        work: Does the work; called for each attempt.
        limits: How many further attempts there are, and how long to wait before each.
        wait: Waits for so many seconds. What it raises ends the attempts.

    Raises:
        Exception: The error of the last attempt, or one that is not retryable.
    """
    for seconds in limits.retry_seconds:
        try:
            return await work()
        except TenantryError as error:
            if not error.is_retryable:
                raise
            asked_seconds = min(error.retry_after_seconds or 0.0, limits.retry_after_seconds_max)
        await wait(max(seconds, asked_seconds))
    return await work()
