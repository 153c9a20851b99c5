"""The registry on real files: several calls that take effect together."""

# tests look at files in between; nobody waits for them

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from registries import config
from tenantry import TenantRegistry
from tenantry.errors import (
    QueryError,
    TenantryError,
    TransactionClosedError,
)
from tenants import (
    HANG_SECONDS,
    as_another,
    database_path,
    held_writer,
    make_message,
    open_files,
    stored_contents,
    threads_since,
    until,
)


class TestTransactions:
    """Several calls that take effect together."""

    @pytest.fixture
    async def acme(self, registry: TenantRegistry):
        """An open tenant."""
        await registry.create("acme")
        return registry.tenant("acme")

    async def test_commits(self, acme: Any, data_dir: Path):
        """What was done inside is there afterwards, all of it; inside, it is seen at once."""
        async with acme.transaction() as tx:
            await tx.messages.save(make_message("one"))
            assert [m.content for m in await tx.messages.get_history("general")] == ["one"]
            await tx.messages.save_many([make_message("two"), make_message("three")])
        assert stored_contents(data_dir, "acme") == ["one", "two", "three"]

    async def test_rolls_back_when_the_block_raises(self, acme: Any, data_dir: Path):
        """An exception undoes everything, and is the one that the caller sees."""

        async def work() -> None:
            async with acme.transaction() as tx:
                await tx.messages.save(make_message("one"))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await work()
        assert stored_contents(data_dir, "acme") == []
        await acme.messages.save(make_message("after"))

    async def test_rolls_back_when_the_block_is_cancelled(self, acme: Any, data_dir: Path):
        """So does a cancellation, and the writer is free at once."""
        started = asyncio.Event()

        async def work() -> None:
            async with acme.transaction() as tx:
                await tx.messages.save(make_message("one"))
                started.set()
                await asyncio.Event().wait()

        task = asyncio.ensure_future(work())
        await started.wait()
        task.cancel()
        await acme.messages.save(make_message("after"))
        assert task.cancelled()
        assert stored_contents(data_dir, "acme") == ["after"]

    async def test_the_next_call_of_the_same_task(self, acme: Any, data_dir: Path):
        """The moment a block has ended its task may write, or begin again: nothing of the transaction stands in its way."""
        for n in range(5):
            async with acme.transaction() as tx:
                await tx.messages.save(make_message(f"inside {n}"))
            await acme.messages.save(make_message(f"outside {n}"))
        assert len(stored_contents(data_dir, "acme")) == 10

    async def test_a_failed_call_inside_is_undone_alone(self, acme: Any, data_dir: Path):
        """Who catches an error inside may go on: what failed left nothing, the rest is committed."""
        message = make_message("one")
        async with acme.transaction() as tx:
            await tx.messages.save(message)
            with pytest.raises(TenantryError):
                await tx.messages.save_many([make_message("two"), message])
            await tx.messages.save(make_message("three"))
        assert stored_contents(data_dir, "acme") == ["one", "three"]

    async def test_reads_outside_see_the_state_before(self, acme: Any):
        """An open transaction is nobody else's business: readers go on, and see what was there before."""
        async with acme.transaction() as tx:
            await tx.messages.save(make_message("inside"))
            assert await acme.messages.get_history("general") == ()
        assert len(await acme.messages.get_history("general")) == 1

    async def test_other_tenants_notice_nothing(self, data_dir: Path):
        """A transaction that does nothing holds nobody up, though one write job at a time is all there is."""
        async with TenantRegistry(config(data_dir, write_jobs_max=1)) as registry:
            for tenant_id in ("acme", "globex"):
                await registry.create(tenant_id)
            async with registry.tenant("acme").transaction() as tx:
                await tx.messages.save(make_message())
                await registry.tenant("globex").messages.save(make_message())
                async with registry.tenant("globex").transaction() as other_tx:
                    await other_tx.messages.save(make_message())
                    await tx.messages.save(make_message())
        assert (len(stored_contents(data_dir, "acme")), len(stored_contents(data_dir, "globex"))) == (2, 2)

    async def test_other_writes_wait_for_their_turn(self, acme: Any, data_dir: Path):
        """Writes of the same tenant come before or after, never between; transactions too."""
        entered = asyncio.Event()

        async def second() -> None:
            async with acme.transaction() as tx:
                entered.set()
                await tx.messages.save(make_message("second"))

        async with acme.transaction() as tx:
            await tx.messages.save(make_message("first"))
            write = as_another(acme.messages.save(make_message("outside")))
            other = as_another(second())
            await tx.messages.save(make_message("first, too"))
            assert not write.done()
            assert not entered.is_set()
        await asyncio.gather(write, other)
        assert stored_contents(data_dir, "acme") == ["first", "first, too", "outside", "second"]

    async def test_at_its_deadline_it_is_rolled_back(self, data_dir: Path):
        """Past it every use raises, the block's end too, and nothing of it is kept; the tenant goes on."""
        async with TenantRegistry(config(data_dir, transaction_timeout_seconds=0.05)) as registry:
            await registry.create("acme")
            acme = registry.tenant("acme")

            async def work() -> None:
                nonlocal after
                async with acme.transaction() as tx:
                    # It waits for its turn behind the transaction, so it is answered once that has ended.
                    after = as_another(acme.messages.save(make_message("after")))
                    await tx.messages.save(
                        make_message("lost")
                    )  # a slow machine may come too late for this already
                    await asyncio.wait([after])
                    for call in (tx.messages.get_history("general"), tx.messages.save(make_message("late"))):
                        with pytest.raises(TransactionClosedError):
                            await call

            after: asyncio.Task[None] | None = None
            with pytest.raises(
                TransactionClosedError, match=r"longer than transaction_timeout_seconds \(0.05\)"
            ):
                await work()
            assert after is not None
            await after
        assert stored_contents(data_dir, "acme") == ["after"]

    async def test_used_after_its_end(self, acme: Any, data_dir: Path):
        """A transaction that was kept never turns into autocommit."""
        async with acme.transaction() as tx:
            pass
        with pytest.raises(TransactionClosedError, match="has ended: open a new one"):
            await tx.messages.save(make_message("late"))
        assert stored_contents(data_dir, "acme") == []

    async def test_waiting_for_oneself_is_refused(self, acme: Any, data_dir: Path):
        """A write, or a second transaction, of the task that holds one would wait for itself: it is told what to use."""
        async with acme.transaction() as tx:
            with pytest.raises(QueryError, match=r"inside an open transaction of tenant 'acme'.*\(tx\.…\)"):
                await acme.messages.save(make_message("outside"))
            with pytest.raises(QueryError, match="inside an open transaction"):
                async with acme.transaction():
                    pytest.fail("two transactions of one task")
            await tx.messages.save(make_message("inside"))
        assert stored_contents(data_dir, "acme") == ["inside"]

    async def test_cancelled_while_its_commit_waits_for_its_turn(self, data_dir: Path):
        """With every write job taken by others, a commit waits for a permit; cancelled there, it is rolled back."""
        async with TenantRegistry(config(data_dir, write_jobs_max=1)) as registry:
            for tenant_id in ("acme", "busy"):
                await registry.create(tenant_id)
            acme, saved, go_on = registry.tenant("acme"), asyncio.Event(), asyncio.Event()

            async def work() -> None:
                async with acme.transaction() as tx:
                    await tx.messages.save(make_message("lost"))
                    saved.set()
                    await go_on.wait()

            task = asyncio.ensure_future(work())
            await saved.wait()
            with held_writer(database_path(data_dir, "busy")):
                busy = asyncio.ensure_future(registry.tenant("busy").messages.save(make_message()))
                await until(lambda: registry.tenant("busy").statistics().write.running_requests == 1)
                go_on.set()
                for _ in range(10):
                    await asyncio.sleep(0)
                task.cancel()
                for _ in range(10):
                    await asyncio.sleep(0)
            await busy
            async with asyncio.timeout(HANG_SECONDS):
                await acme.messages.save(make_message("after"))
            assert task.cancelled()
        assert stored_contents(data_dir, "acme") == ["after"]

    async def test_closing_does_not_wait_for_a_forgotten_one(self, data_dir: Path):
        """At the deadline of the close a transaction that nobody ends is rolled back: no thread, lock or file stays."""
        threads = set(threading.enumerate())
        registry = TenantRegistry(config(data_dir, shutdown_timeout_seconds=0.05))
        async with registry:
            await registry.create("acme")
            opened = asyncio.Event()
            raised: list[BaseException] = []

            async def forget() -> None:
                try:
                    async with registry.tenant("acme").transaction() as tx:
                        await tx.messages.save(make_message("forgotten"))
                        opened.set()
                        await done.wait()
                        await tx.messages.save(make_message("too late"))
                except TransactionClosedError as error:
                    raised.append(error)

            done = asyncio.Event()
            task = asyncio.ensure_future(forget())
            await opened.wait()
        assert (threads_since(threads), open_files(data_dir)) == ([], [])
        done.set()
        await task
        assert len(raised) == 1
        assert stored_contents(data_dir, "acme") == []
