"""Limits of a tenant on real files: its calls, the size of its database, its durability; changed while it is open."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from limited import SIZE_MAX, acme_limits, contents, limit, pragma, save, save_until_refused
from tenantry import RegistryConfig, Schema, TenantLimits, TenantRegistry
from tenantry.company import COMPANY
from tenantry.errors import (
    LimitError,
    PersistenceError,
    TenantOverloadedError,
    TenantRateLimitedError,
)
from tenantry.events import CallRefused, TenantClosed
from tenants import (
    HANG_SECONDS,
    HandClock,
    Recorder,
    as_another,
    database_path,
    held_writer,
    make_message,
    open_files,
    python,
    query,
    read_json,
    read_line,
    stored_contents,
    until,
    write_pack,
)

# Opens the tenant in a process of its own, then saves until it is refused as it should be, and says what it had to obey.
OTHER_PROCESS = """
import asyncio, json, sys
import structlog
from tenantry import RegistryConfig, TenantRegistry
from tenantry.company import TaskType, Task
from tenantry.errors import StorageFullError, TenantRateLimitedError, TenantryError

structlog.configure(logger_factory=structlog.ReturnLoggerFactory())

async def main(data_dir):
    async with TenantRegistry(RegistryConfig(data_dir=data_dir, catalog_poll_interval_seconds=0.05)) as registry:
        tasks = registry.tenant("acme").tasks
        number = 0
        async def save():
            nonlocal number
            number += 1
            await tasks.save(Task(id=f"t-{number}", title="t", description="x" * 5000, type=TaskType.RESEARCH,
                                  project="p", created_by="ada"))
        await save()
        print("open", flush=True)
        for refusal in (TenantRateLimitedError, StorageFullError):
            found = None
            while found is None:
                try:
                    await save()
                except refusal as error:
                    found = error.limit, error.limit_value
                except TenantryError:
                    await asyncio.sleep(0)
            print(json.dumps(found), flush=True)
            await asyncio.to_thread(sys.stdin.readline)
        writer = registry._parts.pool.actor("acme")._store._connections.writer
        print(json.dumps(await writer.run(lambda c: c.execute("PRAGMA synchronous").fetchone())), flush=True)

asyncio.run(main(sys.argv[1]))
"""


class TestCallsPerSecond:
    """A burst, and then so many each second."""

    async def test_refused_until_it_was_told(
        self, registry: TenantRegistry, clock: HandClock, hook: Recorder
    ):
        """What is over the limit is refused, reported and leaves nothing behind; after the wait it is let in."""
        await save(registry, "before")
        await limit(registry, calls_per_second_max=2, calls_burst_max=3)
        for number in range(3):
            await save(registry, str(number))
        for _ in range(5):
            with pytest.raises(TenantRateLimitedError) as caught:
                await save(registry, "refused")
        error = caught.value
        assert (error.tenant_id, error.limit, error.limit_value) == ("acme", "calls_per_second_max", 2)
        assert error.retry_after_seconds == pytest.approx(0.5, abs=1e-5)
        refused = CallRefused("acme", "sqlite", "messages.save", "rate_limited", 0.0)
        assert hook.of(CallRefused) == [refused] * 5
        statistics = registry.tenant("acme").statistics()
        assert statistics is not None
        assert (statistics.write.refused, statistics.write.mailbox_requests) == (5, 0)
        clock.seconds += error.retry_after_seconds
        await save(registry, "after")
        clock.seconds += 0.5
        assert sorted(await contents(registry)) == ["0", "1", "2", "after", "before"]

    async def test_reads_count_too(self, registry: TenantRegistry):
        """One bucket is for all calls of the tenant."""
        await limit(registry, calls_per_second_max=1, calls_burst_max=2)
        await save(registry)
        await contents(registry)
        for call in (save, contents):
            with pytest.raises(TenantRateLimitedError):
                await call(registry)

    async def test_calls_in_a_transaction_count_too(
        self, registry: TenantRegistry, clock: HandClock, hook: Recorder
    ):
        """A refused call inside leaves the transaction as it was: it can go on, and what it commits is kept."""
        await limit(registry, calls_per_second_max=1, calls_burst_max=3)
        async with registry.tenant("acme").transaction() as tx:
            for content in ("one", "two"):
                await tx.messages.save(make_message(content))
            for _ in range(2):
                with pytest.raises(TenantRateLimitedError) as caught:
                    await tx.messages.save(make_message("refused"))
            clock.seconds += caught.value.retry_after_seconds or 0.0
            await tx.messages.save(make_message("three"))
        with pytest.raises(TenantRateLimitedError):
            async with registry.tenant("acme").transaction():
                pytest.fail("it was not to begin")
        assert [event.operation for event in hook.of(CallRefused, outcome="rate_limited")] == [
            "messages.save",
            "messages.save",
            "transaction",
        ]
        clock.seconds += 2
        assert sorted(await contents(registry)) == ["one", "three", "two"]

    async def test_being_evicted_gives_no_fresh_burst(
        self, registry: TenantRegistry, clock: HandClock, hook: Recorder
    ):
        """A tenant that is closed to make room finds its bucket as empty as it left it, under another id too."""
        await limit(registry, calls_per_second_max=1, calls_burst_max=3)
        assert isinstance(await save_until_refused(registry), TenantRateLimitedError)
        await save(registry, tenant_id="globex")
        assert hook.of(TenantClosed, tenant_id="acme")
        with pytest.raises(TenantRateLimitedError):
            await save(registry)
        await registry.rename("acme", "initech")
        with pytest.raises(TenantRateLimitedError, match="'initech'"):
            await save(registry, tenant_id="initech")
        clock.seconds += 2
        for _ in range(2):
            await save(registry, tenant_id="initech")

    async def test_a_change_counts_from_now_on(self, registry: TenantRegistry, clock: HandClock):
        """More is let in as soon as it may be, and without a limit everything is."""
        await limit(registry, calls_per_second_max=0.001)
        await save_until_refused(registry)
        await limit(registry, calls_per_second_max=1000)
        error = await save_until_refused(registry)
        assert error.retry_after_seconds == pytest.approx(0.001, rel=0.01)
        clock.seconds += 0.002
        await save(registry)
        await limit(registry)
        for _ in range(5):
            await save(registry)

    async def test_a_noisy_tenant_disturbs_nobody(self, data_dir: Path, clock: HandClock, hook: Recorder):
        """While one tenant is refused again and again, another's calls are all served."""
        async with TenantRegistry(RegistryConfig(data_dir=data_dir), clock=clock, hooks=[hook]) as registry:
            for tenant_id in ("acme", "globex"):
                await registry.create(tenant_id)
            await limit(registry, calls_per_second_max=1, calls_burst_max=5, calls_in_flight_max=2)
            is_over = False

            async def flood() -> None:
                while not is_over:
                    await save_until_refused(registry)
                    await asyncio.sleep(0)

            floods = [asyncio.create_task(flood()) for _ in range(20)]
            for number in range(50):
                await save(registry, str(number), tenant_id="globex")
            is_over = True
            await asyncio.gather(*floods)
        assert len(stored_contents(data_dir, "acme")) == 5
        assert len(stored_contents(data_dir, "globex")) == 50
        assert not hook.of(CallRefused, tenant_id="globex")


class TestCallsInFlight:
    """So many may wait or run."""

    async def test_everything_of_the_tenant_counts(self, registry: TenantRegistry, hook: Recorder):
        """A transaction that is open, writes behind it, and reads; when one has ended the next is let in."""
        await save(registry, "before")
        await limit(registry, calls_in_flight_max=2)
        async with registry.tenant("acme").transaction() as tx:
            assert len(await contents(registry)) == 1
            waiting = as_another(save(registry, "waited"))
            await until(lambda: registry.statistics().mailbox_requests["write"] == 1)
            calls = [as_another(call) for call in (save(registry, "refused"), contents(registry))]
            for error in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(error, TenantOverloadedError)
                assert "has 2 calls in flight" in str(error)
                assert (error.tenant_id, error.limit, error.limit_value) == ("acme", "calls_in_flight_max", 2)
                assert (error.retry_after_seconds or 0.0) > 0
            for number in range(3):
                await tx.messages.save(make_message(str(number)))
        await waiting
        assert [(event.operation, event.outcome) for event in hook.of(CallRefused)] == [
            ("messages.save", "overloaded"),
            ("messages.get_history", "overloaded"),
        ]
        assert sorted(await contents(registry)) == ["0", "1", "2", "before", "waited"]

    @pytest.mark.parametrize("steps", range(6))
    async def test_one_after_the_other_are_never_too_many(self, registry: TenantRegistry, steps: int):
        """Who waits for each answer has one call in flight: however soon the next comes, nothing is left of the last."""
        await limit(registry, calls_in_flight_max=1)

        async def pause() -> None:
            for _ in range(steps):
                await asyncio.sleep(0)

        for _ in range(3):
            await save(registry)
            await pause()
            await contents(registry)
            await pause()
            async with registry.tenant("acme").transaction() as tx:
                await tx.messages.save(make_message())
            await pause()
            with pytest.raises(KeyError):
                async with registry.tenant("acme").transaction():
                    raise KeyError
            await pause()
        assert len(await contents(registry)) == 6

    async def test_a_lower_limit_breaks_nothing(self, registry: TenantRegistry):
        """What was taken in is finished, however low the limit has become; nothing new is taken in meanwhile."""
        async with registry.tenant("acme").transaction() as tx:
            waiting = [as_another(save(registry, str(number))) for number in range(5)]
            await until(lambda: registry.statistics().mailbox_requests["write"] == 5)
            lowering = asyncio.create_task(limit(registry, calls_in_flight_max=1))
            assert isinstance(await save_until_refused_in_flight(registry), TenantOverloadedError)
            await tx.messages.save(make_message("inside"))
        await asyncio.gather(lowering, *waiting)
        await save(registry, "after")
        assert sorted(await contents(registry)) == ["0", "1", "2", "3", "4", "after", "inside"]

    async def test_a_caller_that_has_gone(self, registry: TenantRegistry):
        """A call that was taken back before it ran is in flight no more."""
        await limit(registry, calls_in_flight_max=2)
        async with registry.tenant("acme").transaction():
            waiting = as_another(save(registry, "gone"))
            await until(lambda: registry.statistics().mailbox_requests["write"] == 1)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert await contents(registry) == []


async def save_until_refused_in_flight(registry: TenantRegistry) -> LimitError:
    """Read acme until that is refused, and return why."""
    async with asyncio.timeout(HANG_SECONDS):
        while True:
            try:
                await contents(registry)
            except LimitError as error:
                return error


class TestLive:
    """From the catalog to whoever has the tenant open."""

    async def test_another_process_obeys(self, data_dir: Path):
        """One process changes the limits, and the one that has the tenant open keeps to them."""
        async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
            await registry.create("acme")
            await registry.suspend("acme")  # closed here
            await registry.resume("acme")
            with python(OTHER_PROCESS, data_dir) as other:
                assert read_line(other) == "open"
                await limit(registry, calls_per_second_max=1e-3, calls_burst_max=1)
                assert await asyncio.to_thread(read_json, other) == ["calls_per_second_max", 1e-3]
                await limit(registry, database_bytes_max=SIZE_MAX, durability="normal")
                print("go", file=other.stdin, flush=True)
                assert await asyncio.to_thread(read_json, other) == ["database_bytes_max", SIZE_MAX]
                print("go", file=other.stdin, flush=True)
                assert await asyncio.to_thread(read_json, other) == [1]
                assert other.wait() == 0

    async def test_a_tenant_that_is_being_opened(
        self, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """Its opening read the catalog before the change: it has the new limits all the same when the change is done."""
        monkeypatch.syspath_prepend(str(tmp_path))
        pack = write_pack(tmp_path, "latepack", "CREATE TABLE late (b);")
        async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
            await registry.create("acme")
        schemas = [COMPANY, Schema(name="latepack", package=pack)]
        async with TenantRegistry(RegistryConfig(data_dir=data_dir), schemas=schemas) as registry:
            with held_writer(database_path(data_dir, "acme")):
                first = asyncio.create_task(save(registry))
                await until(lambda: has_read_entry(registry, data_dir))
                changing = asyncio.create_task(
                    limit(registry, calls_per_second_max=0.001, durability="normal")
                )
                await until(
                    lambda: bool(query(data_dir / "catalog.db", "SELECT 1 FROM tenants WHERE revision > 2"))
                )
                assert not changing.done()
            await asyncio.gather(first, changing)
            assert acme_limits(registry).durability == "normal"
            assert await pragma(registry, "synchronous") == 1
            await save_until_refused(registry)

    async def test_an_older_entry_changes_nothing(self, registry: TenantRegistry):
        """What was read before the last change, and comes after it, is not taken for news."""
        await save(registry)
        older = await registry.get("acme")
        await limit(registry, calls_in_flight_max=7)
        await registry._parts.tools.apply_record(older)
        assert acme_limits(registry).calls_in_flight_max == 7

    async def test_limits_that_could_not_be_given(
        self, registry: TenantRegistry, data_dir: Path, hook: Recorder
    ):
        """The one who changes them hears of it and may call again; what another process changed closes the tenant."""
        await save(registry)
        await refuse_pragmas(registry, is_refused=True)
        with pytest.raises(PersistenceError):
            await limit(registry, durability="normal")
        await refuse_pragmas(registry, is_refused=False)
        await limit(registry, durability="normal")
        assert await pragma(registry, "synchronous") == 1
        await refuse_pragmas(registry, is_refused=True)
        query(
            data_dir / "catalog.db",
            "UPDATE tenants SET limits = '{\"durability\": \"full\"}', revision = revision + 1 WHERE id = 'acme'",
        )
        await hook.wait_for(TenantClosed, tenant_id="acme", reason="failed")
        await save(registry)
        assert await pragma(registry, "synchronous") == 2

    async def test_limits_come_back(self, data_dir: Path):
        """They are in the catalog, for whoever opens the tenant next."""
        limits = TenantLimits(
            database_bytes_max=SIZE_MAX,
            calls_per_second_max=0.001,
            calls_burst_max=2,
            calls_in_flight_max=5,
            durability="normal",
        )
        async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
            await registry.create("acme")
            assert (await registry.update("acme", limits=limits)).limits == limits
        async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
            assert (await registry.get("acme")).limits == limits
            await save(registry)
            assert await pragma(registry, "synchronous") == 1
            assert await pragma(registry, "max_page_count") == SIZE_MAX // 4096
            await save(registry)
            with pytest.raises(TenantRateLimitedError):
                await save(registry)


def has_read_entry(registry: TenantRegistry, data_dir: Path) -> bool:
    """Return whether acme's opening has read the catalog and come to its database."""
    is_opening = ("acme", None) in registry._parts.pool.tenants()
    return is_opening and str(database_path(data_dir, "acme")) in open_files(data_dir)


async def refuse_pragmas(registry: TenantRegistry, *, is_refused: bool) -> None:
    """Make SQLite refuse every pragma on acme's writer, or none."""

    def deny(action: int, *_: object) -> int:
        return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_PRAGMA else sqlite3.SQLITE_OK

    actor = registry._parts.pool.actor("acme")
    assert actor is not None
    await actor._store._connections.writer.run(lambda c: c.set_authorizer(deny if is_refused else None))
