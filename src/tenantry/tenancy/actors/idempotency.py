"""Idempotency keys on the side of the caller: the form of a key, the hash of a write, and a session for one write."""

import hashlib
import re
import struct
from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

from tenantry.errors import QueryError
from tenantry.eventlog import EventLog
from tenantry.sql.statements import ReadSession, Result, Statement
from tenantry.storage.protocol import Request

T = TypeVar("T")

IDEMPOTENCY_KEY_CHARACTERS_MAX: Final = 255
_KEY: Final = re.compile(rf"[\x20-\x7e]{{1,{IDEMPOTENCY_KEY_CHARACTERS_MAX}}}")


class OnceSession(ReadSession, Protocol):
    """Runs a unit once for its key."""

    async def write_once(self, key: str, statements: Request) -> list[Result]:
        """Run the statements as one atomic unit, unless it has run with this key."""


class KeyedSession:
    """Sends a key with the one write that it makes; see `tenantry.sql.statements.Session`.

    Only one write, because a second one would be treated as a repetition of the first, or refused as a different write with the
    same key: a repository's method that writes twice would do half of its work. After a failure the same call may be made again.
    """

    __slots__ = ("_has_written", "_key", "_session")

    def __init__(self, key: str, session: OnceSession) -> None:
        self._key = key
        self._session = session
        self._has_written = False

    @property
    def log(self) -> EventLog:
        """The event log, bound to the tenant."""
        return self._session.log

    async def write(self, *statements: Statement) -> list[Result]:
        """Run the statements as one atomic unit, once for the key. Without statements it is a no-op and needs no key.

        Raises:
            QueryError: It has written before.
            IdempotencyConflictError: The key was used for another write.
        """
        if not statements:
            return []
        if self._has_written:
            raise QueryError(
                f"{statements[0].name}: the key {self._key!r} went with a write already, and nothing was written now: "
                "one key is for one write; call tenant.idempotent() again, with another key for another write"
            )
        self._has_written = True
        try:
            return await self._session.write_once(self._key, statements)
        except BaseException:
            self._has_written = False
            raise

    async def read(self, statement: Statement[T]) -> T:
        """Run one reading statement."""
        return await self._session.read(statement)


def check_key(key: object) -> str:
    """Return the key; raise `QueryError` if it is not valid."""
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise QueryError(
            f"an idempotency key is 1 to {IDEMPOTENCY_KEY_CHARACTERS_MAX} printable ASCII characters"
        )
    return key


def hash_payload(statements: Request) -> bytes:
    """Return a SHA-256 of the unit: the SQL, parameters and `Fetch` of its statements, in their order.

    Their names are left out: the name in metrics may change between a call and its repetition.
    """
    digest = hashlib.sha256()
    for statement in statements:
        if not isinstance(statement.parameters, Sequence):
            raise _refused(statement.name, "its parameters", statement.parameters)
        parts = [str(statement.sql), statement.fetch.value, *statement.parameters]
        # Numbers before lists and lengths before parts: no two units give the same bytes.
        digest.update(b"%d;" % len(parts))
        for part in parts:
            encoded = _encoded(part, statement.name)
            digest.update(b"%d:%b" % (len(encoded), encoded))
    return digest.digest()


def _encoded(value: object, operation: str) -> bytes:
    """Return a value with its type as SQLite stores it."""
    match value:
        case None:
            return b"n"
        case str():
            return b"s" + value.encode("utf-8", "surrogatepass")
        case int():
            return b"i%x" % value
        case float():
            return b"f" + struct.pack(">d", value)
        case bytes() | bytearray() | memoryview():
            return b"b" + bytes(value)
        case _:
            raise _refused(operation, "a parameter", value)


def _refused(operation: str, what: str, value: object) -> QueryError:
    return QueryError(
        f"{operation}: a write with a key takes a sequence of None, int, float, str and bytes as parameters, and {what} was of "
        f"type {type(value).__name__}; nothing was written"
    )
