"""The catalog's database on each back end, as its administrator sees it.

Import it by name (``tests/support`` is on pytest's path): ``from catalogs import SQLiteCatalog``.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import psycopg

from postgres_servers import Database

AUDIT_TRIGGERS = (
    *("admin_audit_appended", "admin_audit_not_updated", "admin_audit_not_deleted"),
    *("admin_audit_inserted", "admin_audit_not_changed", "admin_audit_moved"),
)


class CatalogDatabase(Protocol):
    """A catalog's database: its settings, and statements of the administrator."""

    @property
    def name(self) -> str:
        """The name of the back end."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a registry with this catalog."""

    def query(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run one statement with ``?`` for each value, and return the rows of its result."""

    def drop_trigger(self, name: str, table: str) -> None:
        """Drop a trigger; a missing trigger is not an error."""


class SQLiteCatalog:
    """The catalog in a data directory."""

    name = "sqlite"

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "catalog.db"

    @property
    def settings(self) -> dict[str, Any]:
        """No settings: this catalog is the default."""
        return {}

    def query(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """See `CatalogDatabase.query`."""
        with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
            return connection.execute(sql, parameters).fetchall()

    def drop_trigger(self, name: str, table: str) -> None:  # noqa: ARG002  # PostgreSQL needs the table
        """See `CatalogDatabase.drop_trigger`."""
        self.query(f"DROP TRIGGER IF EXISTS {name}")


class PostgresCatalog:
    """The catalog in a schema of a PostgreSQL database."""

    name = "postgres"

    def __init__(self, database: Database) -> None:
        self._url = database.direct_url
        self._settings = {"database": database.url}

    @property
    def settings(self) -> dict[str, Any]:
        """The setting that names the database."""
        return dict(self._settings)

    def query(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """See `CatalogDatabase.query`."""
        with psycopg.connect(self._url, autocommit=True, options="-c search_path=tenantry") as connection:
            cursor = connection.execute(sql.replace("%", "%%").replace("?", "%s").encode(), parameters)
            return cursor.fetchall() if cursor.description is not None else []

    def drop_trigger(self, name: str, table: str) -> None:
        """See `CatalogDatabase.drop_trigger`."""
        self.query(f"DROP TRIGGER IF EXISTS {name} ON {table}")
