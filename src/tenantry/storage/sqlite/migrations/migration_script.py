"""Runs one migration inside the transaction that also records the migration's number.

Statements are executed one by one, because Python's ``executescript`` commits the open transaction before it runs the script.
SQLite's authorizer keeps the statements from ending the transaction and from changing the connection.
"""

import sqlite3
from collections.abc import Callable, Iterator
from typing import Final

from tenantry.storage.python_migrations import BrokenScriptError
from tenantry.storage.sqlite.statements.authorizer import (
    TRANSACTIONS,
    RefusedActionError,
    judge_control,
    judged,
    makes_temporary,
)
from tenantry.storage.sqlite.statements.sql_text import quoted

ALLOWED_PRAGMAS: Final = ("defer_foreign_keys", "foreign_keys", "legacy_alter_table")
"""The pragmas that a migration may set. Foreign keys are off during a step, and the other pragmas are reset after the step."""

_ADVICE: Final = (
    "drop the views and triggers that name the table; create the table under a new name, copy the rows, drop the old table and rename "
    "the new table; create the views and triggers again; or begin the migration with PRAGMA legacy_alter_table = ON "
    "(https://www.sqlite.org/lang_altertable.html, section 7)"
)
_SCHEMA: Final = (
    "SELECT type, name, sql FROM sqlite_schema WHERE type IN ('table', 'trigger', 'view') ORDER BY name"
)
_FIND_CHILDREN: Final = """
SELECT DISTINCT child.name FROM sqlite_schema AS child, pragma_foreign_key_list(child.name, 'main') AS key
WHERE child.type = 'table' AND key."table" = ? COLLATE NOCASE ORDER BY child.name
"""
_SHOWN_MAX: Final = 5
# Virtual tables come first, because dropping a virtual table also drops its shadow tables.
_FIND_TEMPORARY: Final = """
SELECT type, name FROM sqlite_temp_schema
WHERE type IN ('table', 'trigger', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name <> 'tenantry_orphans'
ORDER BY type = 'table', sql NOT LIKE 'CREATE VIRTUAL TABLE%' LIMIT 1
"""


class _StepJudge:
    """Authorizes the actions of a step, and records some of them."""

    def __init__(self) -> None:
        self.dropped: set[str] = set()  # the tables that the step dropped
        # A query for temporary tables, indexes, views and triggers would open the connection's temporary database.
        self.has_temporary = False

    def __call__(
        self, action: int, first: str | None, second: str | None, database: str | None
    ) -> str | None:
        if action == sqlite3.SQLITE_DROP_TABLE:
            self.dropped.add(str(first))
        self.has_temporary = self.has_temporary or makes_temporary(action, first, database)
        if action == sqlite3.SQLITE_PRAGMA and str(first).lower() in ALLOWED_PRAGMAS:
            return None
        return judge_control(action, first, second, database)


def run_script(script: str, connection: sqlite3.Connection) -> None:
    """Run a migration's statements; see `run_step`."""

    def run() -> None:
        for statement in split_statements(script):
            connection.execute(statement)

    run_step(run, connection)


def run_step(run: Callable[[], None], connection: sqlite3.Connection) -> None:
    """Call `run`, which executes a migration's statements, then drop the temporary objects that the statements created.

    Raises:
        sqlite3.Error: A statement failed.
        BrokenScriptError: A statement is not allowed, or a view, trigger or foreign key refers to a dropped table.
    """
    before, judge = _schema(connection), _StepJudge()
    try:
        with judged(judge, connection):
            run()
    except RefusedActionError as error:
        raise _refusal(error) from error
    except sqlite3.OperationalError as error:
        # SQLite's message begins with "error in" if a rename breaks a view or a trigger, or if DROP COLUMN breaks a constraint.
        # SQLite's message about an added column, such as an untyped column in a STRICT table, needs no advice.
        if not str(error).startswith("error in ") or " after add column: " in str(error):
            raise
        raise BrokenScriptError(f"{error}: {_ADVICE}", code=error.sqlite_errorname) from error
    if judge.has_temporary:
        _drop_temporary(connection)
    _check_references(judge.dropped, before, connection)


def split_statements(script: str) -> Iterator[str]:
    """Yield the statements of a script, using SQLite's own tokenizer to find the end of each statement."""
    statement = ""
    for part in script.split(";"):
        statement += f"{part};"
        if sqlite3.complete_statement(statement):
            if statement.strip() != ";":
                yield statement
            statement = ""
    # The last part ends with a semicolon that is not in the script.
    rest = statement.removesuffix(";")
    if rest.strip():
        yield rest


def _refusal(error: RefusedActionError) -> BrokenScriptError:
    action = error.action
    if action.startswith("PRAGMA"):
        why = (
            f"a migration may set only {', '.join(ALLOWED_PRAGMAS)}, and tenantry sets the other pragmas when it opens the "
            "database: remove the statement"
        )
    elif action in TRANSACTIONS:
        why = "tenantry runs it in a transaction: remove the statement"
    else:
        why = f"{error.reason}: remove the statement"
    return BrokenScriptError(f"a migration may not use {action}: {why}", code="SQLITE_AUTH")


def _schema(connection: sqlite3.Connection) -> dict[tuple[str, str], str]:
    """Return the SQL of each table, trigger and view, by type and name."""
    return {(kind, name): sql for kind, name, sql in connection.execute(_SCHEMA)}


def _check_references(
    dropped: set[str], before: dict[tuple[str, str], str], connection: sqlite3.Connection
) -> None:
    """Refuse references to a table that the step created and dropped.

    After ``ALTER TABLE users RENAME TO old_users`` all views, triggers and foreign keys of ``users`` refer to ``old_users``. A step that
    then creates a new ``users`` and drops ``old_users`` leaves references to a dropped table.
    """
    scratch = {name for name in dropped if ("table", name) not in before}
    if not scratch:
        return
    after = _schema(connection)
    changed = {key: sql for key, sql in after.items() if before.get(key) != sql and key[0] != "table"}
    for table in sorted(scratch):
        found = [f"table {child}" for (child,) in connection.execute(_FIND_CHILDREN, (table,))]
        # When SQLite renames a table, it writes the new name in double quotes.
        written = quoted(table).lower()
        found += [f"{kind} {name}" for (kind, name), sql in changed.items() if written in sql.lower()]
        if found and ("table", table) not in after:
            raise BrokenScriptError(
                f"the step leaves a reference to the dropped table {table} in {', '.join(found[:_SHOWN_MAX])}: {_ADVICE}",
                code="SQLITE_ERROR",
            )


def _drop_temporary(connection: sqlite3.Connection) -> None:
    """Drop the temporary objects of a step, because they would hide the tenant's tables from later statements."""
    while (found := connection.execute(_FIND_TEMPORARY).fetchone()) is not None:
        kind, name = found
        connection.execute(f"DROP {kind} temp.{quoted(name)}")
