"""Limits of the number of open files of the tests' process."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def open_files_limited_to(files: int) -> Iterator[None]:
    """Let this process open at most so many files while the block runs. The limit must not be above the machine's hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
