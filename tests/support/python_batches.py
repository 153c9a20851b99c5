"""Counts the batches that run in Python instead of the engine in C.

Import it by name (``tests/support`` is on pytest's path): ``from python_batches import counted_batches``.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from tenantry.storage.sqlite.statements import batch


@contextmanager
def counted_batches() -> Iterator[list[str]]:
    """Yield a list that gets ``write`` or ``read`` for each batch that Python's functions run in the block."""
    found: list[str] = []

    def counted(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        found.append(name)
        return function(*arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(batch, "write_batch", partial(counted, "write", batch.write_batch))
        patched.setattr(batch, "read_batch", partial(counted, "read", batch.read_batch))
        yield found
