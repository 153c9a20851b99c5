"""Keeps the event loop awake for a moment while the next message of another process is expected.

A process that sleeps until the message arrives continues slowly: its processor sleeps too, or has run another process meanwhile. For a lone
read, that is most of the difference between a forwarded call and a call of the owner. So the event loop spins: it looks for the message again
and again instead of sleeping. Between two looks it does everything else that it has to do, and lets every other thread run first.

Both ends of a connection spin: the caller's end for the answer, and the owner's end for the next call. They spin only while lone calls follow
each other, and only if the process may use several processors. Each spin without a message doubles the number of lone calls after which the
end does not spin. So the answers to writes that wait for a slow disk, and a machine that is busy, cost few spins.
"""

import asyncio
import os
import time
from collections.abc import Callable
from typing import Final

SPIN_SECONDS_MAX: Final = 0.0005
"""An answer to a lone read takes about 0.1 ms if both ends spin, and nearly twice as long if neither does. An answer to a lone write, which
waits for a fast disk, takes 0.37 ms instead of 0.42 ms.
"""

LONE_CALLS_MIN: Final = 16
"""The number of lone calls in a row from which an end spins."""

_DOUBLINGS_MAX: Final = 8
"""At most 255 spins in a row are left out. On a busy machine a thread that lets others run first may wait for milliseconds, so spins in vain
must be rarer than one call in a hundred."""


class MessageSpin:
    """The spins of one end of a connection.

    Args:
        loop: The connection's event loop.
        is_expected: Tells whether the message has not arrived yet, and is still expected.
        now: The clock.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        is_expected: Callable[[], bool],
        *,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._loop = loop
        self._is_expected = is_expected
        self._now = now
        self._is_possible = _processor_count() > 1
        self._lone_calls = 0  # in a row, at most `LONE_CALLS_MIN`
        self._to_skip = self._failed = 0
        self._until_seconds = 0.0
        self.is_spinning = False
        """Whether the event loop stays awake for the message."""

    def begin(self) -> None:
        """Expect a message after a lone call, and spin if messages usually arrive in time."""
        if self._lone_calls < LONE_CALLS_MIN:
            self._lone_calls += 1
        elif self._to_skip:
            self._to_skip -= 1
        elif self._is_possible:
            self._until_seconds = self._now() + SPIN_SECONDS_MAX
            if not self.is_spinning:
                self.is_spinning = True
                self._loop.call_soon(self._look)

    def note_other_calls(self) -> None:
        """Note that several calls are under way."""
        self._lone_calls = 0

    def _look(self) -> None:
        """Look for the message in the next step of the event loop, too, unless it has arrived or is late."""
        if not self._is_expected():
            self._failed = 0
        elif self._now() < self._until_seconds:
            os.sched_yield()
            self._loop.call_soon(self._look)
            return
        else:
            self._failed = min(self._failed + 1, _DOUBLINGS_MAX)
            self._to_skip = 2**self._failed - 1
        self.is_spinning = False


def _processor_count() -> int:
    """Return the number of processors that the process may use, or of all processors where the system does not say."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # for example macOS
        return os.cpu_count() or 1
