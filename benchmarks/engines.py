"""tenantry's engines as sides of one run: the registry's settings are the same but for `engine`."""

import sys
from collections.abc import Callable
from functools import cache, partial
from typing import Final, TypeVar

from tenantry.storage.sqlite.engine.choice import choose

T = TypeVar("T")

NATIVE_ENGINE: Final = "native"
PYTHON_ENGINE: Final = "python"
NATIVE: Final = f"tenantry ({NATIVE_ENGINE})"
PYTHON: Final = f"tenantry ({PYTHON_ENGINE})"


def by_engine(open_store: Callable[..., T]) -> dict[str, Callable[..., T]]:
    """Return the names of tenantry's sides and what opens each: the native engine first, so that it is held against the others.

    Where the native engine cannot be used, the Python store is the only side, and the one that is held against the others.

    Args:
        open_store: Opens a registry; takes settings by keyword.
    """
    choice = choose("auto")
    if choice.name != NATIVE_ENGINE:
        tell_left_out(NATIVE, str(choice.reason))
        return {PYTHON: partial(open_store, engine=PYTHON_ENGINE)}
    return {
        NATIVE: partial(open_store, engine=NATIVE_ENGINE),
        PYTHON: partial(open_store, engine=PYTHON_ENGINE),
    }


@cache
def tell_left_out(side: str, reason: str) -> None:
    """Print once that a side is left out, and why."""
    print(f"benchmarks: the side '{side}' is left out: {reason}", file=sys.stderr)
