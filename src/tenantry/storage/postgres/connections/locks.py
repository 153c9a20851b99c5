"""Locks among all processes that use one database, as advisory locks of transactions.

A lock lives in an otherwise idle transaction of a connection of its own, for as long as the lock is held. So a crash frees the lock:
the server rolls back the transaction. Unlike a lock of a session, such a lock also works through a pooler in transaction mode. The
idle transaction has no snapshot and so delays no vacuum.

``exclusive``: a lifecycle operation holds the tenant's lock alone, and raises the epoch in the tenant's schema. A store that connects
takes the lock together with other stores, for the moment in which it reads the epoch. So a store that was connected before is fenced by
the epoch, and a store that connects during the operation is refused. A process that loses its lock without noticing is fenced, too: its
operation changes the schema only if the epoch is still the one that it has raised.
"""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import anyio
import psycopg

from tenantry.errors import PersistenceError
from tenantry.storage.postgres.connections.thread_connections import (
    ThreadConnection,
    ThreadConnections,
    on_thread,
)
from tenantry.storage.protocol import LockTakenError

SHARED_SECONDS_MAX: Final = 0.5
"""How long a lock that may not be waited for is waited for, because a store that connects holds it for a moment."""

_KEY_BYTES: Final = 8
_STALLED_SECONDS_MORE: Final = 30.0
# Each version of the server has other timeouts that would end an idle transaction.
_BEGIN: Final = """
SELECT set_config(name, '0', true) FROM pg_catalog.pg_settings
WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout', 'idle_session_timeout', 'statement_timeout')
"""
_SET_TIMEOUT: Final = "SELECT set_config('lock_timeout', %s, true)"
_TRY: Final = "SELECT pg_try_advisory_xact_lock(%s)"
_WAIT: Final = "SELECT pg_advisory_xact_lock(%s)"


def tenant_key(uid: str) -> int:
    """Return the key of a tenant's lock, for ``pg_advisory_xact_lock``."""
    return _key("tenant", uid)


def name_key(name: str) -> int:
    """Return the key of a lock with a name; see `Backend.lock`."""
    return _key("name", name)


@asynccontextmanager
async def held(connections: ThreadConnections, key: int, *, wait_seconds: float = 0.0) -> AsyncIterator[None]:
    """Hold a lock during the block.

    Args:
        connections: The connections for locks. The lock occupies one connection.
        key: The lock's key.
        wait_seconds: How long to wait for the holder; 0 for not at all.

    Raises:
        LockTakenError: Another holder has the lock.
        PersistenceConnectionError: The server cannot be reached.
    """
    async with connections.connection() as connection:
        try:
            connection.stalled_seconds_max = wait_seconds + _STALLED_SECONDS_MORE
            if not await on_thread("cannot lock", connection, _take, key, wait_seconds):
                raise LockTakenError
            yield
        finally:
            # The server frees the lock of a closed connection too, but nobody knows when.
            with anyio.CancelScope(shield=True), suppress(PersistenceError):
                await on_thread("cannot unlock", connection, psycopg.Connection.rollback)


def _take(connection: ThreadConnection, key: int, wait_seconds: float) -> bool:
    connection.execute("BEGIN")
    connection.execute(_BEGIN)
    if not wait_seconds:
        (is_taken,) = connection.execute(_TRY, (key,)).fetchone() or (False,)
        return bool(is_taken)
    connection.execute(_SET_TIMEOUT, (f"{wait_seconds * 1000:.0f}ms",))
    try:
        connection.execute(_WAIT, (key,))
    except psycopg.errors.LockNotAvailable:
        return False
    return True


def _key(kind: str, name: str) -> int:
    digest = hashlib.sha256(f"tenantry {kind} {name}".encode()).digest()
    return int.from_bytes(digest[:_KEY_BYTES], "big", signed=True)
