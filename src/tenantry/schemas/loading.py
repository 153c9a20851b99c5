"""Loads schema packs by names such as ``module:PACK``, for the command line and for settings."""

import importlib
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

from tenantry.environment import SCHEMAS_DEFAULT
from tenantry.errors import MigrationError, SettingsError
from tenantry.schemas.schema import Schema, check_schemas


def load_schemas(names: Sequence[str]) -> tuple[Schema, ...]:
    """Return the packs with these names, such as ``invoices:INVOICES``, in the given order; without names, return the built-in pack.

    Modules are imported from the installed packages, or else from the current directory.

    Raises:
        SettingsError: The module or the variable does not exist, the variable is not a schema pack, or the packs cannot be used together.
    """
    schemas = tuple(map(_load, names or (SCHEMAS_DEFAULT,)))
    try:
        check_schemas(schemas)
    except MigrationError as error:
        raise SettingsError(str(error)) from error
    return schemas


def _load(name: str) -> Schema:
    module_name, _, variable = name.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), variable)):
        raise SettingsError(
            f"{name!r} does not name a schema pack: write the module and the variable, such as invoices:INVOICES"
        )
    module, found = _imported(module_name, variable, name)
    if isinstance(found, Schema):
        return found
    packs = [each for each, value in vars(module).items() if isinstance(value, Schema)]
    what = "has no" if found is None else f"has a {type(found).__name__}, not a tenantry.Schema, as"
    raise SettingsError(
        f"the schema pack {name!r}: {module.__file__ or module_name} {what} {variable!r}; its packs are: "
        f"{', '.join(packs) or 'none'}"
    )


def _imported(module_name: str, variable: str, name: str) -> tuple[ModuleType, object]:
    directory = str(Path.cwd())
    if directory not in sys.path:
        # The directory comes last, so that its files never replace an installed module.
        sys.path.append(directory)
    try:
        with redirect_stdout(sys.stderr):  # the output of a module's code is not part of a command's result
            module = importlib.import_module(module_name)
            # Read the variable here, because a module may create a variable only when the variable is first used.
            return module, getattr(module, variable, None)
    except (Exception, SystemExit) as error:  # the code of a pack may raise anything
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise SettingsError(
                f"the schema pack {name!r}: there is no module {error.name!r} in the current directory ({directory}) or among "
                f"the packages of {sys.executable}: install the module, set PYTHONPATH, or run this program in its directory"
            ) from error
        raise SettingsError(
            f"the schema pack {name!r}: importing {module_name!r} failed with {type(error).__name__}: {error}"
        ) from error
