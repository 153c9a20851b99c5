"""Calls to a tenant that another registry has open: they give what they would give there."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextvars import ContextVar
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any

import pytest

from peers import Pair, open_pair, texts
from raw_peers import frame, raw_peer, socket_of, uid_of, write
from registries import config
from tenantry import TenantRegistry
from tenantry.errors import (
    CallTimeoutError,
    ConstraintViolationError,
    DuplicateRecordError,
    IdempotencyConflictError,
    QueryError,
    RegistryClosedError,
    ResultLostError,
    StorageFullError,
    TenantOverloadedError,
    TenantOwnedElsewhereError,
    TenantRateLimitedError,
    TenantSuspendedError,
    TransactionClosedError,
)
from tenantry.limits import TenantLimits
from tenantry.sql.statements import Fetch, Statement
from tenantry.tenancy.peers.connections.messages import SentStatement, UnitsDone
from tenants import make_message, until


@pytest.fixture
async def pair(data_dir: Path) -> AsyncIterator[Pair]:
    """Two registries with the tenant ``acme``."""
    async with open_pair(data_dir) as opened:
        yield opened


class TestCalls:
    """Reads, writes, streams and keyed writes."""

    async def test_what_one_writes_the_other_reads(self, pair: Pair):
        """There is one tenant: each registry sees the other's writes as soon as they return."""
        assert await pair.forwarded.execute("INSERT INTO notes (text) VALUES (?)", ("theirs",)) == 1
        await pair.own.execute("INSERT INTO notes (text) VALUES (?)", ("ours",))
        assert await texts(pair.own) == await texts(pair.forwarded) == ["theirs", "ours"]

    async def test_what_the_first_caller_has_in_its_context(self, data_dir: Path):
        """The connection to the owner, which stays open, keeps nothing in memory of the caller whose call opened it.

        asyncio keeps the context of a timer until its time, even if the timer was cancelled, so the limits are short.
        """

        class Request:
            """A web request, for example, that a program keeps in a context variable."""

        async def call() -> weakref.ref[Request]:
            request = Request()
            current.set(request)
            await texts(pair.forwarded)
            return weakref.ref(request)

        current: ContextVar[Request] = ContextVar("current")
        async with open_pair(data_dir, call_timeout_seconds=1.0, pool_wait_timeout_seconds=1.0) as pair:
            request = await asyncio.create_task(call())
            await until(lambda: gc.collect() >= 0 and request() is None)
            assert await texts(pair.forwarded) == []

    async def test_shapes_of_results(self, pair: Pair):
        """Rows have names, a missing row is None, and each type of SQLite comes back as it is."""
        values = (None, -(2**63), 0.1, "ß\0𝄞", b"\x00\xff")
        await pair.forwarded.execute_many(
            "INSERT INTO notes (text) VALUES (?)", [(value,) for value in values]
        )
        assert await texts(pair.forwarded) == [*values]
        one = await pair.forwarded.fetch_one("SELECT id, text FROM notes WHERE id = ?", (2,))
        assert one is not None
        assert (one.id, one["text"], tuple(one)) == (2, -(2**63), (2, -(2**63)))
        assert await pair.forwarded.fetch_one("SELECT id FROM notes WHERE id = 99") is None
        assert await pair.forwarded.fetch_all("SELECT id FROM notes WHERE id = 99") == []
        assert await pair.forwarded.fetch_value("SELECT count(*) FROM notes") == len(values)

    async def test_a_stream(self, pair: Pair):
        """A stream reads its chunks from the owner."""
        await pair.own.execute_many(
            "INSERT INTO notes (text) VALUES (?)", [(number,) for number in range(50)]
        )
        stream = pair.forwarded.stream("SELECT id, text FROM notes", key=("id",), chunk_rows=7)
        assert [row.text async for row in stream] == [*range(50)]

    async def test_a_keyed_write_runs_once(self, pair: Pair):
        """The key counts in both registries, and it does not matter which of them sent it first."""
        insert, parameters = "INSERT INTO notes (text) VALUES (?) RETURNING id", ("once",)
        first = await pair.forwarded.idempotent("k").fetch_value(insert, parameters)
        assert await pair.own.idempotent("k").fetch_value(insert, parameters) == first
        assert await pair.forwarded.idempotent("k").fetch_value(insert, parameters) == first
        with pytest.raises(IdempotencyConflictError):
            await pair.forwarded.idempotent("k").fetch_value(insert, ("other",))
        assert await texts(pair.own) == ["once"]

    async def test_units_without_results_share_an_answer(self, pair: Pair):
        """The units of a batch are answered by one message, if they have no results."""
        add = SentStatement("notes.add", "INSERT INTO notes (text) VALUES ('x')", (), Fetch.NONE)
        async with raw_peer(socket_of(pair.owner)) as peer:
            await peer.greet()
            uid = await uid_of(pair.owner)
            peer.send(*(frame(number, write(uid, number, add)) for number in range(1, 9)))
            assert await peer.answer() == (1, UnitsDone([*range(1, 9)]))
            peer.send(frame(9, write(uid, 9, add)))
            assert await peer.answer() == (9, UnitsDone([9]))
        assert await texts(pair.own) == ["x"] * 9

    async def test_calls_that_arrive_together_share_a_batch(self, pair: Pair):
        """The owner begins a batch only when it has taken all calls that it received in one step of its event loop."""
        async with raw_peer(socket_of(pair.owner)) as peer:
            await peer.greet()
            uid, before = await uid_of(pair.owner), pair.own.statistics()
            peer.send(*(frame(number, write(uid, number)) for number in range(1, 9)))
            answers = [await peer.answer() for _ in range(8)]
            after = pair.own.statistics()
        assert sorted(call for call, _ in answers) == [*range(1, 9)]
        assert before is not None
        assert after is not None
        assert after.write.batches - before.write.batches == 1

    async def test_many_at_once_share_batches(self, data_dir: Path):
        """Calls of both registries share the owner's batches, and keep the order in which they were made."""

        async def add(tenant: Any, number: int) -> None:
            await tenant.execute("INSERT INTO notes (text) VALUES (?)", (number,))

        async with open_pair(data_dir, handed_over_after_calls=1_000) as pair:
            await texts(pair.forwarded)  # from here on the way to the owner is known
            await asyncio.gather(
                *(add(pair.forwarded, number) for number in range(100)),
                *(add(pair.own, number) for number in range(100, 200)),
            )
            found = await texts(pair.own)
            statistics = pair.own.statistics()
        assert sorted(found) == [*range(200)]
        assert [number for number in found if number < 100] == [*range(100)]
        assert statistics is not None
        assert statistics.write.batches < statistics.write.calls

    async def test_the_tenant_is_open_in_one_registry(self, pair: Pair):
        """The registry that forwards has no file of the tenant open, and no place of its pool taken."""
        await texts(pair.forwarded)
        assert pair.other.statistics().pool.open_tenants == 0
        assert pair.owner.statistics().pool.open_tenants == 1


class TestParameters:
    """Parameters are bound as at home."""

    async def test_subclasses_and_adapted_values(self, pair: Pair):
        """What Python's sqlite3 accepts beside the plain types is accepted: repositories of others may send it."""

        class Kind(StrEnum):
            A = "a"

        class Size(IntEnum):
            BIG = 7

        for tenant in (pair.own, pair.forwarded):
            session = (
                tenant._session
            )  # repositories get the session; the public methods check parameters first
            await session.write(
                Statement(
                    "notes.add",
                    "INSERT INTO notes (text) VALUES (?), (?), (?), (?)",
                    (Kind.A, Size.BIG, True, bytearray(b"x")),
                )
            )
        assert await texts(pair.own) == ["a", 7, 1, b"x"] * 2

    @pytest.mark.parametrize(
        "value", [2**63, "\ud800", object(), 1j], ids=["large", "surrogate", "object", "complex"]
    )
    async def test_what_sqlite_cannot_store(self, pair: Pair, value: object):
        """Each registry refuses it with the same type of error, and nothing is written."""
        for tenant in (pair.own, pair.forwarded):
            with pytest.raises(QueryError):
                await tenant.execute("INSERT INTO notes (text) VALUES (?)", (value,))  # type: ignore[arg-type]
        assert await texts(pair.own) == []


class TestErrors:
    """The errors of the owner reach the caller with their types and attributes."""

    async def test_of_the_database(self, pair: Pair):
        """A wrong statement and a broken constraint."""
        with pytest.raises(QueryError, match="no such table: missing") as caught:
            await pair.forwarded.execute("INSERT INTO missing VALUES (1)")
        assert caught.value.code == "SQLITE_ERROR"
        await pair.forwarded.execute("INSERT INTO notes (id) VALUES (1)")
        with pytest.raises(DuplicateRecordError) as duplicate:
            await pair.forwarded.execute("INSERT INTO notes (id) VALUES (1)")
        with pytest.raises(DuplicateRecordError) as own:
            await pair.own.execute("INSERT INTO notes (id) VALUES (1)")
        assert (str(duplicate.value), vars(duplicate.value)) == (str(own.value), vars(own.value))
        await pair.own.execute("CREATE TABLE strict (n INTEGER NOT NULL)")
        with pytest.raises(ConstraintViolationError):
            await pair.forwarded.execute("INSERT INTO strict VALUES (NULL)")

    async def test_of_limits(self, pair: Pair):
        """The owner counts the tenant's limits for all processes."""
        await pair.owner.update("acme", limits=TenantLimits(calls_per_second_max=1))

        async def call_often() -> None:
            for _ in range(100):
                await texts(pair.forwarded)

        with pytest.raises(TenantRateLimitedError) as caught:
            await call_often()
        assert caught.value.limit == "calls_per_second_max"
        assert caught.value.retry_after_seconds is not None

    async def test_of_the_size(self, pair: Pair):
        """The limit of the database's size holds, and the error names it."""
        await pair.owner.update("acme", limits=TenantLimits(database_bytes_max=1_000_000))
        with pytest.raises(StorageFullError) as caught:
            await pair.forwarded.execute("INSERT INTO notes (text) VALUES (zeroblob(2000000))")
        assert caught.value.limit == "database_bytes_max"

    async def test_of_a_full_mailbox(self, data_dir: Path):
        """The owner's mailbox is the only one."""
        async with open_pair(data_dir, mailbox_requests_max=4, batch_requests_max=1) as pair:
            calls = [
                pair.forwarded.execute("INSERT INTO notes (text) VALUES (?)", (number,))
                for number in range(40)
            ]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            refused = [one for one in outcomes if isinstance(one, TenantOverloadedError)]
            assert refused
            assert len(await texts(pair.own)) == 40 - len(refused)

    async def test_of_the_state(self, pair: Pair):
        """A suspended tenant is refused in both registries."""
        await texts(pair.forwarded)
        await pair.owner.suspend("acme", reason="unpaid")
        with pytest.raises(TenantSuspendedError, match="unpaid") as caught:
            await texts(pair.forwarded)
        assert caught.value.state == "suspended"
        await pair.owner.resume("acme")
        assert await texts(pair.forwarded) == []

    async def test_without_forwarding(self, data_dir: Path):
        """Where forwarding is switched off, the second registry is refused as ever."""
        async with open_pair(data_dir, forwarding=False) as pair:
            with pytest.raises(TenantOwnedElsewhereError, match="'acme' is open in another registry"):
                await texts(pair.forwarded)

    async def test_calls_that_are_too_large(self, pair: Pair):
        """A call or a result above the limit of a message is refused with its type, and the connection stays."""
        rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 70) SELECT i, zeroblob(1000000) AS b FROM n"
        with pytest.raises(QueryError, match="bytes"):
            await pair.forwarded.execute(
                "INSERT INTO notes (text) VALUES (?)", (b"x" * (64 * 1024 * 1024 + 1),)
            )
        with pytest.raises(QueryError, match=r"its result cannot be sent: .* bytes"):
            await pair.forwarded.fetch_all(rows)
        with pytest.raises(ResultLostError, match=r"its result cannot be sent: .* bytes"):
            await pair.forwarded.fetch_all(
                f"INSERT INTO notes (text) {rows.replace('SELECT i,', 'SELECT')} RETURNING text"
            )
        assert await pair.own.fetch_value("DELETE FROM notes RETURNING 1") == 1
        assert await texts(pair.forwarded) == []


class TestTransactions:
    """Transactions over several calls at the owner."""

    async def test_commits_and_rolls_back(self, pair: Pair):
        """What was done inside is there together, or not at all."""
        async with pair.forwarded.transaction() as tx:
            await tx.execute("INSERT INTO notes (text) VALUES ('a')")
            await tx.messages.save(make_message("one"))
            assert await tx.fetch_value("SELECT count(*) FROM notes") == 1
            assert await texts(pair.forwarded) == []
        assert await texts(pair.own) == ["a"]

        async def fail() -> None:
            async with pair.forwarded.transaction() as tx:
                await tx.execute("INSERT INTO notes (text) VALUES ('b')")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        assert await texts(pair.own) == ["a"]

    async def test_writes_inside_are_refused(self, pair: Pair):
        """A write beside the transaction would wait for it, so it is refused, as at home."""
        async with pair.forwarded.transaction() as tx:
            with pytest.raises(QueryError, match="inside an open transaction"):
                await pair.forwarded.execute("INSERT INTO notes (text) VALUES ('x')")
            with pytest.raises(QueryError, match="inside an open transaction"):
                async with pair.forwarded.transaction():
                    pass
            await tx.execute("INSERT INTO notes (text) VALUES ('y')")
        assert await texts(pair.own) == ["y"]

    async def test_others_wait(self, pair: Pair):
        """Writes of the owner wait until the transaction of the other registry has ended."""
        async with pair.forwarded.transaction() as tx:
            waiting = asyncio.create_task(pair.own.execute("INSERT INTO notes (text) VALUES ('later')"))
            await tx.execute("INSERT INTO notes (text) VALUES ('first')")
        await waiting
        assert await texts(pair.own) == ["first", "later"]

    async def test_the_deadline_is_the_owners(self, data_dir: Path):
        """A transaction that is open for too long is rolled back, and says so."""
        async with open_pair(data_dir, transaction_timeout_seconds=0.05) as pair:

            async def write_for_ever() -> None:
                async with pair.forwarded.transaction() as tx:
                    while True:
                        await tx.execute("INSERT INTO notes (text) VALUES ('x')")

            with pytest.raises(TransactionClosedError, match="transaction_timeout_seconds"):
                await write_for_ever()
            assert await texts(pair.own) == []


class TestCancellation:
    """A caller that goes away leaves nothing behind."""

    async def test_a_waiting_call_has_no_effect(self, pair: Pair):
        """A call that was cancelled in the owner's mailbox does not run."""
        async with pair.own.transaction() as tx:
            waiting = asyncio.create_task(pair.forwarded.execute("INSERT INTO notes (text) VALUES ('gone')"))
            await until(lambda: bool((s := pair.own.statistics()) and s.write.mailbox_requests))
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await until(lambda: not ((s := pair.own.statistics()) and s.write.mailbox_requests))
            await tx.execute("INSERT INTO notes (text) VALUES ('kept')")
        assert await texts(pair.forwarded) == ["kept"]

    async def test_a_call_that_waits_too_long(self, pair: Pair, data_dir: Path):
        """The owner says that the call had not begun, when its deadline passes in the mailbox."""
        impatient = config(
            data_dir, call_timeout_seconds=1.0, transaction_timeout_seconds=1.0, pool_wait_timeout_seconds=1.0
        )
        async with TenantRegistry(impatient) as registry:
            forwarded = registry.tenant("acme")
            await texts(forwarded)
            async with pair.own.transaction():
                with pytest.raises(CallTimeoutError) as caught:
                    await forwarded.execute("INSERT INTO notes (text) VALUES ('late')")
            assert not caught.value.was_started
        assert await texts(pair.own) == []


class TestOwners:
    """Who owns the tenant, and for how long."""

    async def test_the_owner_closes(self, pair: Pair):
        """When the owner closes, the other registry opens the tenant, without an error to its callers."""
        stop = False
        sent = 0

        async def add() -> None:
            nonlocal sent
            while not stop:
                await pair.forwarded.execute("INSERT INTO notes (text) VALUES ('x')")
                sent += 1

        adding = [asyncio.create_task(add()) for _ in range(8)]
        await until(lambda: sent > 20)
        await pair.owner.aclose()
        closed_at = sent
        await until(lambda: sent > closed_at + 20)
        stop = True
        await asyncio.gather(*adding)
        assert pair.other.statistics().pool.open_tenants == 1
        assert len(await texts(pair.forwarded)) == sent

    async def test_the_forwarder_closes(self, pair: Pair):
        """A registry that closes refuses new calls to tenants of others too; what was accepted is there."""
        sent = 0

        async def add() -> None:
            nonlocal sent
            while True:
                await pair.forwarded.execute("INSERT INTO notes (text) VALUES ('x')")
                sent += 1

        adding = [asyncio.create_task(add()) for _ in range(8)]
        await until(lambda: sent > 20)
        await pair.other.aclose()
        outcomes = await asyncio.gather(*adding, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {RegistryClosedError}
        assert len(await texts(pair.own)) == sent

    async def test_it_is_handed_over(self, data_dir: Path):
        """A tenant that only the other registry uses becomes that registry's after so many calls; one that both use stays."""
        async with open_pair(data_dir, handed_over_after_calls=5) as pair:
            for _ in range(20):
                await texts(pair.forwarded)
                await texts(pair.own)
            assert pair.owner.statistics().pool.closed_by_reason["handed_over"] == 0
            for _ in range(20):
                await texts(pair.forwarded)
            assert pair.owner.statistics().pool.closed_by_reason["handed_over"] == 1
            assert pair.other.statistics().pool.open_tenants == 1
            assert await texts(pair.own) == []

    async def test_many_tenants_and_registries(self, data_dir: Path):
        """Three registries share sixteen tenants: the first that calls a tenant owns it, and the calls of all three succeed."""
        async with open_pair(data_dir) as pair, TenantRegistry(pair.owner.config) as third:
            ids = [f"t{number}" for number in range(16)]
            for number, tenant_id in enumerate(ids):
                await (pair.owner, pair.other, third)[number % 3].create(tenant_id)
            await asyncio.gather(
                *(
                    registry.tenant(tenant_id).messages.save(make_message(str(number)))
                    for registry in (pair.owner, pair.other, third)
                    for tenant_id in ids
                    for number in range(3)
                )
            )
            for tenant_id in ids:
                assert len(await third.tenant(tenant_id).messages.get_history("general", limit=50)) == 9
