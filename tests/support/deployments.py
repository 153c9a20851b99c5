"""A deployment: a data directory, and with it a PostgreSQL database or none. It can be copied, read and removed.

The URL of the database is in a file beside the data directory, so that other processes find it, too.

Import it by name (``tests/support`` is on pytest's path): ``from deployments import Deployments``.
"""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from postgres_servers import PostgresServer
from tenantry import RegistryConfig
from tenants import database_path, query, stored_contents


def config_of(data_dir: Path, **settings: Any) -> RegistryConfig:
    """Return the settings of a registry on a deployment."""
    url = url_of(data_dir)
    return RegistryConfig(data_dir=data_dir, **settings, **({} if url is None else {"database": url}))


def url_of(data_dir: Path) -> str | None:
    """Return the URL of the deployment's database; None if everything is in files."""
    beside = _file_of(data_dir)
    return beside.read_text() if beside.exists() else None


def _file_of(data_dir: Path) -> Path:
    return data_dir.with_name(f"{data_dir.name}.url")


def stored_tenants(data_dir: Path) -> list[dict[str, Any]]:
    """Return the rows of the table of tenants in a deployment's database."""
    with psycopg.connect(url_of(data_dir) or "") as connection:
        found = connection.execute("SELECT * FROM tenantry.tenants ORDER BY id")
        columns = [column.name for column in found.description or ()]
        return [dict(zip(columns, row, strict=True)) for row in found]


def stored_messages(data_dir: Path) -> dict[str, list[str]]:
    """Return the messages in each schema of a deployment's database, but for what restores replaced."""
    with psycopg.connect(url_of(data_dir) or "") as connection:
        schemas = connection.execute(
            "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'tenant\\_%' AND nspname !~ '[.]p[0-9]+$'"
        ).fetchall()
        return {
            schema: [
                content
                for (content,) in connection.execute(
                    f'SELECT content FROM "{schema}".messages ORDER BY seq'.encode()
                )
            ]
            for (schema,) in schemas
        }


def stored_texts(data_dir: Path, tenant_id: str) -> list[str]:
    """Return what is in the messages of a tenant of a deployment, read without tenantry."""
    if url_of(data_dir) is None:
        return stored_contents(data_dir, tenant_id)
    return stored_messages(data_dir)[f"tenant_{tenant_id}"]


def stored_ids(data_dir: Path, tenant_id: str) -> list[bytes]:
    """Return the ids of the messages of a tenant of a deployment, read without tenantry."""
    url = url_of(data_dir)
    if url is None:
        return [found for (found,) in query(database_path(data_dir, tenant_id), "SELECT id FROM messages")]
    with psycopg.connect(url) as connection:
        rows = connection.execute(f"SELECT id FROM tenant_{tenant_id}.messages".encode())
        return [found.bytes if isinstance(found, uuid.UUID) else bytes(found) for (found,) in rows]


class Deployments:
    """Makes and copies deployments, with a database on the server or without."""

    def __init__(self, server: PostgresServer | None) -> None:
        self._server = server
        self._databases = ExitStack()

    @property
    def is_on_server(self) -> bool:
        """Whether each deployment has a database."""
        return self._server is not None

    def make(self, data_dir: Path) -> None:
        """Make a deployment that is empty."""
        if self._server is not None:
            self._note(data_dir, self._server)

    def copy(self, before: Path, after: Path) -> None:
        """Copy a deployment that no process uses."""
        shutil.copytree(before, after)
        if self._server is not None:
            name = psycopg.conninfo.conninfo_to_dict(url_of(before) or "")["dbname"]
            self._note(after, self._server, template=f'"{name}"')

    def aclose(self) -> None:
        """Drop the databases."""
        self._databases.close()

    def _note(self, data_dir: Path, server: PostgresServer, **options: str) -> None:
        database = self._databases.enter_context(server.database(**options))
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        _file_of(data_dir).write_text(database.url)


@contextmanager
def deployments(server: PostgresServer | None) -> Iterator[Deployments]:
    """Yield what makes deployments, and drop their databases after the block."""
    made = Deployments(server)
    try:
        yield made
    finally:
        made.aclose()
