"""Whose coverage counts: this process's, if anybody's does, and that of the other processes that are asked for.

To measure a process makes it half as slow again, and most of them run code that is measured here.

Import it by name (``tests/support`` is on pytest's path): ``from measuring import MEASURED``.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from coverage import Coverage

_NAME: Final = "COVERAGE_PROCESS_CONFIG"  # coverage.py's, which it reads at the start of each process

MEASURED: Final = {_NAME: os.environ[_NAME]} if _NAME in os.environ else {}
"""What the environment of another process needs in order to be measured; empty if this process is not."""


def measure_this_process_only() -> None:
    """Leave processes that are started from now on unmeasured, unless their environment has `MEASURED`."""
    os.environ.pop(_NAME, None)


@contextmanager
def unmeasured() -> Iterator[None]:
    """Measure no coverage of this process in the block, if any is measured."""
    measuring = Coverage.current()
    if measuring is None:
        yield
        return
    measuring.stop()
    try:
        yield
    finally:
        measuring.start()
        measure_this_process_only()  # to start has other processes measured too
