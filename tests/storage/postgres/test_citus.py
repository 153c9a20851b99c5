"""Citus: the statements that are sent. The extension cannot be installed here, so a connection that records takes its place."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from psycopg import pq

from postgres_servers import Database
from postgres_stores import Stores, admin, open_stores, rows, run
from postgres_tenants import PLACE, opened
from stores import HANG_SECONDS, connected
from tenantry.errors import ConstraintViolationError, DuplicateRecordError, TenantOwnedElsewhereError
from tenantry.eventlog import EventLog
from tenantry.limits import TenantLimits
from tenantry.sql.statements import Statement
from tenantry.storage.postgres import citus
from tenantry.storage.postgres.connections.errors import FENCED, code_of
from tenantry.storage.postgres.connections.thread_connections import ThreadConnection
from tenantry.storage.postgres.owner import Owner
from tenantry.storage.postgres.statements.head import Head, Mark
from tenantry.tenancy.catalog.catalog import CATALOG
from tenantry.testing.conformance.store_check import keyed

if TYPE_CHECKING:
    from psycopg import Connection

    from tenantry.storage.postgres.connections.pipeline import Pipeline


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


class RecordingPipeline:
    """Keeps the statements."""

    def __init__(self) -> None:
        self.statements: list[str] = []

    def send(self, sql: bytes, values: Sequence[bytes | None] = ()) -> None:
        """Keep the statement; the number of its values is right."""
        assert all(f"${number}" in sql.decode() for number in range(1, len(values) + 1))
        self.statements.append(" ".join(sql.decode().split()))

    def send_path(self, sql: bytes, path: bytes) -> None:
        """Keep the statement that sets the search path."""
        self.send(sql, [path])


@pytest.mark.parametrize("is_sharded", [True, False])
def test_the_mark_has_no_subquery_on_a_cluster(*, is_sharded: bool):
    """Citus refuses an INSERT beside subqueries, so guard and mark are two statements there, and one elsewhere."""
    head = Head(Owner("tenant_acme", "uid", "acme"), "writer", settings={}, is_sharded=is_sharded)
    pipeline = RecordingPipeline()
    head.begin_write(cast("Pipeline", pipeline), Mark(1, 1))
    (mark,) = [statement for statement in pipeline.statements if "INSERT" in statement]
    assert len(pipeline.statements) == head.guarded_commands == (3 if is_sharded else 2)
    assert ("SELECT" in mark) is not is_sharded
    if is_sharded:
        assert mark.startswith("INSERT INTO tenantry_batches")
        assert "FOR UPDATE" in pipeline.statements[1]


@pytest.fixture
async def stores(postgres_database: Database) -> AsyncIterator[Stores]:
    """Stores on a server without the extension, which the statements do not need."""
    async with open_stores(postgres_database) as stores:
        yield stores


TABLE = "CREATE TABLE t (id bigint PRIMARY KEY, n bigint NOT NULL)"


def insert(row_id: int, n: int | None = 0) -> tuple[Statement]:
    """Return a unit that inserts a row."""
    return (run("INSERT INTO t VALUES (?, ?)", row_id, n),)


async def test_failures_find_their_units_after_two_statements(stores: Stores):
    """Units fail together, alone, with keys and in a transaction, as with one statement."""
    async with connected(stores.make(is_sharded=True), TABLE) as store:
        broken = [insert(-number, None) for number in range(1, 5)]
        key = keyed(insert(1))
        assert await store.write([key]) == [[None]]
        *failed, one, two, three = await store.write([*broken, key, insert(2), insert(2)])
        assert [type(error) for error in failed] == [ConstraintViolationError] * 4
        assert (one, two, type(three)) == ([None], [None], DuplicateRecordError)
        transaction = await store.begin()
        assert await transaction.write(insert(3)) == [None]
        await transaction.commit()
        assert await rows(store, "SELECT id FROM t ORDER BY id") == [(1,), (2,), (3,)]


async def test_two_statements_fence_and_refuse_late_marks(stores: Stores, postgres_database: Database):
    """A mark that does not rise fails its transaction, and so does another epoch."""
    async with connected(stores.make(is_sharded=True), TABLE) as store:
        await store.write([insert(1)])
        async with stores.pool.connection(timeout_seconds=HANG_SECONDS) as pipeline:
            store._head.begin_write(pipeline, Mark(1, 1))
            pipeline.send(b"INSERT INTO t VALUES (2, 0)")
            pipeline.sync()
            ((*_, mark, late),) = await pipeline.results(HANG_SECONDS)
        assert (code_of(mark), late.status) == (FENCED, pq.ExecStatus.PIPELINE_ABORTED)
        await admin(postgres_database, f"UPDATE {store._owner.schema}.tenantry_owner SET epoch = epoch + 1")
        with pytest.raises(TenantOwnedElsewhereError):
            await store.write([insert(2)])
        assert await rows(store, "SELECT id FROM t") == [(1,)]


async def test_a_back_end_knows_the_extension(postgres_database: Database, tmp_path: Path):
    """Tenants' stores send two statements in a database with the extension; the catalog stays on the coordinator and sends one."""
    with ThreadConnection.connect(postgres_database.direct_url, autocommit=True) as connection:
        connection.execute("SET allow_system_table_mods = on")
        connection.execute(
            "INSERT INTO pg_extension VALUES (99999, 'citus', 10, 11, false, '13.0-1', NULL, NULL)"
        )
    async with opened(postgres_database.url, tmp_path) as backend:
        tenant = backend.store(PLACE, limits=TenantLimits(), log=EventLog(), is_new=True)
        assert tenant._head.guarded_commands == 3
        assert backend.catalog(CATALOG, log=EventLog())._head.guarded_commands == 2
