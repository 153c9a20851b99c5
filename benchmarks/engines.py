"""tenantry's engines as sides of one run: the registry's settings are the same but for `engine`."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from tenantry import RegistryConfig

T = TypeVar("T")

NATIVE = "tenantry (native)"
PYTHON = "tenantry (python)"


def by_engine(open_store: Callable[..., T]) -> dict[str, Callable[..., T]]:
    """Return the names of tenantry's sides and what opens each: the native engine first, so that it is held against the others.

    Where the native engine cannot be used, the Python store is the only side, and the one that is held against the others.

    Args:
        open_store: Opens a registry; takes settings by keyword.
    """
    if "engine" not in RegistryConfig.model_fields:
        return {PYTHON: open_store}
    return {
        NATIVE: partial(open_store, engine="native"),
        PYTHON: partial(open_store, engine="python"),
    }
