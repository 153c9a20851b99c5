"""The connection to the owner ends at a chosen moment of a call: the call has its effect once, and its caller is told the truth.

The kills of `test_owner_dies` come at random moments. Here the owner's end of a connection is cut before it handles a message, or when
it is about to send the answer.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from peers import Pair, open_pair, texts
from raw_peers import RawPeer, frame, raw_owner
from registries import config
from tenantry import TenantHandle, TenantRegistry
from tenantry.errors import (
    CallTimeoutError,
    DuplicateRecordError,
    ResultLostError,
    TransactionClosedError,
)
from tenantry.events import CallForwarded
from tenantry.files.lock_file import LockFile
from tenantry.sql.statements import Fetch, Statement
from tenantry.storage.sqlite.statements.marks import RESULTS_BYTES_MAX
from tenantry.tenancy.peers.connections.messages import Hello, Welcome
from tenantry.tenancy.peers.sent_units import SentUnits
from tenants import as_another, database_path, held_writer, query, tenant_paths, until

OWNER = "0" * 12
IMPATIENT = {"call_timeout_seconds": 0.7, "pool_wait_timeout_seconds": 0.7}
"""The name of a socket."""

ADD = "INSERT INTO notes (text) VALUES (?) RETURNING id"


@pytest.fixture
async def pair(data_dir: Path) -> AsyncIterator[Pair]:
    """Two registries that are connected."""
    async with open_pair(data_dir) as opened:
        await texts(opened.forwarded)
        yield opened


def cut(pair: Pair, where: str, *, before: Callable[[], object] = bool) -> None:
    """Cut the owner's connection when it is about to ``handle`` the other registry's next message, or to ``send`` an answer.

    Args:
        pair: The registries.
        where: The method of the connection.
        before: The function that is called before that.
    """
    (connection,) = pair.owner._parts.peers._accepted

    def cut_now(*_: object, **__: object) -> None:
        before()
        connection.end()

    setattr(connection, where, cut_now)


def waiting(pair: Pair) -> int:
    """Return the number of writes in the owner's mailbox."""
    statistics = pair.own.statistics()
    assert statistics is not None
    return statistics.write.mailbox_requests


def running(pair: Pair) -> int:
    """Return the number of writes that the owner runs."""
    statistics = pair.own.statistics()
    assert statistics is not None
    return statistics.write.running_requests


def refused(pair: Pair) -> int:
    """Return the number of writes that found the owner's mailbox full."""
    statistics = pair.own.statistics()
    assert statistics is not None
    return statistics.write.refused


async def add(tenant: TenantHandle) -> int:
    """Add a note, and return its number."""
    return int(await tenant.fetch_value(ADD, ("x",)))


async def add_several(tenant: TenantHandle) -> int:
    """Add two notes in one unit, and return the number of the first."""
    statement = Statement("notes.add", ADD, ("x",), Fetch.ONE)
    (first, _) = await tenant._session.write(statement, statement)
    return int(first[0])


async def add_once(tenant: TenantHandle) -> int:
    """Add a note with a key."""
    return int(await tenant.idempotent("key").fetch_value(ADD, ("x",)))


async def add_inside(tenant: TenantHandle) -> int:
    """Add a note in a transaction."""
    async with tenant.transaction() as tx:
        return int(await tx.fetch_value(ADD, ("x",)))


Add = Callable[[TenantHandle], Awaitable[int]]


class TestLostAnswers:
    """The owner has done the call, and its answer is lost."""

    @pytest.mark.parametrize(("add", "notes"), [(add, 1), (add_several, 2), (add_once, 1)])
    async def test_of_units(self, pair: Pair, add: Add, notes: int):
        """The caller gets the first results, and the unit has run once."""
        cut(pair, "send")
        assert await add(pair.forwarded) == 1
        assert await texts(pair.own) == ["x"] * notes

    async def test_of_many_units(self, pair: Pair):
        """Each of many callers gets its own results."""
        cut(pair, "send")
        found = await asyncio.gather(*(add(pair.forwarded) for _ in range(100)))
        assert sorted(found) == [*range(1, 101)]
        assert len(await texts(pair.own)) == 100

    async def test_of_a_commit(self, pair: Pair):
        """The transaction's mark is found, so its block ends without an error."""
        async with pair.forwarded.transaction() as tx:
            await tx.fetch_value(ADD, ("x",))
            cut(pair, "send")
        assert await texts(pair.own) == ["x"]

    async def test_of_a_statement_in_a_transaction(self, pair: Pair):
        """The transaction ends, and keeps nothing."""

        async def write() -> None:
            async with pair.forwarded.transaction() as tx:
                cut(pair, "send")
                await tx.fetch_value(ADD, ("x",))

        with pytest.raises(TransactionClosedError):
            await write()
        assert await texts(pair.own) == []

    async def test_of_a_beginning(self, pair: Pair):
        """The transaction begins again, and the first one does not stay open."""
        cut(pair, "send")
        assert await add_inside(pair.forwarded) == 1
        assert await add(pair.own) == 2

    async def test_of_a_read(self, pair: Pair):
        """The read is made again."""
        cut(pair, "send")
        assert await texts(pair.forwarded) == []

    async def test_of_a_unit_that_failed(self, pair: Pair):
        """The unit runs again and fails again, and has no effect."""
        cut(pair, "send")
        with pytest.raises(DuplicateRecordError):
            await pair.forwarded.execute("INSERT INTO notes (id) VALUES (1), (1)")
        assert await texts(pair.own) == []

    async def test_that_are_too_large_to_keep(self, pair: Pair):
        """The unit was committed, and the error says so."""
        cut(pair, "send")
        with pytest.raises(ResultLostError, match="was committed"):
            await pair.forwarded.fetch_value(ADD.replace("id", "text"), (b"x" * (RESULTS_BYTES_MAX + 1),))
        assert len(await texts(pair.own)) == 1


class TestLostCalls:
    """The connection ends before the owner has read the call."""

    @pytest.mark.parametrize("add", [add, add_once, add_inside])
    async def test_they_are_sent_again(self, pair: Pair, add: Add):
        """The unit runs once, and a transaction begins."""
        cut(pair, "handle")
        assert await add(pair.forwarded) == 1
        assert await texts(pair.own) == ["x"]

    async def test_a_commit(self, pair: Pair):
        """The transaction was rolled back, and its block ends with the error that says so."""

        async def write() -> None:
            async with pair.forwarded.transaction() as tx:
                await tx.fetch_value(ADD, ("x",))
                cut(pair, "handle")

        with pytest.raises(TransactionClosedError, match="nothing of it was kept"):
            await write()
        assert await texts(pair.own) == []


class TestMarksThatAreNeeded:
    """Marks stay until their sender has the results."""

    async def test_a_later_unit_is_answered_first(self, pair: Pair):
        """The mark of a unit whose answer was lost is not removed by units that are answered before the unit is repeated."""
        marked: list[int] = []

        async def add_others() -> None:
            for _ in range(20):
                await add(pair.forwarded)

        def note_marks(event: object) -> None:
            if isinstance(event, CallForwarded) and event.outcome == "owner_lost":
                path = database_path(pair.owner.config.data_dir, "acme")
                marked.append(query(path, "SELECT count(*) FROM tenantry_forwarded")[0][0])

        pair.other.add_hook(note_marks)
        cut(pair, "send")
        found = await asyncio.gather(add(pair.forwarded), add_others(), add(pair.forwarded))
        assert marked
        assert min(marked) >= 1
        assert found[0] != found[2]
        assert len(await texts(pair.own)) == 22

    def test_what_counts_as_answered(self):
        """All units up to the oldest that still waits; a number is never given again."""
        units = SentUnits()
        with units.numbered("acme") as first:
            with units.numbered("acme") as second, units.numbered("globex") as third:
                assert units.answered_to("acme") == first - 1
                assert units.answered_to("globex") == third - 1
            assert units.answered_to("acme") == first - 1
        with units.numbered("acme") as fourth:
            assert units.answered_to("acme") == fourth - 1 >= third
        assert first < second < third < fourth


class TestUnknownEffects:
    """Nobody can find out whether the call took effect, and the error says so."""

    @pytest.mark.parametrize("add", [add, add_once])
    async def test_the_deadline_passes(self, data_dir: Path, add: Add):
        """The repeated unit waits in the mailbox until its deadline, while the first attempt runs."""
        async with open_pair(data_dir, of_other=IMPATIENT) as pair:
            await texts(pair.forwarded)
            with held_writer(database_path(data_dir, "acme")):
                adding = asyncio.create_task(add(pair.forwarded))
                await until(lambda: running(pair) == 1)
                (connection,) = pair.owner._parts.peers._accepted
                connection.end()
                with pytest.raises(CallTimeoutError, match="not known whether") as caught:
                    await adding
            assert caught.value.was_started

    async def test_the_deadline_of_a_commit_passes(self, data_dir: Path):
        """The look-up of a transaction's mark waits too long."""
        async with open_pair(data_dir, of_other=IMPATIENT) as pair:
            with ExitStack() as stack:

                async def write() -> None:
                    async with pair.forwarded.transaction() as tx:
                        await tx.fetch_value(ADD, ("x",))
                        path = database_path(data_dir, "acme")
                        cut(pair, "send", before=lambda: stack.enter_context(held_writer(path)))

                with pytest.raises(CallTimeoutError, match="not known whether") as caught:
                    await write()
                assert caught.value.was_started
            assert await texts(pair.own) == ["x"]

    @pytest.mark.parametrize("add", [add, add_once])
    async def test_the_tenant_is_suspended(self, pair: Pair, add: Add):
        """The next owner refuses the unit, which the last one had committed."""
        catalog = pair.owner.config.data_dir / "catalog.db"
        cut(pair, "send", before=lambda: query(catalog, "UPDATE tenants SET state = 'suspended'"))
        closing = asyncio.create_task(pair.owner.aclose())
        with pytest.raises(CallTimeoutError, match=r"not known whether.*suspended") as caught:
            await add(pair.forwarded)
        assert caught.value.was_started
        await closing

    @pytest.mark.parametrize("add", [add, add_once])
    async def test_the_tenant_cannot_be_opened(self, data_dir: Path, add: Add):
        """The file is damaged when the next owner opens it."""
        async with open_pair(data_dir):
            pass
        lock = LockFile(tenant_paths(data_dir, "acme").lock, socket_name=OWNER)

        async def die_during_the_call(peer: RawPeer) -> None:
            _, hello = await peer.request()
            assert isinstance(hello, Hello)
            peer.send(frame(0, Welcome(hello.protocol, 1, hello.version, hello.schemas)))
            await peer.request()
            with database_path(data_dir, "acme").open("r+b") as file:
                file.write(b"damaged " * 2)
            lock.release()

        async with (
            TenantRegistry(config(data_dir)) as registry,
            raw_owner(data_dir, OWNER, die_during_the_call),
        ):
            lock.acquire()
            with pytest.raises(CallTimeoutError, match="not known whether") as caught:
                await add(registry.tenant("acme"))
            assert caught.value.was_started


class TestRetries:
    """What keeps a repeated unit from running for a moment does not fail it."""

    async def test_a_full_mailbox(self, data_dir: Path):
        """A unit that finds the mailbox full when it is repeated is repeated later."""
        async with open_pair(data_dir, mailbox_requests_max=4) as pair:
            await texts(pair.forwarded)
            async with pair.own.transaction():
                adding = asyncio.create_task(add(pair.forwarded))
                await until(lambda: waiting(pair) == 1)
                (connection,) = pair.owner._parts.peers._accepted
                connection.end()
                assert waiting(pair) == 0
                others = [as_another(pair.own.fetch_value(ADD, (n,))) for n in range(4)]
                await until(lambda: refused(pair) > 0)
            assert await adding > 0
            await asyncio.gather(*others)
            assert sorted(map(str, await texts(pair.own))) == ["0", "1", "2", "3", "x"]

    async def test_a_fenced_owner(self, pair: Pair):
        """An owner that has lost the tenant to another process, and does not know it, runs no forwarded unit."""
        query(
            database_path(pair.owner.config.data_dir, "acme"),
            "UPDATE tenantry_owner SET epoch = epoch + 1, owner = 'another'",
        )
        found = await asyncio.gather(*(add(pair.forwarded) for _ in range(20)), add_once(pair.forwarded))
        assert sorted(found) == [*range(1, 22)]
        assert await texts(pair.own) == ["x"] * 21
