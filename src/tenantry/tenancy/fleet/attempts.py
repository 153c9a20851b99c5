"""Retries work after retryable errors, such as a busy tenant or a locked catalog."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenantry.errors import TenantryError
from tenantry.tenancy.fleet.limits import FleetLimits

T = TypeVar("T")


async def with_retries(
    work: Callable[[], Awaitable[T]], limits: FleetLimits, *, wait: Callable[[float], Awaitable[object]]
) -> T:
    """Do the work; if the work fails with a retryable error, wait and retry.

    Args:
        work: The function to call for each attempt.
        limits: The number of retries, and the wait before each retry.
        wait: The function that waits for a number of seconds. An exception from this function ends the attempts.

    Raises:
        Exception: The last attempt failed, or an attempt failed with an error that is not retryable.
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
