"""Runs the connect hooks of schema packs, and checks that they only added functions.

A hook gets the connection itself, because extensions take nothing less. It could turn off what durability and isolation depend on.
So hooks run before anything else: tenantry's own settings come after them. An authorizer refuses all SQL but SELECT without a table. What
SQL cannot change is compared before and after: the connection's attributes, its limits, and SQLite's options of the connection.
"""

import sqlite3
from collections.abc import Iterable
from typing import Final, NamedTuple

from tenantry.connect_hook import ConnectHook
from tenantry.errors import ConnectHookError
from tenantry.schema import Schema
from tenantry.storage.sqlite.statements.authorizer import UNSAFE_FUNCTIONS

_ALLOWED: Final = frozenset([sqlite3.SQLITE_SELECT, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE])
_ATTRIBUTES: Final = ("isolation_level", "row_factory", "text_factory", "in_transaction", "autocommit")
_LIMITS: Final = tuple(name for name in dir(sqlite3) if name.startswith("SQLITE_LIMIT_"))
# From Python 3.12; before, Python cannot set them.
_OPTIONS: Final = tuple(name for name in dir(sqlite3) if name.startswith("SQLITE_DBCONFIG_"))
_PROBE: Final = "SELECT 1"


class NamedHook(NamedTuple):
    """A connect hook.

    Attributes:
        owner: Where it was given, for errors.
        call: The hook.
        schema: The schema pack's name; None if it is not a pack's.
    """

    owner: str
    call: ConnectHook
    schema: str | None = None


def hooks_of(schemas: Iterable[Schema]) -> tuple[NamedHook, ...]:
    """Return the connect hooks of schema packs, in order."""
    return tuple(
        NamedHook(f"the connect hook of schema {schema.name!r}", schema.on_connect, schema.name)
        for schema in schemas
        if schema.on_connect is not None
    )


def run_hooks(hooks: Iterable[NamedHook], connection: sqlite3.Connection) -> None:
    """Run the hooks on a new connection, before any of tenantry's settings; remove its authorizer and progress handler.

    Raises:
        ConnectHookError: A hook failed, ran SQL that it may not run, or changed the connection. Close the connection.
    """
    for hook in hooks:
        before, authorizer = _state(connection), _Authorizer()
        connection.set_authorizer(authorizer)
        try:
            hook.call(connection)
            _reset(connection)
            changed = _changed(before, authorizer, connection)
        except Exception as error:
            refused = f" ({authorizer.refused})" if authorizer.refused else ""
            raise ConnectHookError(
                f"{hook.owner} failed, so no connection can be opened: {type(error).__name__}: {error}{refused}: correct the hook",
                schema=hook.schema,
            ) from error
        if changed:
            raise ConnectHookError(
                f"{hook.owner} {changed}: it may only add functions, aggregates, collations and extensions",
                schema=hook.schema,
            )
        connection.set_authorizer(None)


class _Authorizer:
    """Allows SELECT without a table, and functions.

    Attributes:
        refused: What it refused first; empty if it refused nothing.
        is_asked: Whether it was asked.
    """

    def __init__(self) -> None:
        self.refused = ""
        self.is_asked = False

    def __call__(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        self.is_asked = True
        is_unsafe = action == sqlite3.SQLITE_FUNCTION and str(second).lower() in UNSAFE_FUNCTIONS
        if action in _ALLOWED and not is_unsafe:
            return sqlite3.SQLITE_OK
        what = f"PRAGMA {first}" if action == sqlite3.SQLITE_PRAGMA else "SQL that uses the database"
        self.refused = self.refused or f"ran {what}"
        return sqlite3.SQLITE_DENY


def _changed(before: dict[str, object], authorizer: _Authorizer, connection: sqlite3.Connection) -> str:
    """Return what a hook did that it may not do; empty if nothing."""
    if authorizer.refused:
        return authorizer.refused
    authorizer.is_asked = False
    connection.execute(_PROBE).close()
    if not authorizer.is_asked:
        return "set an authorizer"
    connection.set_authorizer(None)
    after = _state(connection)
    return ", ".join(f"changed {name}" for name in before if before[name] != after[name])


def _state(connection: sqlite3.Connection) -> dict[str, object]:
    """Return what a hook may not change, by name."""
    state: dict[str, object] = {name: getattr(connection, name, None) for name in _ATTRIBUTES}
    state |= {name: connection.getlimit(getattr(sqlite3, name)) for name in _LIMITS}
    for name in _OPTIONS:
        state[name] = connection.getconfig(getattr(sqlite3, name))  # type: ignore[attr-defined,unused-ignore]
    return state


def _reset(connection: sqlite3.Connection) -> None:
    """Remove a hook's progress handler, which cannot be seen, and forbid further extensions, which a hook has to allow for its own."""
    connection.set_progress_handler(None, 0)
    if hasattr(connection, "enable_load_extension"):  # missing where Python was built without it
        connection.enable_load_extension(False)
