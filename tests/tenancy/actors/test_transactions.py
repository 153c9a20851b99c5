"""Statements that run away, on real files: who is held up by them, for how long, and what is left when they are stopped.

A statement that would run for minutes stands for one that never ends: a test that ends interrupted it.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, closing, nullcontext
from pathlib import Path
from typing import Any

import anyio
import pytest

from stores import COUNT_TO_A_BILLION, open_store, read_rows, rows, run
from tenantry import RegistryConfig, TenantRegistry
from tenantry.errors import CallTimeoutError, QueryError, TenantError, TransactionClosedError
from tenantry.events import CallRefused
from tenantry.ids import TenantId
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenants import HANG_SECONDS, Recorder, make_message, stored_contents, until

pytestmark = pytest.mark.usefixtures("each_engine")

LONG_SECONDS = 1000.0
"""A deadline that no test reaches: what ends before it was ended by something else."""

RUNAWAY_READ = rows(COUNT_TO_A_BILLION)
RUNAWAY_WRITE = run(f"UPDATE messages SET content = ({COUNT_TO_A_BILLION})")

OPERATIONS = {"read": RUNAWAY_READ.name, "write": RUNAWAY_WRITE.name}
BOTH = pytest.mark.parametrize("kind", ["read", "write"])


@asynccontextmanager
async def two_tenants(data_dir: Path, **settings: Any) -> AsyncIterator[TenantRegistry]:
    """Open a registry with two tenants, where one batch of each kind runs at a time."""
    settings = {
        "write_jobs_max": 1,
        "read_jobs_max": 1,
        "call_timeout_seconds": LONG_SECONDS,
        "transaction_timeout_seconds": LONG_SECONDS,
        **settings,
    }
    config = RegistryConfig(data_dir=data_dir, **settings)
    async with TenantRegistry(config) as registry:
        for tenant_id in ("acme", "globex"):
            await registry.create(tenant_id)
            await registry.tenant(tenant_id).messages.save(make_message("before"))
        yield registry


def run_away(session: Any, kind: str) -> "asyncio.Task[Any]":
    """Start a statement that does not end."""
    call = session.read(RUNAWAY_READ) if kind == "read" else session.write(RUNAWAY_WRITE)
    return asyncio.ensure_future(call)


def connections(registry: TenantRegistry, tenant_id: str) -> list[Any]:
    """Return the tenant's open connections, the writer first."""
    store: Any = registry._parts.pool._entries[tenant_id].actor._store
    return [store._connections.writer, *store._connections.readers]


async def running(registry: TenantRegistry, tenant_id: str) -> None:
    """Wait until a statement of the tenant that can be interrupted runs."""
    await until(lambda: any(c._running_job is not None for c in connections(registry, tenant_id)))


async def soon(work: Awaitable[Any]) -> Any:
    """Wait for what must not hang."""
    async with asyncio.timeout(HANG_SECONDS):
        return await work


@BOTH
async def test_a_transaction_ends_at_its_deadline_whatever_runs_in_it(data_dir: Path, kind: str):
    """Its statement is interrupted, its caller is told why, nothing is kept, and the writer is free."""
    async with two_tenants(data_dir, transaction_timeout_seconds=1.0) as registry:
        acme, hook = registry.tenant("acme"), Recorder()
        registry.add_hook(hook)

        async def work() -> None:
            async with acme.transaction() as tx:
                await tx.messages.save(make_message("lost"))
                with pytest.raises(TransactionClosedError, match=r"longer than transaction_timeout_seconds"):
                    await run_away(tx._session, kind)
                await tx.messages.save(make_message("late"))

        with pytest.raises(TransactionClosedError, match=r"longer than transaction_timeout_seconds \(1\)"):
            await soon(work())
        await soon(acme.messages.save(make_message("after")))
        assert len(hook.of(CallRefused, outcome="transaction_closed", operation=OPERATIONS[kind])) == 1
    assert stored_contents(data_dir, "acme") == ["before", "after"]


@BOTH
async def test_a_runaway_statement_of_a_transaction_holds_nobody_else_up(data_dir: Path, kind: str):
    """With one write job in all, other tenants write, and open transactions, while it runs."""
    async with two_tenants(data_dir) as registry:

        async def work() -> None:
            async with registry.tenant("acme").transaction() as tx:
                await run_away(tx._session, kind)

        task = asyncio.ensure_future(work())
        await until(lambda: registry.tenant("acme").statistics().write.running_requests == 1)
        await running(registry, "acme")
        await soon(registry.tenant("globex").messages.save(make_message("meanwhile")))
        async with registry.tenant("globex").transaction() as tx:
            await tx.messages.save(make_message("meanwhile, too"))
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(task)
        await soon(registry.tenant("acme").messages.save(make_message("after")))
    assert stored_contents(data_dir, "acme") == ["before", "after"]
    assert stored_contents(data_dir, "globex") == ["before", "meanwhile", "meanwhile, too"]


@BOTH
async def test_leaving_the_block_interrupts_what_runs_in_it(data_dir: Path, kind: str):
    """A block that raises does not wait for a statement that it left running in another task; that one is told."""
    async with two_tenants(data_dir) as registry:
        acme, tasks = registry.tenant("acme"), []

        async def work() -> None:
            async with acme.transaction() as tx:
                await tx.messages.save(make_message("lost"))
                tasks.append(run_away(tx._session, kind))
                tasks.append(asyncio.ensure_future(tx.messages.save(make_message("behind it"))))
                await running(registry, "acme")
                raise KeyError

        with pytest.raises(KeyError):
            await soon(work())
        for task in tasks:
            with pytest.raises(TransactionClosedError, match="has ended"):
                await soon(task)
        await soon(acme.messages.save(make_message("after")))
    assert stored_contents(data_dir, "acme") == ["before", "after"]


@pytest.mark.parametrize("cancellations", [1, 2, 3])
async def test_a_commit_that_is_cancelled_while_it_waits_settles_the_transaction(
    data_dir: Path, cancellations: int
):
    """Behind another task's statement, cancelled however often: it is rolled back at once, not at its deadline."""
    async with two_tenants(data_dir) as registry:
        acme, tasks = registry.tenant("acme"), []
        sessions: list[Any] = []

        async def work() -> None:
            async with acme.transaction() as tx:
                await tx.messages.save(make_message("lost"))
                sessions.append(tx._session)
                tasks.append(run_away(tx._session, "write"))
                await running(registry, "acme")

        task = asyncio.ensure_future(work())
        await soon(until(lambda: bool(sessions) and bool(sessions[0]._lock._waiters)))
        for _ in range(cancellations):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await soon(task)
        with pytest.raises(TransactionClosedError):
            await soon(tasks[0])
        await soon(acme.messages.save(make_message("after")))
        assert sessions[0].has_ended
        await soon(registry.suspend("acme"))
    assert stored_contents(data_dir, "acme") == ["before", "after"]


async def test_a_cancelled_statement_ends_its_transaction(data_dir: Path):
    """A caller that gives up on a statement and goes on finds the transaction rolled back, never half of it kept."""
    async with two_tenants(data_dir) as registry:

        async def work() -> None:
            async with registry.tenant("acme").transaction() as tx:
                await tx.messages.save(make_message("lost"))
                statement = run_away(tx._session, "write")
                await running(registry, "acme")
                statement.cancel()
                await asyncio.wait([statement])
                await tx.messages.save(make_message("late"))

        with pytest.raises(TransactionClosedError, match="or a cancelled call"):
            await soon(work())
    assert stored_contents(data_dir, "acme") == ["before"]


async def test_a_write_that_runs_away_ends_at_its_deadline(data_dir: Path):
    """Its callers are told that it may have been done, it is interrupted, and the tenant writes again."""
    async with two_tenants(data_dir, call_timeout_seconds=1.0, transaction_timeout_seconds=1.0) as registry:
        acme = registry.tenant("acme")
        with pytest.raises(CallTimeoutError) as caught:
            await soon(run_away(acme._session, "write"))
        assert caught.value.was_started
        await until(lambda: registry._parts.pool._entries["acme"].actor.is_idle)
        assert not await connections(registry, "acme")[0].run(lambda connection: connection.in_transaction)
        await acme.messages.save(make_message("after"))
        async with acme.transaction() as tx:
            await tx.messages.save(make_message("and in a transaction"))
    assert stored_contents(data_dir, "acme") == ["before", "after", "and in a transaction"]


@BOTH
async def test_a_slow_batch_holds_no_other_tenant_up(data_dir: Path, kind: str):
    """With one job of each kind in all, other tenants are served while a statement of one goes on and on."""
    async with two_tenants(data_dir) as registry:
        await registry.tenant("acme").messages.get_history("general")  # the first read is the writer's
        slow = run_away(registry.tenant("acme")._session, kind)
        await running(registry, "acme")
        globex = registry.tenant("globex")
        await soon(globex.messages.save(make_message("meanwhile")))
        assert len(await soon(globex.messages.get_history("general"))) == 2
        assert not slow.done()
        # What hangs at the end of the registry would wait for its deadline.
        for _, actor in registry._parts.pool.tenants():
            for batch in [*actor._reads._batches, *actor._writes._batches]:
                batch.running.cancel()
        slow.cancel()
        await asyncio.wait([slow])


def is_being_written(path: Path) -> bool:
    """Return whether somebody is in the middle of a transaction that writes."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        return False


@pytest.mark.parametrize("kind", ["alone", "a unit"])
async def test_an_interrupted_query_ends_its_batch(tmp_path: Path, kind: str):
    """SQLite keeps the transaction of a query that was interrupted: nothing of its batch is kept all the same."""
    path = tmp_path / "wal.db"
    async with open_store(SQLiteOptions(path=path), "CREATE TABLE t (n)") as store:
        insert, endless = run("INSERT INTO t VALUES (1)"), rows(COUNT_TO_A_BILLION)
        middle = (endless,) if kind == "alone" else (insert, endless)
        scope = anyio.CancelScope()

        async def write() -> None:
            with scope:
                await store.write([(insert,), middle, (insert,)])

        writing = asyncio.ensure_future(write())
        await until(lambda: is_being_written(path))
        scope.cancel()
        await asyncio.wait([writing])
        assert await read_rows(store, "SELECT COUNT(*) FROM t") == [(0,)]


async def test_an_interrupted_write_leaves_its_connection_as_new(tmp_path: Path):
    """Wherever the interrupt hits a batch it is whole or absent, and the connection is in no transaction."""
    async with open_store(SQLiteOptions(path=tmp_path / "wal.db"), "CREATE TABLE t (n)") as store:
        for steps in range(40):
            requests = [(run("INSERT INTO t VALUES (?)", steps), rows("SELECT 1"))] * 20
            scope = anyio.CancelScope()

            async def write(scope: anyio.CancelScope = scope, requests: Any = requests) -> None:
                with scope:
                    await store.write(requests)

            writing = asyncio.ensure_future(write())
            for _ in range(steps):
                await asyncio.sleep(0)
            scope.cancel()
            await asyncio.wait([writing])
            assert not await store._connections.writer.run(lambda connection: connection.in_transaction)
            assert await store.write([(run("INSERT INTO t VALUES (-1)"),)]) == [[None]]
        counts = await read_rows(store, "SELECT n, COUNT(*) FROM t GROUP BY n")
        assert dict(counts).pop(-1) == 40
        assert {count for n, count in counts if n >= 0} <= {20}


async def test_an_interrupted_read_ends_its_transaction(tmp_path: Path):
    """Nothing of it is kept, it does not turn into autocommit, and the writer writes again."""
    async with open_store(SQLiteOptions(path=tmp_path / "wal.db"), "CREATE TABLE t (n)") as store:
        transaction = await store.begin()
        await transaction.write((run("INSERT INTO t VALUES (1)"),))
        reading = asyncio.ensure_future(transaction.read(RUNAWAY_READ))
        await until(lambda: store._connections.writer._running_job is not None)
        reading.cancel()
        await asyncio.wait([reading])
        with pytest.raises(TransactionClosedError):
            await transaction.commit()
        assert await store.write([(run("INSERT INTO t VALUES (2)"),)]) == [[None]]
        assert await read_rows(store, "SELECT n FROM t") == [(2,)]


async def test_an_interrupt_that_hits_the_way_back_is_made_good(tmp_path: Path):
    """A job that could not undo what it began, because the interrupt hit just that, leaves nothing behind either."""

    def stop_half_way(connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(COUNT_TO_A_BILLION).fetchall()

    async with open_store(SQLiteOptions(path=tmp_path / "wal.db"), "CREATE TABLE t (n)") as store:
        job = asyncio.ensure_future(store._connections.writer.submit(stop_half_way))
        await until(lambda: store._connections.writer._running_job is not None)
        job.cancel()
        await asyncio.wait([job])
        assert job.cancelled()
        assert await store.write([(run("INSERT INTO t VALUES (1)"),)]) == [[None]]


async def test_writing_nothing_does_nothing(data_dir: Path):
    """A unit without statements has no results and no I/O: it opens no tenant. In a transaction that has ended it raises."""
    async with two_tenants(data_dir) as registry:
        acme = registry.tenant("acme")
        async with acme.transaction() as tx:
            assert await tx._session.write() == []
        with pytest.raises(TransactionClosedError):
            await tx._session.write()
        await registry.suspend("acme")
        assert await acme._session.write() == []
        assert acme.statistics() is None


async def test_another_thread_is_refused(data_dir: Path):
    """A call from another loop would hang, or race: it is told so, for open and closed tenants, catalog and transaction."""
    async with two_tenants(data_dir) as registry:
        acme = registry.tenant("acme")

        async def call() -> list[type[BaseException]]:
            calls = [
                acme.messages.save(make_message("elsewhere")),
                registry.tenant("initech").messages.get_history("general"),
                registry.get("acme"),
                tx.messages.save(make_message("elsewhere")),
            ]
            found = await asyncio.gather(*calls, return_exceptions=True)
            assert all("belongs to another event loop" in str(error) for error in found), found
            return [type(error) for error in found]

        async with acme.transaction() as tx:
            found = await soon(asyncio.to_thread(asyncio.run, call()))
            assert set(found) == {TenantError}
            await tx.messages.save(make_message("here"))
    assert stored_contents(data_dir, "acme") == ["before", "here"]


async def test_a_read_beside_its_own_transaction_is_served_by_a_full_pool(data_dir: Path):
    """The tenant is drained for a newcomer, but closes only when its transaction has ended: that still gets its leases."""
    async with two_tenants(
        data_dir,
        open_tenants_max=1,
        pool_wait_timeout_seconds=LONG_SECONDS,
    ) as registry:
        acme, globex = registry.tenant("acme"), registry.tenant("globex")
        async with acme.transaction() as tx:
            await tx.messages.save(make_message("inside"))
            newcomer = asyncio.ensure_future(globex.messages.save(make_message("new")))
            await until(lambda: registry.statistics().pool.waiters == 1)
            waiter = next(iter(registry._parts.pool._queue._tenants.values()))[0]
            registry._parts.pool._preempt(TenantId("globex"), waiter)
            assert len(await soon(acme.messages.get_history("general"))) == 1
            with pytest.raises(QueryError, match="would wait until the transaction ends"):
                await acme.messages.save(make_message("outside"))
        await soon(newcomer)
    assert stored_contents(data_dir, "acme") == ["before", "inside"]


async def test_a_child_task_of_a_transaction_is_refused_at_once(data_dir: Path):
    """Its parent waits for it, and it would wait for its parent's transaction: it hears so without waiting for a deadline."""
    async with two_tenants(data_dir) as registry:
        acme, globex = registry.tenant("acme"), registry.tenant("globex")

        async def begin() -> None:
            async with acme.transaction():
                pytest.fail("two transactions of one tenant")

        async with acme.transaction() as tx:
            for call in (
                acme.messages.save(make_message("outside")),
                acme.idempotent("key").messages.save(make_message("outside")),
                registry.tenant("acme").messages.save(make_message("outside")),
                begin(),
            ):
                with pytest.raises(QueryError, match="would wait until the transaction ends"):
                    await soon(asyncio.create_task(call))
            # What waits for nothing goes on: a read, another tenant, and the transaction itself.
            assert len(await soon(asyncio.create_task(acme.messages.get_history("general")))) == 1
            await soon(asyncio.create_task(globex.messages.save(make_message("beside"))))
            await soon(asyncio.create_task(tx.messages.save(make_message("inside"))))
    assert stored_contents(data_dir, "acme") == ["before", "inside"]
    assert stored_contents(data_dir, "globex") == ["before", "beside"]


@pytest.mark.parametrize("is_committed", [True, False])
async def test_a_child_task_that_outlives_its_transaction(data_dir: Path, *, is_committed: bool):
    """When the transaction has ended, a task that was begun inside of it writes like any other."""
    async with two_tenants(data_dir) as registry:
        acme, ended = registry.tenant("acme"), asyncio.Event()

        async def work() -> None:
            await ended.wait()
            await acme.messages.save(make_message("after"))
            async with acme.transaction() as tx:
                await tx.messages.save(make_message("after, too"))

        with pytest.raises(ValueError) if not is_committed else nullcontext():  # noqa: PT011  # the test's own
            async with acme.transaction() as tx:
                await tx.messages.save(make_message("inside"))
                child = asyncio.create_task(work())
                if not is_committed:
                    raise ValueError
        ended.set()
        await soon(child)
        await soon(acme.messages.save(make_message("last")))
    inside = ["inside"] if is_committed else []
    assert stored_contents(data_dir, "acme") == ["before", *inside, "after", "after, too", "last"]


async def test_a_task_from_before_a_transaction_waits_for_it(data_dir: Path):
    """It is not inside: the transaction's end does not depend on it."""
    async with two_tenants(data_dir) as registry:
        acme, begun = registry.tenant("acme"), asyncio.Event()

        async def work() -> None:
            await begun.wait()
            await acme.messages.save(make_message("beside"))

        other = asyncio.create_task(work())
        async with acme.transaction() as tx:
            begun.set()
            await until(lambda: acme.statistics().write.mailbox_requests == 1)
            await tx.messages.save(make_message("inside"))
        await soon(other)
    assert stored_contents(data_dir, "acme") == ["before", "inside", "beside"]
