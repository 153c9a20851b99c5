"""The caller's side of idempotent writes: code that checks a key, hashes a write, and sends both to the tenant."""

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
    """Runs a unit only once for its key."""

    async def write_once(self, key: str, statements: Request) -> list[Result]:
        """Run the statements as one atomic unit, unless the unit has run with this key before."""


class KeyedSession:
    """Makes one write with an idempotency key; see `tenantry.sql.statements.Session`.

    A second write is refused, because the tenant would treat a second write as a repetition of the first write, or as a conflict.
    After a failed write, the session accepts another write.
    """

    __slots__ = ("_has_written", "_key", "_session")

    def __init__(self, key: str, session: OnceSession) -> None:
        self._key = key
        self._session = session
        self._has_written = False

    @property
    def log(self) -> EventLog:
        """The event log, bound to the tenant's id."""
        return self._session.log

    async def dialect(self) -> str:
        """Return the name of the database's SQL dialect."""
        return await self._session.dialect()

    async def write(self, *statements: Statement) -> list[Result]:
        """Run the statements as one atomic unit, only once for the key; without statements, do nothing.

        Raises:
            QueryError: The session has written before.
            IdempotencyConflictError: The key was used for a different write.
        """
        if not statements:
            return []
        if self._has_written:
            raise QueryError(
                f"{statements[0].name}: the idempotency key {self._key!r} belongs to an earlier write, and nothing was written "
                "now: call tenant.idempotent() again, with another key for a different write; a method of a repository passes all "
                "statements of a keyed write to one write()"
            )
        self._has_written = True
        try:
            return await self._session.write_once(self._key, statements)
        except BaseException:
            self._has_written = False
            raise

    async def read(self, statement: Statement[T]) -> T:
        """Run one read-only statement."""
        return await self._session.read(statement)


def check_key(key: object) -> str:
    """Return the key; raise `QueryError` if the key is not valid."""
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise QueryError(
            f"the idempotency key is not valid: use 1 to {IDEMPOTENCY_KEY_CHARACTERS_MAX} printable ASCII characters"
        )
    return key


def hash_payload(statements: Request) -> bytes:
    """Return the SHA-256 of a unit: of the SQL, the parameters and the `Fetch` of its statements, in order.

    The hash omits the statements' names, because the names are for metrics and may change before a retry. An `Sql` counts with its
    canonical text, see `Sql.canonical_text`.
    """
    digest = hashlib.sha256()
    for statement in statements:
        if not isinstance(statement.parameters, Sequence):
            raise _refused(statement.name, "the parameters", statement.parameters)
        sql = statement.sql
        text = sql if isinstance(sql, str) else sql.canonical_text
        parts = [text, statement.fetch.value, *statement.parameters]
        # A list begins with the number of its parts, and a part with its length, so different units give different bytes.
        digest.update(b"%d;" % len(parts))
        for part in parts:
            encoded = _encoded(part, statement.name)
            digest.update(b"%d:%b" % (len(encoded), encoded))
    return digest.digest()


def _encoded(value: object, operation: str) -> bytes:
    """Return a value as bytes that begin with its SQLite type."""
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
        f"{operation}: {what} had the type {type(value).__name__}, and nothing was written: give a write with a key a sequence "
        "of None, int, float, str and bytes as parameters"
    )
