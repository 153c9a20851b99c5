"""Reads migrations, which are the numbered files of a schema pack, in SQL or in Python.

The files for a back end are in one directory and share one sequence of numbers. A SQL migration is a file of statements. A Python
migration is a file with one function::

    def migrate(session: MigrationSession) -> None:
        for note in session.fetch_all("SELECT id, body FROM notes"):
            session.execute("UPDATE notes SET words = ? WHERE id = ?", (len(note.body.split()), note.id))
"""

import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from types import ModuleType
from typing import Final, Protocol, TypeAlias

from tenantry.errors import MigrationError
from tenantry.sql.row import Row

_FILE_NAME: Final = re.compile(r"(?P<version>[0-9]{4})_(?P<name>[a-z0-9_]+)\.(?P<language>sql|py)")
_FUNCTION: Final = "migrate"


class MigrationSession(Protocol):
    """Runs the statements of a Python migration, inside the migration's transaction.

    As in a SQL migration, statements may not end the transaction, set a pragma of the connection, or attach a database. A failed
    statement fails the migration, even if the function catches the error. The session ends when the function ends.
    """

    def execute(self, sql: str, parameters: Sequence[object] = (), /) -> int:
        """Run one statement that returns no rows, and return the number of inserted, updated or deleted rows."""

    def execute_many(self, sql: str, rows: Iterable[Sequence[object]], /) -> int:
        """Run one INSERT, UPDATE or DELETE for each row of parameters, and return the total number of changed rows."""

    def fetch_one(self, sql: str, parameters: Sequence[object] = (), /) -> Row | None:
        """Run one statement and return the first row of its result; None if the result has no rows."""

    def fetch_all(self, sql: str, parameters: Sequence[object] = (), /) -> list[Row]:
        """Run one statement and return all rows of its result. All rows are in memory, so read a large table in parts."""


MigrationFunction: TypeAlias = Callable[[MigrationSession], None]


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered migration of a schema pack.

    Attributes:
        schema: The pack's name.
        version: The migration's number. Numbers start at 1 and have no gaps.
        name: The part of the file name after the number.
        sql: One or more statements, without transaction control; empty for a Python migration.
        checksum: The SHA-256 digest of the file's bytes, in hexadecimal.
        function: The function of a Python migration; None for a SQL migration.
    """

    schema: str
    version: int
    name: str
    sql: str
    checksum: str
    function: MigrationFunction | None = None

    def __str__(self) -> str:
        return f"{self.schema} {self.version:04d}_{self.name}"

    @property
    def file_name(self) -> str:
        """The name of the migration's file."""
        return f"{self.version:04d}_{self.name}.{'sql' if self.function is None else 'py'}"


def read_migrations(schema: str, package: str, backend: str) -> tuple[Migration, ...]:
    """Read the migrations in the directory ``migrations/<backend>`` of a pack's package, in order, and import the Python migrations.

    Raises:
        MigrationError: The pack has no migrations. A file is not named ``NNNN_name.sql`` or ``NNNN_name.py``. A number is missing or used
            twice. A Python file cannot be imported, or has no function ``migrate``.
    """
    try:
        directory = resources.files(package) / "migrations" / backend
        files = sorted((f for f in directory.iterdir() if _is_migration(f.name)), key=lambda f: f.name)
    except ModuleNotFoundError as error:
        raise MigrationError(
            f"the package {package!r} of schema {schema!r} cannot be imported: {error}", schema=schema
        ) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MigrationError(
            f"schema {schema!r} has no migrations for {backend}: expected {package}/migrations/{backend}/0001_….sql",
            schema=schema,
        ) from error
    migrations = []
    for expected, file in enumerate(files, start=1):
        match = _parse_name(schema, file.name)
        if int(match["version"]) != expected:
            raise MigrationError(
                f"schema {schema!r} for {backend}: expected migration {expected:04d}, found {schema} {file.name}: numbers start at "
                "0001, have no gaps, and are shared by SQL and Python files",
                schema=schema,
                version=expected,
            )
        module_name = f"{package}.migrations.{backend}.{file.name.removesuffix('.py')}"
        migrations.append(_read(schema, match, file.read_bytes(), str(file), module_name))
    if not migrations:
        raise MigrationError(
            f"schema {schema!r} has no migrations in its directory for {backend}: expected {package}/migrations/{backend}/0001_….sql",
            schema=schema,
        )
    return tuple(migrations)


def _is_migration(file_name: str) -> bool:
    return file_name.endswith((".sql", ".py")) and file_name != "__init__.py"


def _parse_name(schema: str, file_name: str) -> re.Match[str]:
    match = _FILE_NAME.fullmatch(file_name)
    if match is None:
        raise MigrationError(
            f"schema {schema!r}: {file_name!r} is not a migration's file name: use NNNN_name.sql or NNNN_name.py",
            schema=schema,
        )
    return match


def _read(schema: str, match: re.Match[str], content: bytes, path: str, module_name: str) -> Migration:
    version = int(match["version"])
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MigrationError(
            f"schema {schema!r}: {match[0]} is not UTF-8: {error}", schema=schema, version=version
        ) from error
    is_sql = match["language"] == "sql"
    return Migration(
        schema=schema,
        version=version,
        name=match["name"],
        sql=text if is_sql else "",
        checksum=hashlib.sha256(content).hexdigest(),
        function=None if is_sql else _load_function(schema, version, content, path, module_name),
    )


def _load_function(
    schema: str, version: int, content: bytes, path: str, module_name: str
) -> MigrationFunction:
    """Run a migration's file as a module and return the module's function.

    This function runs exactly the bytes that the checksum covers, because an import could use older code from ``__pycache__``. The
    module is in `sys.modules` under its import name, so a later import does not run the module again.
    """

    def refusal(why: str) -> MigrationError:
        del sys.modules[module_name]
        return MigrationError(
            f"schema {schema!r}: the migration {path} {why}", schema=schema, version=version
        )

    module = ModuleType(module_name)
    module.__file__ = path
    module.__package__ = module_name.rpartition(".")[0]
    # Register the module first, as an import does, because dataclasses of a running module look up the module.
    sys.modules[module_name] = module
    try:
        exec(compile(content, path, "exec"), module.__dict__)  # noqa: S102  # the pack's own code
    except (Exception, SystemExit) as error:  # SystemExit would end the program without a message
        raise refusal(f"cannot be imported: {type(error).__name__}: {error}") from error
    function = getattr(module, _FUNCTION, None)
    if not callable(function):
        raise refusal("has no function migrate: add def migrate(session: MigrationSession) -> None")
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    if any(is_kind(function) for is_kind in kinds):
        raise refusal(
            "has a function with async or yield, and calling such a function does not run it: use a plain def"
        )
    return function  # type: ignore[no-any-return]  # a module's attribute
