"""Loads each module at the first use of one of its names: a short command then loads only the necessary modules."""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module


def lazy_names(package: str, places: Mapping[str, Sequence[str]]) -> Callable[[str], object]:
    """Return a package's ``__getattr__`` (PEP 562), which loads modules at the first use of their names.

    Args:
        package: The name of the package.
        places: The modules, each with the names that it provides for the package.
    """
    modules = {name: module for module, names in places.items() for name in names}

    def load(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(modules[name]), name)
        # Store the attribute: Python then does not call this function for the attribute again.
        setattr(sys.modules[package], name, value)
        return value

    return load
