"""Knows which code runs inside an open transaction, and therefore must not wait for the end of the transaction."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tenantry.eventlog import EventLog

# The transactions of this task and of its parents. A child task inherits transactions, and keeps those that have ended.
_enclosing: ContextVar[frozenset["EnclosingTransaction"]] = ContextVar(
    "tenantry_enclosing_transactions", default=frozenset()
)


class EnclosingTransaction:
    """A transaction over several calls that encloses a block of its caller's code."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._has_ended = False

    @property
    def log(self) -> EventLog:
        """The tenant's event log."""
        return self._log

    @property
    def has_ended(self) -> bool:
        """Whether the transaction was committed or rolled back."""
        return self._has_ended

    @property
    def encloses_caller(self) -> bool:
        """Whether the caller runs inside the transaction, and therefore must not wait for the transaction's end.

        A task that was started inside the transaction is inside too, because the transaction's own task may wait for that task.
        """
        return not self.has_ended and self in _enclosing.get()

    @contextmanager
    def enclosing(self) -> Iterator[None]:
        """Mark the block, and the tasks that are started in the block, as inside the transaction."""
        _enclosing.set(_enclosing.get() | {self})
        try:
            yield
        finally:
            # ContextVar.reset() would fail if the block ends in another context, for example in a fixture.
            _enclosing.set(_enclosing.get() - {self})
