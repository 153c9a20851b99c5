"""Repeats work whose error may pass: a tenant that is busy or open in another process, or a catalog that is locked."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from tenantry.errors import TenantryError

T = TypeVar("T")

RETRY_SECONDS: Final = (0.1, 0.2, 0.4, 0.8, 1.6)
"""How long to wait before each further attempt."""

RETRY_AFTER_SECONDS_MAX: Final = 5.0
"""The longest wait that an error can ask for."""


async def with_retries(work: Callable[[], Awaitable[T]], *, wait: Callable[[float], Awaitable[object]]) -> T:
    """Await work, and await it again after a wait while it fails with a retryable error.

    Args:
        work: Does the work; called for each attempt.
        wait: Waits for so many seconds. What it raises ends the attempts.

    Raises:
        Exception: The error of the last attempt, or one that is not retryable.
    """
    for seconds in RETRY_SECONDS:
        try:
            return await work()
        except TenantryError as error:
            if not error.is_retryable:
                raise
            asked_seconds = min(error.retry_after_seconds or 0.0, RETRY_AFTER_SECONDS_MAX)
        await wait(max(seconds, asked_seconds))
    return await work()
