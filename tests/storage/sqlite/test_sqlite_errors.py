"""What sqlite3 raises, told by its extended code and never by its text (rules 3 and 12)."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from stores import open_store, run
from tenantry import Repository
from tenantry.errors import (
    ConstraintViolationError,
    DatabaseCorruptError,
    DuplicateRecordError,
    PersistenceConnectionError,
    PersistenceError,
    QueryError,
    StorageFullError,
    TransactionClosedError,
)
from tenantry.eventlog import EventLog
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.storage.sqlite.errors import is_machine_failure, is_transient, map_connection_error, map_error
from tenantry.storage.standalone import StoreSession

MAPPED: dict[str, tuple[type[PersistenceError], bool]] = {
    "SQLITE_CONSTRAINT_PRIMARYKEY": (DuplicateRecordError, False),
    "SQLITE_CONSTRAINT_UNIQUE": (DuplicateRecordError, False),
    "SQLITE_CONSTRAINT_ROWID": (DuplicateRecordError, False),
    "SQLITE_CONSTRAINT_NOTNULL": (ConstraintViolationError, False),
    "SQLITE_CONSTRAINT_CHECK": (ConstraintViolationError, False),
    "SQLITE_CONSTRAINT_FOREIGNKEY": (ConstraintViolationError, False),
    "SQLITE_CONSTRAINT_TRIGGER": (ConstraintViolationError, False),
    "SQLITE_FULL": (StorageFullError, True),
    "SQLITE_CORRUPT": (DatabaseCorruptError, False),
    "SQLITE_CORRUPT_INDEX": (DatabaseCorruptError, False),
    "SQLITE_NOTADB": (DatabaseCorruptError, False),
    "SQLITE_CANTOPEN": (PersistenceConnectionError, True),
    "SQLITE_CANTOPEN_ISDIR": (PersistenceConnectionError, True),
    "SQLITE_BUSY": (QueryError, True),
    "SQLITE_BUSY_SNAPSHOT": (QueryError, True),
    "SQLITE_LOCKED": (QueryError, True),
    "SQLITE_INTERRUPT": (QueryError, True),
    "SQLITE_IOERR_FSYNC": (QueryError, True),
    "SQLITE_NOMEM": (QueryError, True),
    "SQLITE_READONLY": (QueryError, False),
    "SQLITE_TOOBIG": (QueryError, False),
    "SQLITE_ERROR": (QueryError, False),
}
"""The code's name, and what becomes of it: the error and whether a retry may help."""


def raised(name: str) -> sqlite3.Error:
    """Return an error as sqlite3 raises it, with a text that says something else."""
    error = sqlite3.DatabaseError("UNIQUE constraint failed: nothing.of_the_kind")
    error.sqlite_errorcode = getattr(sqlite3, name)
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize("name", MAPPED)
def test_code_decides(name: str):
    """The extended code says what it is; its name, the cause and what was being done are kept."""
    error_type, is_retryable = MAPPED[name]
    error = raised(name)
    mapped = map_error(error, "tasks.save")
    assert (type(mapped), mapped.is_retryable) == (error_type, is_retryable)
    assert (mapped.code, mapped.__cause__) == (name, error)
    assert str(mapped).startswith("tasks.save: ")


@pytest.mark.parametrize(
    "error",
    [
        OverflowError("too large"),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
        ValueError("embedded null character"),
        TypeError("not supported"),
        sqlite3.Warning("You can only execute one statement at a time."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_binding_raises_is_mapped_too(error: Exception):
    """Errors without a code are QueryErrors with the type's name for one."""
    mapped = map_error(error, "tasks.save")
    assert (type(mapped), mapped.code, mapped.is_retryable) == (QueryError, type(error).__name__, False)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            UnicodeDecodeError("utf-8", b"malformed database schema (\xff)", 27, 28, "invalid start byte"),
            "malformed database schema (\N{REPLACEMENT CHARACTER})",
        ),
        (
            sqlite3.OperationalError("Could not decode to UTF-8 column 'name' with text 'secret'"),
            "Could not decode to UTF-8 column 'name' (OperationalError)",
        ),
    ],
    ids=["message", "column"],
)
def test_what_is_not_utf_8_is_damage(error: Exception, said: str):
    """Python has no code for it; SQLite's message is kept, and what a row holds is not."""
    mapped = map_error(error, "cannot open a.db")
    assert (type(mapped), mapped.__cause__) == (DatabaseCorruptError, error)
    assert said in str(mapped)
    assert "secret" not in str(mapped)


def test_memory_that_ran_out_may_be_there_later():
    """Python raises MemoryError for SQLITE_NOMEM: the moment's failure, of the machine."""
    mapped = map_error(MemoryError(), "tasks.save")
    assert (type(mapped), mapped.is_retryable) == (QueryError, True)
    assert is_machine_failure(MemoryError())


SCHEMA = """
CREATE TABLE users (
    id INTEGER PRIMARY KEY, org TEXT, email TEXT UNIQUE, name TEXT NOT NULL CHECK (name <> ''), age INTEGER,
    CONSTRAINT grown CHECK (age >= 18), UNIQUE (org, name)
);
CREATE UNIQUE INDEX users_odd_age ON users (age % 1000) WHERE age % 2;
CREATE TABLE posts (n INTEGER REFERENCES users);
CREATE TRIGGER refusing BEFORE INSERT ON posts WHEN new.n < 0 BEGIN
    SELECT RAISE(ABORT, 'UNIQUE constraint failed: users.email');
END;
INSERT INTO users VALUES (1, 'acme', 'ada@example.com', 'ada', 21);
"""


@pytest.mark.parametrize(
    ("sql", "error_type", "constraint", "columns"),
    [
        ("(1, 'x', 'x', 'x', 20)", DuplicateRecordError, "users.id", ("users.id",)),
        ("(2, 'x', 'ada@example.com', 'x', 20)", DuplicateRecordError, "users.email", ("users.email",)),
        (
            "(2, 'acme', 'x', 'ada', 20)",
            DuplicateRecordError,
            "users.org, users.name",
            ("users.org", "users.name"),
        ),
        ("(2, 'x', 'x', 'x', 1021)", DuplicateRecordError, "users_odd_age", ()),
        ("(2, 'x', 'x', NULL, 20)", ConstraintViolationError, "users.name", None),
        ("(2, 'x', 'x', '', 20)", ConstraintViolationError, "name <> ''", None),
        ("(2, 'x', 'x', 'x', 2)", ConstraintViolationError, "grown", None),
        ("posts VALUES (9)", ConstraintViolationError, None, None),
        ("posts VALUES (-1)", ConstraintViolationError, None, None),
    ],
)
def test_constraints_are_named(
    sql: str, error_type: type[PersistenceError], constraint: str | None, columns: tuple[str, ...] | None
):
    """What is taken, or what refused the row, is an attribute of the error; a trigger's text is not believed."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(f"PRAGMA foreign_keys = ON; {SCHEMA}")
        with pytest.raises(sqlite3.IntegrityError) as caught:
            connection.execute(f"INSERT INTO {'' if 'VALUES' in sql else 'users VALUES '}{sql}")
    mapped = map_error(caught.value, "users.save")
    assert type(mapped) is error_type
    assert mapped.constraint == constraint
    assert getattr(mapped, "columns", None) == columns


async def test_a_repository_says_what_is_taken(tmp_path: Path):
    """A record that could not be written is not said to exist when it is its e-mail that is taken."""
    async with open_store(
        SQLiteOptions(path=tmp_path / "a.db"), *SCHEMA.split(";\n")[:2], SCHEMA.split("\n")[-2]
    ) as store:
        users = Repository(StoreSession(store, EventLog()))
        insert = run("INSERT INTO users VALUES (2, 'x', 'ada@example.com', 'x', 20)")
        with pytest.raises(
            DuplicateRecordError, match=r"user 2 was not written: another record has the same users\.email"
        ) as caught:
            await users.write(insert, user=2)
    assert (caught.value.record_id, caught.value.constraint) == ("2", "users.email")


def test_an_error_of_ours_is_given_out_once():
    """Each caller of a failed batch raises an instance of its own, equal in all it says."""
    error = TransactionClosedError("ended")
    error.__cause__ = ValueError("why")
    first, second = map_error(error, "a"), map_error(error, "b")
    assert (type(first), str(first), first.__cause__) == (TransactionClosedError, "ended", error.__cause__)
    assert len({id(error), id(first), id(second)}) == 3


@pytest.mark.parametrize(
    ("name", "error_type"),
    [
        ("SQLITE_BUSY", PersistenceConnectionError),
        ("SQLITE_IOERR_READ", PersistenceConnectionError),
        ("SQLITE_CANTOPEN", PersistenceConnectionError),
        ("SQLITE_FULL", StorageFullError),
        ("SQLITE_NOTADB", DatabaseCorruptError),
    ],
)
def test_failure_to_open_is_a_connections(name: str, error_type: type[PersistenceError]):
    """Opening and closing fail as a connection, unless the disk is full or the file damaged; the code is kept."""
    error = raised(name)
    mapped = map_connection_error(error, "cannot open a.db")
    assert (type(mapped), mapped.code, mapped.__cause__) == (error_type, name, error)


@pytest.mark.parametrize(
    ("name", "may_pass"),
    [
        ("SQLITE_BUSY", True),
        ("SQLITE_BUSY_RECOVERY", True),
        ("SQLITE_IOERR_FSYNC", True),
        ("SQLITE_NOMEM", True),
        ("SQLITE_FULL", True),
        ("SQLITE_READONLY", False),
        ("SQLITE_READONLY_DBMOVED", False),
        ("SQLITE_PERM", False),
        ("SQLITE_CANTOPEN", False),
        ("SQLITE_AUTH", False),
    ],
)
def test_the_machines_failures(name: str, may_pass: bool):  # noqa: FBT001  # a parameter of the test
    """They say nothing against the statement; some pass by themselves, others wait for an operator."""
    assert is_machine_failure(raised(name))
    assert is_transient(raised(name)) is may_pass


@pytest.mark.parametrize(
    "error",
    [raised("SQLITE_CONSTRAINT_CHECK"), raised("SQLITE_ERROR"), raised("SQLITE_TOOBIG"), ValueError()],
    ids=str,
)
def test_the_statements_failures_are_not_the_machines(error: Exception):
    """What the SQL or its values did fails again."""
    assert not is_machine_failure(error)
    assert not is_transient(error)
