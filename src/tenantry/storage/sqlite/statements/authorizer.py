"""Authorizes the SQL of repositories and migrations, which share their connection with other callers.

SQLite's authorizer callback decides whether SQL may run, not the text of the SQL
(https://www.sqlite.org/c3ref/set_authorizer.html). SQLite calls the authorizer for each action while it prepares a statement,
before the action takes effect. Some actions take effect during preparation: preparing ``EXPLAIN PRAGMA query_only = ON`` sets the
pragma. When an authorizer is set, SQLite prepares every cached statement again, so the authorizer also covers cached statements.

The authorizer refuses actions that outlive their statement. Examples are a pragma that changes the connection, a temporary table that
hides a table of the tenant, an attached database, and the end of a transaction that several callers share.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

from tenantry.storage.moves import JOURNAL

Judge: TypeAlias = Callable[[int, str | None, str | None, str | None], str | None]
"""Takes an action's code, its two arguments and its database; returns the name of a refused action, or None for an allowed action.

SQLite's list of action codes and arguments: https://www.sqlite.org/c3ref/c_alter_table.html
"""

TRANSACTIONS: Final = ("BEGIN, COMMIT or ROLLBACK", "a savepoint")
_OWN_TABLE: Final = "the table "
_CONTROL: Final = {
    sqlite3.SQLITE_TRANSACTION: TRANSACTIONS[0],
    sqlite3.SQLITE_SAVEPOINT: TRANSACTIONS[1],
    sqlite3.SQLITE_ATTACH: "ATTACH or VACUUM",  # VACUUM attaches the database that it writes
    sqlite3.SQLITE_DETACH: "DETACH",
}
_CREATE: Final = frozenset(
    [
        sqlite3.SQLITE_CREATE_INDEX,
        sqlite3.SQLITE_CREATE_TABLE,
        sqlite3.SQLITE_CREATE_TRIGGER,
        sqlite3.SQLITE_CREATE_VIEW,
        sqlite3.SQLITE_CREATE_VTABLE,
    ]
)
_CREATE_TEMPORARY: Final = frozenset(
    [
        sqlite3.SQLITE_CREATE_TEMP_INDEX,
        sqlite3.SQLITE_CREATE_TEMP_TABLE,
        sqlite3.SQLITE_CREATE_TEMP_TRIGGER,
        sqlite3.SQLITE_CREATE_TEMP_VIEW,
    ]
)
# SQLite reports CREATE TRIGGER temp.name as a trigger of the main database. Only an INSERT into these tables shows a temporary trigger.
_TEMPORARY_SCHEMA: Final = frozenset(["sqlite_temp_master", "sqlite_temp_schema"])
# The argument of fts3_tokenizer is the memory address of code to run (https://www.sqlite.org/fts3.html, section 8.1).
UNSAFE_FUNCTIONS: Final = frozenset(["fts3_tokenizer", "load_extension"])
_OWN_TABLES: Final = frozenset(
    ["schema_migrations", JOURNAL, "tenantry_forwarded", "tenantry_idempotency", "tenantry_owner"]
)
_JOURNAL_PREFIX: Final = f"{JOURNAL}_"
_CHANGES: Final = frozenset(
    [
        *(sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE),
        *(sqlite3.SQLITE_CREATE_TABLE, sqlite3.SQLITE_DROP_TABLE),
    ]
)
# The table is the second argument of these actions, but the first argument of all other changes.
_CHANGES_BESIDE: Final = frozenset(
    [
        *(sqlite3.SQLITE_ALTER_TABLE, sqlite3.SQLITE_CREATE_TRIGGER, sqlite3.SQLITE_CREATE_INDEX),
        *(sqlite3.SQLITE_DROP_TRIGGER, sqlite3.SQLITE_DROP_INDEX),
    ]
)
# SQLite does not report the statements of a new trigger, or the new name of a table, so the text is searched.
_NAMED_IN_TEXT: Final = frozenset([sqlite3.SQLITE_CREATE_TRIGGER, sqlite3.SQLITE_ALTER_TABLE])
# Pragmas that only read, even with an argument. Table-valued functions such as pragma_table_info run the pragma of the same name.
_REPORTING: Final = frozenset(
    [
        *("foreign_key_check", "foreign_key_list", "index_info", "index_list", "index_xinfo"),
        *("integrity_check", "quick_check", "table_info", "table_list", "table_xinfo"),
    ]
)
# Pragmas that act even without an argument. Every other pragma without an argument only reads a value.
_ACTING: Final = frozenset(["incremental_vacuum", "optimize", "shrink_memory", "wal_checkpoint"])


class RefusedActionError(Exception):
    """The authorizer refused an action before the SQL had any effect; `reason` says why."""

    # MigrationError and QueryError have the driver's error code.
    sqlite_errorname = "SQLITE_AUTH"

    def __init__(self, action: str) -> None:
        super().__init__(action)
        self.action = action
        self.reason = "all callers of this database share the connection"
        if action in TRANSACTIONS:
            self.reason += "; use tenant.transaction() for a transaction"
        elif action.startswith(_OWN_TABLE):
            self.reason = "this table holds tenantry's own data"


@contextmanager
def judged(judge: Judge, connection: sqlite3.Connection) -> Iterator[None]:
    """Call `judge` for each action of the SQL that the block runs.

    Raises:
        RefusedActionError: `judge` refused an action.
    """
    refused: list[str] = []

    def authorize(
        action: int, first: str | None, second: str | None, database: str | None, trigger: str | None
    ) -> int:
        if trigger is not None and trigger.startswith(_JOURNAL_PREFIX):
            # The journal of a move. No statement of a repository can create a trigger with such a name, see `judge_of`.
            return sqlite3.SQLITE_OK
        reason = judge(action, first, second, database)
        if reason is None:
            return sqlite3.SQLITE_OK
        refused.append(reason)
        return sqlite3.SQLITE_DENY

    connection.set_authorizer(authorize)
    try:
        yield
    except sqlite3.Error as error:
        if not refused:
            raise
        raise RefusedActionError(refused[0]) from error
    finally:
        connection.set_authorizer(None)


def makes_temporary(action: int, first: str | None, database: str | None) -> bool:
    """Return whether an action creates a table, index, view or trigger in the temporary database."""
    return (
        action in _CREATE_TEMPORARY
        or (action in _CREATE and database == "temp")
        or (action == sqlite3.SQLITE_INSERT and first in _TEMPORARY_SCHEMA)
    )


def judge_of(sql: str) -> Judge:
    """Return the `Judge` of a repository's statement.

    The judge also refuses a trigger that names one of tenantry's own tables: a statement that was authorized before the trigger
    existed would run the trigger's statements without an authorizer.
    """
    text = sql.lower()

    def judge(action: int, first: str | None, second: str | None, database: str | None) -> str | None:
        if action in _NAMED_IN_TEXT:
            for table in sorted(_OWN_TABLES):
                if table in text:
                    return _change_of(table)
        return judge_statement(action, first, second, database)

    return judge


def _change_of(table: str | None) -> str:
    return f"{_OWN_TABLE}{table} for anything but reading"


def judge_statement(action: int, first: str | None, second: str | None, database: str | None) -> str | None:
    """Authorize a repository's statement: see `Judge`."""
    if makes_temporary(action, first, database):
        return "temporary tables, indexes, views or triggers"
    return judge_control(action, first, second, database)


def judge_control(action: int, first: str | None, second: str | None, _database: str | None) -> str | None:
    """Refuse the actions that are forbidden to both statements and migrations: see `Judge`."""
    if action == sqlite3.SQLITE_PRAGMA:
        name = str(first).lower()
        is_report = name in _REPORTING or (second is None and name not in _ACTING)
        return None if is_report else f"PRAGMA {name}"
    if action == sqlite3.SQLITE_FUNCTION and str(second).lower() in UNSAFE_FUNCTIONS:
        return f"the function {second}"
    table = first if action in _CHANGES else second if action in _CHANGES_BESIDE else None
    name = str(table).lower()
    if name in _OWN_TABLES or name.startswith(_JOURNAL_PREFIX):
        return _change_of(table)
    if action == sqlite3.SQLITE_DROP_TRIGGER and str(first).lower().startswith(_JOURNAL_PREFIX):
        return _change_of(JOURNAL)
    return _CONTROL.get(action)
