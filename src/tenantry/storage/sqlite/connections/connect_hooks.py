"""Runs the connect hooks of schema packs, and checks that they only added functions.

A hook gets the sqlite3 connection itself, because SQLite extensions need it. With the connection a hook could turn off settings that
protect durability and isolation. Hooks therefore run first, and tenantry's own settings are applied last. An authorizer refuses all
SQL except SELECT without a table. The connection's attributes, limits and options are compared before and after the hook.
"""

import sqlite3
from collections.abc import Coroutine, Iterable
from typing import Final, NamedTuple

from tenantry.errors import ConnectHookError
from tenantry.schemas.connect_hook import ConnectHook
from tenantry.schemas.schema import Schema
from tenantry.storage.sqlite.statements.authorizer import UNSAFE_FUNCTIONS

_ALLOWED: Final = frozenset([sqlite3.SQLITE_SELECT, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE])
_ATTRIBUTES: Final = ("isolation_level", "row_factory", "text_factory", "in_transaction", "autocommit")
_LIMITS: Final = tuple(name for name in dir(sqlite3) if name.startswith("SQLITE_LIMIT_"))
# Python before 3.12 cannot set these options.
_OPTIONS: Final = tuple(name for name in dir(sqlite3) if name.startswith("SQLITE_DBCONFIG_"))
# No hook runs this text: SQLite does not ask the authorizer about a statement that the connection prepared earlier.
_PROBE: Final = "SELECT 'Is the authorizer of tenantry called?'"


class NamedHook(NamedTuple):
    """A connect hook. `owner` describes the hook in errors, and `schema` is the name of the hook's schema pack, if any."""

    owner: str
    call: ConnectHook
    schema: str | None = None


def hooks_of(schemas: Iterable[Schema]) -> tuple[NamedHook, ...]:
    """Return the connect hooks of the schema packs, in the order of the packs."""
    return tuple(
        NamedHook(f"the connect hook of schema {schema.name!r}", schema.on_connect, schema.name)
        for schema in schemas
        if schema.on_connect is not None
    )


def run_hooks(hooks: Iterable[NamedHook], connection: sqlite3.Connection) -> None:
    """Run the hooks on a new connection, before tenantry applies its own settings; remove the hooks' progress handlers.

    Raises:
        ConnectHookError: A hook failed, ran forbidden SQL, or changed the connection. The caller must close the connection.
    """
    for hook in hooks:
        before, authorizer = _state(connection), _Authorizer()
        connection.set_authorizer(authorizer)
        try:
            result: object = hook.call(connection)
            _reset(connection)
            changed = _changed(before, authorizer, connection)
            if isinstance(result, Coroutine):
                result.close()
                changed = "is an async function, which does not run when it is called"
        except BaseException as error:  # SystemExit would end the event loop and so the program
            refused = f" ({authorizer.refused})" if authorizer.refused else ""
            raise ConnectHookError(
                f"{hook.owner} failed, so no connection can be opened: {type(error).__name__}: {error}{refused}: correct the hook",
                schema=hook.schema,
            ) from error
        if changed:
            raise ConnectHookError(
                f"{hook.owner} {changed}: a hook may only add functions, aggregates, collations and extensions",
                schema=hook.schema,
            )
        connection.set_authorizer(None)


class _Authorizer:
    """An authorizer that allows function calls, and a SELECT without a table."""

    def __init__(self) -> None:
        self.refused = ""  # the first refused action
        self.is_asked = False  # whether SQLite called the authorizer

    def __call__(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        self.is_asked = True
        is_unsafe = action == sqlite3.SQLITE_FUNCTION and str(second).lower() in UNSAFE_FUNCTIONS
        if action in _ALLOWED and not is_unsafe:
            return sqlite3.SQLITE_OK
        what = f"PRAGMA {first}" if action == sqlite3.SQLITE_PRAGMA else "SQL that uses the database"
        self.refused = self.refused or f"ran {what}"
        return sqlite3.SQLITE_DENY


def _changed(before: dict[str, object], authorizer: _Authorizer, connection: sqlite3.Connection) -> str:
    """Return the forbidden actions of a hook as text; empty if the hook did nothing forbidden."""
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
    """Return the settings that a hook may not change, by name."""
    state: dict[str, object] = {name: getattr(connection, name, None) for name in _ATTRIBUTES}
    state |= {name: connection.getlimit(getattr(sqlite3, name)) for name in _LIMITS}
    for name in _OPTIONS:
        state[name] = connection.getconfig(getattr(sqlite3, name))  # type: ignore[attr-defined,unused-ignore]
    return state


def _reset(connection: sqlite3.Connection) -> None:
    """Remove the hook's progress handler, which cannot be inspected, and disable the loading of extensions."""
    connection.set_progress_handler(None, 0)
    if hasattr(connection, "enable_load_extension"):  # a Python built without extensions lacks this method
        connection.enable_load_extension(False)
