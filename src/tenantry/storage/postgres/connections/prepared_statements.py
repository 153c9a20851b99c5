"""The names of the statements that are prepared on one connection, without I/O.

The same SQL has another name for each search path. The server makes the plan of a statement anew whenever the search path differs from
that of the plan. So tenants that take turns on a connection under one name would each pay for planning at every call, which takes the
server as long as the rest of a small write.

The server prepares no statement after a failed one of the same transaction. So a name counts only in its own transaction until the server
has confirmed it. No name is used twice: a name never means an older statement.
"""

from typing import Final, NamedTuple

PREPARED_STATEMENTS_MAX: Final = 250
"""The largest number of prepared statements of one connection. With its plan, each takes about 35 kB in the server's process."""

DEALLOCATE_ALL: Final = b"DEALLOCATE ALL"


class PreparedStatement(NamedTuple):
    """A statement that is being prepared for a search path."""

    path: bytes
    sql: bytes
    name: bytes
    number: int


class PreparedStatements:
    """The prepared statements of a connection. When there are too many, the server forgets all of them."""

    def __init__(self) -> None:
        self._confirmed: dict[tuple[bytes, bytes], bytes] = {}  # names by search path and SQL text
        self._preparing: dict[tuple[bytes, bytes], bytes] = {}
        self._last_number = 0
        self._oldest_number = 1  # older statements are forgotten
        self._is_deallocation_due = False

    @property
    def must_deallocate(self) -> bool:
        """Whether the server must forget all statements before the next one is prepared."""
        return (
            self._is_deallocation_due
            or self._last_number - self._oldest_number + 1 >= PREPARED_STATEMENTS_MAX
        )

    def name(self, path: bytes, sql: bytes) -> bytes | None:
        """Return the name of a statement for a search path; None if it must be prepared."""
        return self._confirmed.get((path, sql)) or self._preparing.get((path, sql))

    def add(self, path: bytes, sql: bytes) -> PreparedStatement:
        """Return a new name for a statement and a search path."""
        self._last_number += 1
        prepared = PreparedStatement(path, sql, b"t%d" % self._last_number, self._last_number)
        self._preparing[path, sql] = prepared.name
        return prepared

    def end_transaction(self) -> None:
        """Use the names of this transaction only after the server has confirmed them."""
        self._preparing.clear()

    def confirm(self, prepared: PreparedStatement) -> None:
        """Use a name from now on, unless the statements were forgotten after it was sent."""
        if prepared.number >= self._oldest_number:
            self._confirmed[prepared.path, prepared.sql] = prepared.name

    def begin_deallocation(self) -> None:
        """Forget all statements, because the server is told to forget them now."""
        self.forget_all()
        self._is_deallocation_due = False

    def fail_deallocation(self) -> None:
        """Note that the server has not forgotten the statements, because of an earlier failure of the transaction."""
        self._is_deallocation_due = True

    def forget(self, path: bytes, sql: bytes) -> bool:
        """Forget one statement; return whether it was prepared for the search path."""
        return self._confirmed.pop((path, sql), None) is not None

    def forget_all(self) -> None:
        """Forget all statements. The server is told to forget them before the next one is prepared."""
        self._confirmed.clear()
        self._preparing.clear()
        self._is_deallocation_due = self._is_deallocation_due or self._last_number >= self._oldest_number
        self._oldest_number = self._last_number + 1
