"""Loads each module at the first use of one of its names: a short command then loads only the necessary modules."""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import MappingProxyType


def lazy_names(
    package: str, places: Mapping[str, Sequence[str]], extras: Mapping[str, str] = MappingProxyType({})
) -> Callable[[str], object]:
    """Return a package's ``__getattr__`` (PEP 562), which loads modules at the first use of their names.

    Args:
        package: The name of the package.
        places: The modules, each with the names that it provides for the package.
        extras: For modules that need other packages: the extra of tenantry that installs them. An error of the import names it.
    """
    modules = {name: module for module, names in places.items() for name in names}

    def load(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            value = getattr(import_module(modules[name]), name)
        except ModuleNotFoundError as error:
            if modules[name] not in extras:
                raise
            raise ModuleNotFoundError(
                f"{package}.{name} needs the package {error.name}: pip install 'tenantry[{extras[modules[name]]}]'",
                name=error.name,
            ) from error
        # Store the attribute: Python then does not call this function for the attribute again.
        setattr(sys.modules[package], name, value)
        return value

    return load
