"""Schema packs: a named set of migrations and the repositories that use its tables.

A pack is a Python package with a directory of migrations for each back end, in SQL or in Python::

    invoices/
        __init__.py
        migrations/sqlite/0001_invoices.sql
        migrations/sqlite/0002_totals.py
        migrations/postgres/0001_invoices.sql
        migrations/postgres/0002_totals.py

`tenantry.company.COMPANY` is the pack that ships with tenantry. It is a pack like any other.
"""

import keyword
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from tenantry.errors import MigrationError
from tenantry.schemas.connect_hook import ConnectHook
from tenantry.schemas.migration import Migration, read_migrations
from tenantry.sql.repository import Repository
from tenantry.texts import SCHEMAS_MAX

_SCHEMA_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_read_once = cache(read_migrations)


@dataclass(frozen=True, slots=True)
class Schema:
    """A named pack of migrations, with the repositories that use its tables.

    Attributes:
        name: Lower-case letters, digits and ``_``; stored with every applied migration, so it never changes.
        package: The importable package that has the files ``migrations/<backend>/NNNN_name.sql``, or ``.py``.
        repositories: The attributes that a tenant's handle gets, and their types: with
            ``{"notes": NoteRepository}``, ``tenant.notes`` is a `NoteRepository`.
        on_connect: Adds the functions and collations that the pack's tables and statements use to each SQLite connection.
    """

    name: str
    package: str
    repositories: Mapping[str, type[Repository]] = field(default_factory=dict, hash=False)
    on_connect: ConnectHook | None = None

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
            MigrationError: See `tenantry.schemas.migration.read_migrations`.
        """
        return _read_once(self.name, self.package, backend)


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
