"""The preload library ``recorder.c``: built once for a test run, and spoken to from a process that has it."""

import ctypes
import errno
import subprocess
from pathlib import Path
from typing import Final

from needs import needed_program
from power.tracing import Kind

SOURCE: Final = Path(__file__).with_name("recorder.c")


def build(directory: Path) -> Path:
    """Compile the library and return its path.

    Without a compiler the test is skipped; where ``CI`` is set in the environment it fails.
    """
    compiler = needed_program("cc", "gcc", "clang", package="gcc")
    library = directory / "recorder.so"
    options = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]
    subprocess.run([compiler, *options, "-o", library, SOURCE], check=True)
    return library


class Preloaded:
    """The library in this process."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.power_failed_what.restype = ctypes.c_char_p

    def start(self, root: Path, trace: Path | None = None) -> None:
        """Record the changes of the files below a directory from now on; without a trace, only let calls fail.

        The files below it are never really synced: that saves time, and a model decides what is durable.
        """
        path = b"" if trace is None else bytes(trace)
        assert self._library.power_start(bytes(root.resolve()), path) == 0

    def mark(self, text: str) -> None:
        """Put a mark into the trace."""
        self._library.power_mark(text.encode())

    def fail(
        self, kinds: Kind, error: int = errno.EIO, *, first: int = 1, is_lasting: bool = False, name: str = ""
    ) -> None:
        """Let system calls fail.

        Args:
            kinds: Which ones.
            error: The error number that they fail with.
            first: The number of the first one that fails, from 1 on.
            is_lasting: Whether all that follow it fail too.
            name: Only calls count about a path that contains this text.
        """
        self._library.power_fail(int(kinds), error, ctypes.c_long(first), int(is_lasting), name.encode())

    def fail_no_more(self) -> None:
        """Let every system call succeed again. The counts stay."""
        self._library.power_fail_no_more()

    def calls(self) -> dict[str, int]:
        """Return how many calls of each kind there were."""
        return {str(kind.name): int(self._library.power_calls(int(kind))) for kind in Kind}

    @property
    def failed(self) -> int:
        """How many calls failed."""
        return int(self._library.power_failed())

    @property
    def failed_what(self) -> str:
        """The first call that failed, with its path seen from the root; empty if none did."""
        return (self._library.power_failed_what() or b"").decode()
