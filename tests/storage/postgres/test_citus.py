"""Citus: the statements that are sent. The extension cannot be installed here, so a connection that records takes its place."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from postgres_servers import Database
from postgres_stores import open_stores
from tenantry.storage.postgres import citus
from tenantry.storage.postgres.connections.thread_connections import ThreadConnection

if TYPE_CHECKING:
    from psycopg import Connection


class RecordingConnection:
    """Answers queries with prepared rows, and keeps the statements."""

    def __init__(self, *answers: Sequence[tuple[Any, ...]]) -> None:
        self._answers = list(answers)
        self.statements: list[str] = []

    def execute(self, statement: str) -> "RecordingConnection":
        """Keep the statement."""
        self.statements.append(" ".join(statement.split()))
        return self

    def fetchone(self) -> tuple[Any, ...] | None:
        """Return the first row of the next answer."""
        return next(iter(self._answers.pop(0)), None)

    def fetchall(self) -> Sequence[tuple[Any, ...]]:
        """Return the next answer."""
        return self._answers.pop(0)


def spread(connection: RecordingConnection) -> str:
    """Ask a recording connection."""
    return citus.describe_spread(cast("Connection[tuple[Any, ...]]", connection))


def test_without_the_extension():
    """Only the extension is looked for."""
    connection = RecordingConnection([])
    assert spread(connection) == "none"
    assert connection.statements == ["SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'citus'"]


def test_the_spread_of_schemas():
    """The schemas of Citus' own view are counted by node."""
    connection = RecordingConnection([("13.0-1",)], [("db1:5432", 12), ("db2:5432", 11)])
    assert spread(connection) == "Citus 13.0-1, distributed schemas: 12 on db1:5432, 11 on db2:5432"
    assert "FROM citus_schemas AS s LEFT JOIN citus_shards AS sh" in connection.statements[1]


def test_the_setting_is_harmless_without_the_extension(postgres_database: Database):
    """A server without Citus accepts the setting, and forgets it with the transaction."""
    with ThreadConnection.connect(postgres_database.direct_url, autocommit=True) as connection:
        with connection.transaction():
            connection.execute(citus.DISTRIBUTE.encode())
        shown = connection.execute("SELECT current_setting('citus.enable_schema_based_sharding', true)")
        assert shown.fetchone() in {("",), (None,)}


async def test_a_new_tenants_schema_is_distributed(postgres_database: Database):
    """The setting comes before the schema, and the schema and its tables are separate statements of one transaction."""
    with ThreadConnection.connect(postgres_database.direct_url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE public.seen (setting text);"
            "CREATE FUNCTION public.see() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.seen VALUES "
            "(current_setting('citus.enable_schema_based_sharding', true)); END$$;"
            "CREATE EVENT TRIGGER see ON ddl_command_start WHEN TAG IN ('CREATE SCHEMA') EXECUTE FUNCTION public.see()"
        )
        async with open_stores(postgres_database) as stores:
            store = stores.make()
            await store.connect()
            await store.disconnect()
        assert connection.execute("SELECT setting FROM public.seen").fetchall() == [("on",)]
