"""Schema packs, each a named set of migrations and the repositories that use its tables.

A pack is a Python package with a directory of migrations for each back end, in SQL or in Python::

    invoices/
        __init__.py
        migrations/sqlite/0001_invoices.sql
        migrations/sqlite/0002_totals.py
        migrations/postgres/0001_invoices.sql
        migrations/postgres/0002_totals.py

`tenantry.company.COMPANY` is the built-in schema pack, and works like any other pack.
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
        name: Lower-case letters, digits and ``_``. Applied migrations are stored with the name, so the name must never change.
        package: The importable package that contains the files ``migrations/<backend>/NNNN_name.sql`` or ``.py``.
        repositories: The types of the repositories, by the attribute of a tenant's handle. For example, ``{"notes": NoteRepository}``
            makes ``tenant.notes`` a `NoteRepository`.
        on_connect: A function that adds the pack's SQL functions and collations to each SQLite connection.
    """

    name: str
    package: str
    repositories: Mapping[str, type[Repository]] = field(default_factory=dict, hash=False)
    on_connect: ConnectHook | None = None

    def __post_init__(self) -> None:
        if not _SCHEMA_NAME.fullmatch(self.name):
            raise MigrationError(
                f"{self.name!r} is not a schema name: use a letter of a-z, then up to 39 characters of a-z, 0-9 and '_'"
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
        """Return the pack's migrations for a back end, in order. Each process reads the files only once.

        Raises:
            MigrationError: A migration is missing or not valid, see `tenantry.schemas.migration.read_migrations`.
        """
        return _read_once(self.name, self.package, backend)


def check_schemas(schemas: Sequence[Schema], *, taken: Collection[str] = ()) -> None:
    """Check that the packs can be used together, and that no repository hides one of a handle's attributes (`taken`).

    Raises:
        MigrationError: A pack is not a `Schema`, the number of packs is too large, two packs or repositories have the same name, or a repository's name is taken.
    """
    if isinstance(schemas, Schema | str):
        raise MigrationError(f"schemas= is a list of packs, not {schemas!r}: pass schemas=[…]")
    if len(schemas) > SCHEMAS_MAX:
        raise MigrationError(
            f"{len(schemas)} schemas exceed the limit of {SCHEMAS_MAX}: combine several schemas into one"
        )
    seen: set[str] = set()
    owners: dict[str, str] = {}
    for schema in schemas:
        if not isinstance(schema, Schema):
            raise MigrationError(
                f"schemas= has {schema!r}, which is not a tenantry.Schema: pass the pack itself"
            )
        if schema.name in seen:
            raise MigrationError(
                f"two schemas are named {schema.name!r}: rename one of them, or list the pack only once",
                schema=schema.name,
            )
        seen.add(schema.name)
        for name in schema.repositories:
            if name in taken:
                raise MigrationError(
                    f"schema {schema.name!r}: repository {name!r} has the same name as an attribute of every tenant's handle: "
                    "give the repository another name",
                    schema=schema.name,
                )
            if name in owners:
                raise MigrationError(
                    f"the schemas {owners[name]!r} and {schema.name!r} both have a repository {name!r}: rename one repository",
                    schema=schema.name,
                )
            owners[name] = schema.name
