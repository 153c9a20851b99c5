"""The names of the statements that are prepared on one connection, without I/O.

The server prepares no statement after a failed one of the same transaction. So a name counts only in its own transaction until the server
has confirmed it. No name is used twice: a name never means an older statement.
"""

from typing import Final, NamedTuple

PREPARED_STATEMENTS_MAX: Final = 1000
"""The most statements that are prepared on one connection, because each takes memory of the server's process."""

DEALLOCATE_ALL: Final = b"DEALLOCATE ALL"


class PreparedStatement(NamedTuple):
    """A statement that is being prepared."""

    sql: bytes
    name: bytes
    number: int


class PreparedStatements:
    """The prepared statements of a connection. When there are too many, the server forgets all of them."""

    def __init__(self) -> None:
        self._confirmed: dict[bytes, bytes] = {}  # names by SQL text
        self._preparing: dict[bytes, bytes] = {}
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

    def name(self, sql: bytes) -> bytes | None:
        """Return the name of a statement; None if it must be prepared."""
        return self._confirmed.get(sql) or self._preparing.get(sql)

    def add(self, sql: bytes) -> PreparedStatement:
        """Return a new name for a statement."""
        self._last_number += 1
        prepared = PreparedStatement(sql, b"t%d" % self._last_number, self._last_number)
        self._preparing[sql] = prepared.name
        return prepared

    def end_transaction(self) -> None:
        """Use the names of this transaction only after the server has confirmed them."""
        self._preparing.clear()

    def confirm(self, prepared: PreparedStatement) -> None:
        """Use a name from now on, unless the statements were forgotten after it was sent."""
        if prepared.number >= self._oldest_number:
            self._confirmed[prepared.sql] = prepared.name

    def begin_deallocation(self) -> None:
        """Forget all statements, because the server is told to forget them now."""
        self.forget_all()
        self._is_deallocation_due = False

    def fail_deallocation(self) -> None:
        """Note that the server has not forgotten the statements, because of an earlier failure of the transaction."""
        self._is_deallocation_due = True

    def forget(self, sql: bytes) -> bool:
        """Forget one statement; return whether it was prepared."""
        return self._confirmed.pop(sql, None) is not None

    def forget_all(self) -> None:
        """Forget all statements. The server is told to forget them before the next one is prepared."""
        self._confirmed.clear()
        self._preparing.clear()
        self._is_deallocation_due = self._is_deallocation_due or self._last_number >= self._oldest_number
        self._oldest_number = self._last_number + 1
