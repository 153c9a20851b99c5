"""Schema packs: a named set of migrations and the repositories that use its tables.

A pack is a Python package with a directory of migrations for each back end::

    invoices/
        __init__.py
        migrations/sqlite/0001_invoices.sql
        migrations/postgres/0001_invoices.sql

`tenantry.company.COMPANY` is the pack that ships with tenantry. It is a pack like any other.
"""

import hashlib
import keyword
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

from tenantry.errors import MigrationError
from tenantry.repository import Repository
from tenantry.texts import SCHEMAS_MAX

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
    """A named pack of migrations, with the repositories that use its tables.

    Attributes:
        name: Lower-case letters, digits and ``_``; stored with every applied migration, so it never changes.
        package: The importable package that holds ``migrations/<backend>/NNNN_name.sql``.
        repositories: The attributes that a tenant's handle gets, and their types: with
            ``{"notes": NoteRepository}``, ``tenant.notes`` is a `NoteRepository`.
    """

    name: str
    package: str
    repositories: Mapping[str, type[Repository]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not _SCHEMA_NAME.fullmatch(self.name):
            raise MigrationError(
                f"{self.name!r} is not a schema's name: use a letter, then up to 39 of a-z, 0-9 and '_'"
            )
        given: Mapping[str, object] = self.repositories
        for name, repository in given.items():
            if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
                raise MigrationError(
                    f"schema {self.name!r}: {name!r} cannot name a repository: use a Python name that does not begin "
                    "with '_'",
                    schema=self.name,
                )
            if not (isinstance(repository, type) and issubclass(repository, Repository)):
                raise MigrationError(
                    f"schema {self.name!r}: repository {name!r} must be a subclass of tenantry.Repository, not "
                    f"{repository!r}",
                    schema=self.name,
                )
        object.__setattr__(self, "repositories", dict(self.repositories))

    def migrations(self, backend: str) -> tuple[Migration, ...]:
        """Return the pack's migrations for a back end, in order; read once in a process.

        Raises:
            MigrationError: There are none, a file's name is not ``NNNN_name.sql``, or a number is missing or twice.
        """
        return _load(self, backend)


def check_schemas(schemas: Sequence[Schema], *, taken: Collection[str] = ()) -> None:
    """Raise unless the packs can be used together.

    Args:
        schemas: The packs.
        taken: The attributes of a tenant's handle, which no repository may hide.

    Raises:
        MigrationError: There are too many packs, two packs or two repositories have one name, or a repository's name is taken.
    """
    if len(schemas) > SCHEMAS_MAX:
        raise MigrationError(f"{len(schemas)} schemas are more than {SCHEMAS_MAX}: put several into one pack")
    seen: set[str] = set()
    owners: dict[str, str] = {}
    for schema in schemas:
        if schema.name in seen:
            raise MigrationError(
                f"two schemas are named {schema.name!r}: each needs a name of its own", schema=schema.name
            )
        seen.add(schema.name)
        for name in schema.repositories:
            if name in taken:
                raise MigrationError(
                    f"schema {schema.name!r}: repository {name!r} has the name of an attribute that every tenant's handle "
                    "has: give the repository another name",
                    schema=schema.name,
                )
            if name in owners:
                raise MigrationError(
                    f"the schemas {owners[name]!r} and {schema.name!r} both have a repository {name!r}: give one of them "
                    "another name",
                    schema=schema.name,
                )
            owners[name] = schema.name


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
