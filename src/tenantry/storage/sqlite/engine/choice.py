"""Chooses the engine of this process: the extension in C where it can be used, otherwise Python's sqlite3.

Two SQLite libraries in one process that open the same file drop each other's locks (https://www.sqlite.org/howtocorrupt.html,
section 2.2.1). The extension therefore has no SQLite of its own: it looks up SQLite's functions in the library that Python's module
``_sqlite3`` uses. Where it does not find them there, it is not used.
"""

import platform
import sqlite3
import sys
import sysconfig
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Final

from tenantry.config import Engine
from tenantry.environment import variable
from tenantry.errors import SettingsError
from tenantry.storage.protocol import EngineChoice
from tenantry.storage.sqlite.engine.native import engine

_PYTHON_FIRST: Final = (3, 11)
_PYTHON_LAST: Final = (3, 13)
_NOT_BUILT: Final = Path(__file__).with_name(f"not_built.{sys.implementation.cache_tag}.txt")
"""The file in which `setup.py` leaves the reason if it cannot build the extension."""


def choose(wanted: Engine) -> EngineChoice:
    """Return the engine of this process. Each process loads the extension, or fails to load it, once.

    Args:
        wanted: The setting ``engine``.

    Raises:
        SettingsError: The setting is ``native``, and the extension cannot be used.
    """
    reason = f"the setting engine is {wanted!r}" if wanted == "python" else _why_not_native()
    if wanted == "native" and reason is not None:
        raise SettingsError(
            f"the setting engine is 'native', but the engine in C cannot be used: {reason}; or set {variable('engine')}=auto, and "
            "Python's sqlite3 runs the statements"
        )
    return EngineChoice(
        "native" if reason is None else "python", reason, sqlite3.sqlite_version, _sqlite_library()
    )


def module(wanted: Engine) -> ModuleType | None:
    """Return the module of the engine in C, if `choose` chooses it; None if Python runs the statements, or `choose` refuses."""
    return engine() if wanted != "python" and _why_not_native() is None else None


@cache
def _why_not_native() -> str | None:
    """Load the extension, and return None or the reason why it cannot be used."""
    if (reason := _unfit_python()) is not None:
        return reason
    try:
        engine()
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError):
            return _why_not_built()
        return f"the engine cannot be loaded ({error}): install tenantry again with this Python"
    except OSError as error:
        return (
            f"the engine cannot use the SQLite library of this Python ({error}): use a Python that loads the system's SQLite library, "
            "and load no other SQLite before it"
        )
    return None


def _unfit_python() -> str | None:
    """Return the reason why the extension cannot be used with this Python, whatever was built; None if it can."""
    this = f"{platform.python_implementation()} {platform.python_version()}"
    is_known = _PYTHON_FIRST <= sys.version_info[:2] <= _PYTHON_LAST
    if sys.implementation.name != "cpython" or not is_known or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return f"the engine knows CPython 3.11 to 3.13 with the interpreter's lock, and this is {this}: use one of these"
    if getattr(import_module("_sqlite3"), "__file__", None) is None:
        return (
            "SQLite is built into this Python, so the engine cannot find SQLite's functions: use a Python that loads the system's "
            "SQLite library"
        )
    return None


def _why_not_built() -> str:
    with suppress(OSError):
        reason = _NOT_BUILT.read_text(encoding="utf-8").strip()
        return f"the engine was not built, because {reason}: install what is missing, and then tenantry again (in a clone: make engine)"
    return "the engine was not built: install tenantry again where a C compiler, Python.h and sqlite3.h are"


@cache
def _sqlite_library() -> str | None:
    """Return the file of the SQLite library that this process has loaded, see proc_pid_maps(5)."""
    with suppress(OSError):
        for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
            _, slash, path = line.partition("/")
            if path.rpartition("/")[2].startswith("libsqlite3"):
                return slash + path
    return None
