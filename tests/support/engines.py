"""The engine that runs the statements of SQLite databases in the tests, and in the processes that they start.

``TENANTRY_ENGINE=python make test-part`` runs the tests on Python's sqlite3, ``native`` on the engine in C. A module whose tests use the
fixture ``each_engine`` runs on each engine, whatever is set.

Import it by name (``tests/support`` is on pytest's path): ``from engines import using_engine``.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Final, cast, get_args

from tenantry.config import Engine, RegistryConfig, SQLiteConfig
from tenantry.environment import variable
from tenantry.storage.sqlite.engine.choice import module

ENGINES: Final[tuple[Engine, ...]] = ("native", "python")


def engine_module() -> ModuleType | None:
    """Return the engine's module for a `ThreadPool`; None if the tests run on Python's sqlite3."""
    return module(default_engine())


@contextmanager
def using_engine(engine: Engine) -> Iterator[None]:
    """Make an engine the default of registries and of standalone back ends in the block."""
    before = default_engine()
    _make_default(engine)
    try:
        yield
    finally:
        _make_default(before)


def default_engine() -> Engine:
    """Return the setting ``engine`` that registries and standalone back ends have now if none is given."""
    return cast("Engine", RegistryConfig.model_fields["engine"].default)


def _make_default(engine: Engine) -> None:
    for settings in (RegistryConfig, SQLiteConfig):
        settings.model_fields["engine"].default = engine
        settings.model_rebuild(force=True)


def _engine_of_this_run() -> Engine:
    name = os.environ.get(variable("engine")) or "auto"
    if name not in get_args(Engine):
        raise ValueError(f"{variable('engine')} is {name!r}: use one of {', '.join(get_args(Engine))}")
    return cast("Engine", name)


_make_default(_engine_of_this_run())
