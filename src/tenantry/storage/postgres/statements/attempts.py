"""Repeats work that a lost connection or a temporary error of the server has ended."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from tenantry.errors import QueryError
from tenantry.storage.postgres.connections.lost_connection import ConnectionLostError

T = TypeVar("T")

_PAUSE_SECONDS: Final = 0.01


async def retried(attempt: Callable[[float], Awaitable[T]], timeout_seconds: float) -> T:
    """Try until the time is over; pass the remaining seconds to each attempt.

    Raises:
        PersistenceError: The last attempt's error, or an error that is not temporary.
    """
    now = asyncio.get_running_loop().time
    deadline_seconds = now() + timeout_seconds
    while True:
        try:
            return await attempt(max(deadline_seconds - now(), _PAUSE_SECONDS))
        except (ConnectionLostError, QueryError) as error:
            if not is_temporary(error) or now() + _PAUSE_SECONDS >= deadline_seconds:
                raise
            await asyncio.sleep(_PAUSE_SECONDS)


def is_temporary(error: ConnectionLostError | QueryError) -> bool:
    """Return whether another attempt may succeed soon."""
    return isinstance(error, ConnectionLostError) or error.is_transient
