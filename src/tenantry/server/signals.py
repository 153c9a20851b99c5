"""Signals that a service ignores."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def user_signals_ignored() -> Iterator[None]:
    """During the block, ignore SIGUSR1 and SIGUSR2: log rotation programs send them, and they would end the process."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
