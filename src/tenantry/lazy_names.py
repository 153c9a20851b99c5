"""Names of a package that are loaded at their first use, so that a short command does not load what it does not need."""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module


def lazy_names(package: str, places: Mapping[str, Sequence[str]]) -> Callable[[str], object]:
    """Return the ``__getattr__`` of a package (PEP 562).

    Args:
        package: The package.
        places: The names that each module has for the package.
    """
    modules = {name: module for module, names in places.items() for name in names}

    def load(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(modules[name]), name)
        # The next time it is an attribute like any other.
        setattr(sys.modules[package], name, value)
        return value

    return load
