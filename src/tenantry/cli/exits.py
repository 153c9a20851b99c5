"""The exit codes of commands, and the error that ends a command with an exit code."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, Final


class Exit(IntEnum):
    """The exit code of a command."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    UNREACHABLE = 3
    KEY = 4
    LATER = 5
    INTERRUPTED = 130


MEANINGS: Final = {
    Exit.DONE: "done",
    Exit.REFUSED: "refused, failed, or found a problem",
    Exit.USAGE: "the command line, or a file or setting that it names, is not valid",
    Exit.UNREACHABLE: "the service or the data directory cannot be reached",
    Exit.KEY: "the key is missing, invalid, or not allowed to do this",
    Exit.LATER: "refused for now: the same command may succeed later",
    Exit.INTERRUPTED: "interrupted",
}
"""The meanings of the exit codes, which docs/service.md repeats."""

EPILOG: Final = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in MEANINGS.items()) + "."


class CommandError(Exception):
    """Ends a command with an error.

    Args:
        exit_code: The exit code.
        message: The error message for people.
        problem: The problem for programs (RFC 9457), as the service sent it.
    """

    def __init__(self, exit_code: Exit, message: str, *, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.problem = dict(problem or {"title": MEANINGS[exit_code].capitalize(), "detail": message})


@contextmanager
def needs_extra() -> Iterator[None]:
    """Raise an error that names the extra to install if an import in the block fails."""
    try:
        yield
    except ImportError as error:
        raise CommandError(
            Exit.USAGE, f"this command needs {error.name}: pip install 'tenantry[service]'"
        ) from error
