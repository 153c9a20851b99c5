"""Schema packs: a named set of migrations and the repositories that use its tables.

A pack is a Python package with a directory of migrations for each back end::

    invoices/
        __init__.py
        migrations/sqlite/0001_invoices.sql
        migrations/postgres/0001_invoices.sql

`company` is the pack that ships; users bring their own, and both are opened in the same way.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

from tenantry.errors import MigrationError

_FILE_NAME = re.compile(r"(?P<version>[0-9]{4})_(?P<name>[a-z0-9_]+)\.sql")
_SCHEMA_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered step of a schema.

    Attributes:
        schema: The pack's name.
        version: Its number; the first is 1 and there are no gaps.
        name: What the file's name says after the number.
        sql: One or more statements, without transaction control.
        checksum: SHA-256 of the file's bytes, in hexadecimal.
    """

    schema: str
    version: int
    name: str
    sql: str
    checksum: str

    def __str__(self) -> str:
        return f"{self.schema} {self.version:04d}_{self.name}"


@dataclass(frozen=True, slots=True)
class Schema:
    """A named pack of migrations.

    Attributes:
        name: Lower-case letters, digits and ``_``; stored with every applied migration, so it never changes.
        package: The importable package that holds ``migrations/<backend>/NNNN_name.sql``.
    """

    name: str
    package: str

    def __post_init__(self) -> None:
        if not _SCHEMA_NAME.fullmatch(self.name):
            raise MigrationError(
                f"{self.name!r} is not a schema's name: use a letter, then up to 39 of a-z, 0-9 and '_'"
            )

    def migrations(self, backend: str) -> tuple[Migration, ...]:
        """Return the pack's migrations for a back end, in order; read once in a process.

        Raises:
            MigrationError: There are none, a file's name is not ``NNNN_name.sql``, or a number is missing or twice.
        """
        return _load(self, backend)


@cache
def _load(schema: Schema, backend: str) -> tuple[Migration, ...]:
    try:
        directory = resources.files(schema.package) / "migrations" / backend
        files = sorted((f for f in directory.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    except ModuleNotFoundError as error:
        raise MigrationError(
            f"the package {schema.package!r} of schema {schema.name!r} cannot be imported: {error}",
            schema=schema.name,
        ) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MigrationError(
            f"schema {schema.name!r} has no migrations for {backend}: expected "
            f"{schema.package}/migrations/{backend}/0001_….sql",
            schema=schema.name,
        ) from error
    migrations = tuple(_parse(schema.name, f.name, f.read_bytes()) for f in files)
    for expected, migration in enumerate(migrations, start=1):
        if migration.version != expected:
            raise MigrationError(
                f"schema {schema.name!r} for {backend}: expected migration {expected:04d}, found {migration}: "
                "numbers start at 0001 and have no gaps",
                schema=schema.name,
                version=expected,
            )
    if not migrations:
        raise MigrationError(
            f"schema {schema.name!r} has an empty directory of migrations for {backend}", schema=schema.name
        )
    return migrations


def _parse(schema: str, file_name: str, content: bytes) -> Migration:
    match = _FILE_NAME.fullmatch(file_name)
    if match is None:
        raise MigrationError(
            f"schema {schema!r}: {file_name!r} is not a migration's name: use NNNN_name.sql", schema=schema
        )
    try:
        sql = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MigrationError(
            f"schema {schema!r}: {file_name} is not UTF-8: {error}", schema=schema
        ) from error
    return Migration(
        schema=schema,
        version=int(match["version"]),
        name=match["name"],
        sql=sql,
        checksum=hashlib.sha256(content).hexdigest(),
    )
