"""The pipeline: statements in one round trip, their results, and the end of the connection."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import psycopg
import pytest
from psycopg import pq
from psycopg.pq.abc import PGresult

from postgres_servers import Database
from tenantry.storage.postgres.connections.lost_connection import ConnectionLostError
from tenantry.storage.postgres.connections.pipeline import OK, Pipeline
from tenantry.storage.postgres.connections.prepared_statements import PREPARED_STATEMENTS_MAX

SECONDS = 20.0


@pytest.fixture
def dsn(each_postgres_database: Database) -> str:
    """The address of an empty database, around a pooler."""
    return each_postgres_database.direct_url


async def opened(dsn: str, *, is_prepared: bool = True) -> Pipeline:
    """Open a connection in pipeline mode."""
    connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True, prepare_threshold=None)
    return Pipeline(connection, is_prepared=is_prepared)


@pytest.fixture
async def pipeline(dsn: str) -> AsyncIterator[Pipeline]:
    """Return a connection in pipeline mode."""
    pipeline = await opened(dsn)
    yield pipeline
    pipeline.close()


def values(part: Sequence[PGresult]) -> list[bytes | None]:
    """Return the first value of each result, and the SQLSTATE of each error."""
    return [
        result.get_value(0, 0) if result.status in OK else result.error_field(pq.DiagnosticField.SQLSTATE)
        for result in part
    ]


async def run(pipeline: Pipeline, *statements: str) -> list[bytes | None]:
    """Run the statements in one transaction, and return their values."""
    for sql in statements:
        pipeline.send(sql.encode())
    pipeline.sync()
    (part,) = await pipeline.results(SECONDS)
    return values(part)


async def terminate(dsn: str, pid: int) -> None:
    """End a server process, and wait for its end."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute("SELECT pg_terminate_backend(%s)", [pid])
        while await (
            await connection.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid])
        ).fetchone():
            pass


@pytest.mark.parametrize("is_prepared", [True, False])
async def test_each_statement_has_one_result_in_order(dsn: str, *, is_prepared: bool):
    """Preparing a statement has no result of its own, and a statement is prepared once."""
    pipeline = await opened(dsn, is_prepared=is_prepared)
    for _ in range(3):
        for n in range(5):
            pipeline.send(b"SELECT $1::int + 1", [b"%d" % n])
        pipeline.send(b"SELECT length($1::bytea)", [b"\0\1"], [1])
        pipeline.send(b"SELECT $1::text", [None])
        pipeline.sync()
        pipeline.send(b"SELECT 'second'")
        pipeline.sync()
        first, second = await pipeline.results(SECONDS)
        assert values(first) == [b"1", b"2", b"3", b"4", b"5", b"2", None]
        assert values(second) == [b"second"]
        assert pipeline.is_reusable
    assert pipeline.forget(b"SELECT 'second'") is is_prepared
    assert await run(pipeline, "SELECT 'second'") == [b"second"]
    pipeline.close()
    assert not pipeline.is_reusable


async def test_failure_aborts_its_own_transaction_only(pipeline: Pipeline):
    """The statements after a failed one do not run, those of the next transaction do, and all can be sent again."""
    for _ in range(2):
        for sql in (b"SELECT 1", b"SELECT 1 / 0", b"SELECT 3"):
            pipeline.send(sql)
        pipeline.sync()
        pipeline.send(b"SELECT 3")
        pipeline.sync()
        first, second = await pipeline.results(SECONDS)
        assert values(first) == [b"1", b"22012", None]
        assert values(second) == [b"3"]
    assert await run(pipeline, "SELECT nothing", "SELECT 1") == [b"42703", None]
    assert await run(pipeline, "SELECT 1") == [b"1"]


async def test_results_are_read_while_statements_are_sent(pipeline: Pipeline):
    """A batch whose statements and results exceed the buffers of both sides does not block."""
    text = b"x" * 100_000
    for _ in range(200):
        pipeline.send(b"SELECT $1::text", [text])
    pipeline.sync()
    (part,) = await pipeline.results(SECONDS)
    assert values(part) == [text] * 200


async def test_prepared_statements_are_bounded(pipeline: Pipeline):
    """The server never keeps more prepared statements than the maximum, even after an error."""
    for start in (0, 700, 1400):
        assert await run(pipeline, *(f"SELECT {n}" for n in range(start, start + 700))) == [
            b"%d" % n for n in range(start, start + 700)
        ]
    (count,) = await run(pipeline, "SELECT count(*) FROM pg_prepared_statements")
    assert count is not None
    assert int(count) <= PREPARED_STATEMENTS_MAX
    pipeline.forget_all()
    assert await run(pipeline, "SELECT 1 / 0", "SELECT 'new'") == [b"22012", None]
    pipeline.forget_all()
    assert await run(pipeline, "SELECT 1/ 0", "SELECT 'new'") == [b"22012", None]
    counts = "SELECT count(*) FROM pg_prepared_statements"
    assert await run(pipeline, counts, "SELECT 1", "SELECT 2") == [b"2", b"1", b"2"]
    assert await run(pipeline, counts, "SELECT 1", "SELECT 2") == [b"4", b"1", b"2"]
    pipeline.forget_all()
    assert await run(pipeline, counts, "SELECT 1", "SELECT 2") == [b"1", b"1", b"2"]
    assert await run(pipeline, counts, "SELECT 1", "SELECT 2") == [b"3", b"1", b"2"]


async def test_failed_transaction_can_be_rolled_back_while_statements_must_be_forgotten(pipeline: Pipeline):
    """The server forgets prepared statements only outside a failed transaction, where it would refuse that and the rollback behind it."""
    await run(pipeline, "BEGIN")
    assert await run(pipeline, "SELECT 1 / 0") == [b"22012"]
    pipeline.forget_all()
    await run(pipeline, "ROLLBACK")
    assert pipeline.is_reusable
    assert await run(pipeline, "SELECT count(*) FROM pg_prepared_statements") == [b"1"]


async def test_each_search_path_has_its_own_prepared_statements(pipeline: Pipeline):
    """Tenants that take turns on a connection keep their plans, and each sees its own table, also after the two were exchanged."""
    await run(pipeline, *(f"CREATE SCHEMA {name}" for name in "ab"))
    await run(pipeline, *(f"CREATE TABLE {name}.t AS SELECT '{name}'::text AS n" for name in "ab"))

    async def read(path: bytes, *statements: str) -> list[bytes | None]:
        pipeline.send_path(b"SELECT set_config('search_path', $1, true)", path)
        return (await run(pipeline, *statements))[1:]

    for _ in range(3):
        assert [await read(path, "SELECT n FROM t") for path in (b"a", b"b")] == [[b"a"], [b"b"]]
    kept = "SELECT count(*) || ' ' || max(generic_plans + custom_plans) FROM pg_prepared_statements WHERE statement = "
    assert await read(b"a", f"{kept} 'SELECT n FROM t'") == [b"2 3"]
    assert await read(b"a", f"{kept} 'SELECT set_config(''search_path'', $1, true)'") == [b"1 8"]
    await run(pipeline, *(f"ALTER SCHEMA {old} RENAME TO {new}" for old, new in ("ac", "ba", "cb")))
    assert [await read(path, "SELECT n FROM t") for path in (b"a", b"b")] == [[b"b"], [b"a"]]
    assert await read(b"a", "SELECT x FROM t") == [b"42703"]
    assert pipeline.forget(b"SELECT n FROM t")
    assert not pipeline.forget(b"SELECT n FROM t")
    assert await read(b"b", "SELECT n FROM t") == [b"a"]
    assert pipeline.forget(b"SELECT n FROM t")


async def test_ended_connection_is_noticed_without_a_use(pipeline: Pipeline, dsn: str):
    """An idle connection that the server ends is not reusable, and its next use says why it ended."""
    assert await run(pipeline, "SELECT 1") == [b"1"]
    await terminate(dsn, pipeline.backend_pid)
    while pipeline.is_open:  # noqa: ASYNC110  # the event loop notices the end
        await asyncio.sleep(0)
    with pytest.raises(ConnectionLostError) as lost:
        pipeline.send(b"SELECT 1")
    assert lost.value.code == "57P01"


async def test_end_in_the_middle_keeps_what_was_answered(pipeline: Pipeline):
    """The results of the transactions before the end are known, and the others are not."""
    pipeline.send(b"SELECT 1")
    pipeline.sync()
    pipeline.send(b"SELECT pg_terminate_backend(pg_backend_pid())")
    pipeline.sync()
    pipeline.send(b"SELECT 3")
    pipeline.sync()
    with pytest.raises(ConnectionLostError) as lost:
        await pipeline.results(SECONDS)
    assert [values(part) for part in lost.value.received] == [[b"1"]]
    assert values(lost.value.unfinished) == [b"57P01"]
    assert lost.value.code == "57P01"
    assert not pipeline.is_open


async def test_silent_server_loses_the_connection(pipeline: Pipeline):
    """After the deadline the socket is closed."""
    pipeline.send(b"SELECT pg_sleep(600)")
    pipeline.sync()
    with pytest.raises(ConnectionLostError, match="did not answer within"):
        await pipeline.results(0.01)
    assert not pipeline.is_open


async def test_cancellation_interrupts_the_running_statement(pipeline: Pipeline, dsn: str):
    """After a cancellation nothing runs on the server, and the connection is usable."""
    pipeline.send(b"SELECT pg_sleep(600)")
    pipeline.sync()
    waiting = asyncio.create_task(pipeline.results(SECONDS))
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as observer:
        query = "SELECT state FROM pg_stat_activity WHERE pid = %s"
        while (await (await observer.execute(query, [pipeline.backend_pid])).fetchone()) != ("active",):
            pass
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert pipeline.is_reusable
    assert await run(pipeline, "SELECT 1") == [b"1"]


async def test_failed_commit_has_a_result_of_its_own(pipeline: Pipeline):
    """A deferred constraint fails in the commit: the statements have succeeded, and the transaction is rolled back."""
    await run(
        pipeline, "CREATE TABLE t (id int PRIMARY KEY, parent int REFERENCES t DEFERRABLE INITIALLY DEFERRED)"
    )
    pipeline.send(b"INSERT INTO t VALUES (1, 2)")
    pipeline.sync()
    pipeline.send(b"SELECT count(*) FROM t")
    pipeline.sync()
    (written, failed), counted = await pipeline.results(SECONDS)
    assert written.status in OK
    assert failed.error_field(pq.DiagnosticField.SQLSTATE) == b"23503"
    assert values(counted) == [b"0"]
    assert pipeline.is_reusable


async def test_copy_runs_outside_the_pipeline(pipeline: Pipeline):
    """The block has psycopg's connection, and afterwards the pipeline goes on; a COPY inside the pipeline ends it."""
    assert await run(pipeline, "SELECT 1") == [b"1"]
    async with (
        pipeline.outside() as connection,
        connection.cursor() as cursor,
        cursor.copy("COPY (SELECT generate_series(1, 3)) TO STDOUT") as copy,
    ):
        assert [row async for row in copy.rows()] == [("1",), ("2",), ("3",)]
    assert await run(pipeline, "SELECT 1") == [b"1"]
    with pytest.raises(ZeroDivisionError):
        async with pipeline.outside():
            raise ZeroDivisionError
    assert not pipeline.is_open


async def test_connection_that_ends_at_the_end_of_the_block(pipeline: Pipeline, dsn: str):
    """If the connection ends after the block's work, the block does not fail, and the next use does."""
    async with pipeline.outside() as connection:
        cursor = await connection.execute("SELECT 1")
        assert await cursor.fetchone() == (1,)
        await terminate(dsn, pipeline.backend_pid)
        with pytest.raises(psycopg.OperationalError):
            await connection.execute("SELECT 1")
    assert not pipeline.is_open
    with pytest.raises(ConnectionLostError):
        await run(pipeline, "SELECT 1")


async def test_copy_inside_the_pipeline_ends_it(pipeline: Pipeline):
    """The pipeline cannot carry a COPY, so it is closed and never waits for it."""
    pipeline.send(b"COPY (SELECT 1) TO STDOUT")
    pipeline.sync()
    with pytest.raises(ConnectionLostError):
        await pipeline.results(SECONDS)
    assert not pipeline.is_open
