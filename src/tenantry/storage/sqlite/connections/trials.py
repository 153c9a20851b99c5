"""Decides which batches of a connection the engine tries.

A batch that the engine rolls back runs again in Python, and costs more than one that runs in Python at once. With some loads every batch
ends so, for example if each batch has a unit of several statements that a constraint refuses. So after some such batches in a row the
next ones are not tried, and more and more of them as long as each trial fails.
"""

from typing import Final

FAILURES_MAX: Final = 8
"""The number of failed trials in a row after which batches are skipped."""

_DOUBLINGS_MAX: Final = 7
SKIPPED_MAX: Final = 2**_DOUBLINGS_MAX
"""The largest number of batches between two trials. Each failed trial doubles the number."""


class Trials:
    """The trials of one connection. The event loop and the connection's thread may call the methods at the same time."""

    __slots__ = ("_failures", "_skips")

    def __init__(self) -> None:
        self._failures = 0
        self._skips = 0

    def is_due(self) -> bool:
        """Return whether to try the next batch."""
        if not self._skips:
            return True
        self._skips -= 1
        return False

    def fail(self) -> None:
        """Record that a batch that was tried runs in Python."""
        self._failures += 1
        if self._failures >= FAILURES_MAX:
            self._skips = 2 ** min(self._failures - FAILURES_MAX, _DOUBLINGS_MAX)

    def succeed(self) -> None:
        """Record that the engine has run a batch."""
        self._failures = 0
