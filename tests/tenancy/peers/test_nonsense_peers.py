"""A process that breaks the protocol, or uses up what the owner keeps for it: its connection ends, and nobody else notices."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from contextvars import Context
from pathlib import Path

import msgspec
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peers import Pair, open_pair, texts
from power.soak import soak_size
from raw_peers import (
    HEAD,
    RawPeer,
    array_of,
    count_notes,
    frame,
    hello,
    insert,
    raw_peer,
    read,
    socket_of,
    uid_of,
    with_limits,
    write,
)
from tenantry.sql.statements import Fetch
from tenantry.tenancy.peers.connections.messages import (
    FRAME_BYTES_MAX,
    HELLO_BYTES_MAX,
    Begin,
    Cancel,
    Check,
    Commit,
    Copy,
    Done,
    Failed,
    NotOwner,
    Refresh,
    Release,
    Rollback,
    SentStatement,
    Statistics,
    TransactionRead,
    TransactionWrite,
    WriteOnce,
)
from tenants import HANG_SECONDS, until

SEED = 15
UID = "a" * 32


@pytest.fixture
async def pair(data_dir: Path) -> AsyncIterator[Pair]:
    """Two registries with the tenant ``acme``."""
    async with open_pair(data_dir, handed_over_after_calls=10**6) as opened:
        yield opened


def statement(*parameters: object) -> list[object]:
    """Return a statement with any parameters, as it is sent."""
    return ["notes.add", "INSERT INTO notes (text) VALUES (?)", parameters, "none"]


GREETED = {
    "random bytes": random.Random(SEED).randbytes(200),
    "an empty message": frame(1, b""),
    "a long message": HEAD.pack(FRAME_BYTES_MAX + 1, 1),
    "the longest length": HEAD.pack(2**32 - 1, 1),
    "a number": frame(1, 7),
    "a text": frame(1, "write"),
    "an empty array": frame(1, []),
    "an unknown kind": frame(1, [99, "acme"]),
    "an answer": frame(1, Done(1)),
    "a second greeting": frame(1, hello()),
    "a call with a field too few": frame(1, [3, "acme", UID, 1.0]),
    "a huge array": frame(1, array_of(2**32 - 1)),
    "a huge array of parameters": frame(
        1, b"\x95\x05\xa4acme\xa1u\xcb" + bytes(8) + b"\x94\xa1n\xa1s" + array_of(2**32 - 1) + b"\x01"
    ),
    "deep nesting": frame(1, b"\x95\x05\xa4acme\xa1u\xcb" + bytes(8) + b"\x94\xa1n\xa1s" + b"\x91" * 100_000),
    "a unit without statements": frame(1, [3, "acme", UID, 1.0, 1, 0, False, False, []]),
    "a negative number of a unit": frame(1, [3, "acme", UID, 1.0, -1, 0, False, False, [statement("x")]]),
    "a number of a unit that SQLite cannot store": frame(
        1, [3, "acme", UID, 1.0, 2**63, 0, False, False, [statement("x")]]
    ),
    "an unknown kind of result": frame(1, [5, "acme", UID, 1.0, ["n", "SELECT 1", [], "nothing"]]),
    "a text that is not UTF-8": frame(1, b"\x93\x06\xa2\xff\xfe\xa1u"),
    "two calls with one number": frame(1, Begin("acme", UID)) * 2,
}
"""What a process that has introduced itself may not send."""

NOT_GREETED = {
    "a call": frame(1, read(UID)),
    "a cancellation": frame(1, Cancel()),
    "a long greeting": HEAD.pack(HELLO_BYTES_MAX + 1, 0),
    "a short token": frame(0, hello(b"short")),
    "a long token": frame(0, hello(bytes(17))),
    "a token that is a text": frame(0, [1, 1, "t" * 16, 1, "v", {}]),
}
"""What a process may not send before it has introduced itself."""


async def check_served(pair: Pair) -> None:
    """Check that the owner's own callers and other processes are served."""
    before = len(await texts(pair.own))
    await pair.own.execute("INSERT INTO notes (text) VALUES ('own')")
    await pair.forwarded.execute("INSERT INTO notes (text) VALUES ('forwarded')")
    assert (await texts(pair.own))[before:] == ["own", "forwarded"]


def files_below(*directories: Path) -> list[Path]:
    """Return the paths of everything below directories."""
    return sorted(path for directory in directories for path in directory.rglob("*"))


class TestBrokenProtocol:
    """The connection is closed at once, the log says why, and nothing runs."""

    @pytest.mark.parametrize("sent", GREETED.values(), ids=GREETED)
    async def test_after_the_greeting(self, pair: Pair, sent: bytes):
        """Bytes that are no message, and messages that are not allowed."""
        with structlog.testing.capture_logs() as logs:
            async with raw_peer(socket_of(pair.owner)) as peer:
                await peer.greet()
                peer.send(sent)
                await peer.ended()
        assert [log["pid"] for log in logs if log["event"] == "tenantry.peer.broken_off"] == [os.getpid()]
        await check_served(pair)

    @pytest.mark.parametrize("sent", NOT_GREETED.values(), ids=NOT_GREETED)
    async def test_before_the_greeting(self, pair: Pair, sent: bytes):
        """The first message is a greeting, and a small one."""
        with structlog.testing.capture_logs() as logs:
            async with raw_peer(socket_of(pair.owner)) as peer:
                peer.send(sent)
                assert await peer.ended() == b""
        assert [log["log_level"] for log in logs if log["event"] == "tenantry.peer.broken_off"] == ["warning"]
        await check_served(pair)

    async def test_half_a_message(self, pair: Pair):
        """A message that never ends keeps nobody waiting, and goes with its connection."""
        async with raw_peer(socket_of(pair.owner)) as peer:
            await peer.greet()
            peer.send(frame(1, write(await uid_of(pair.owner), 1))[:-1])
            await check_served(pair)
        await check_served(pair)
        assert 1 not in await texts(pair.own)

    async def test_another_protocol(self, pair: Pair):
        """A process of another release is told both versions, and its connection is not used."""
        async with raw_peer(socket_of(pair.owner)) as peer:
            peer.send(frame(0, hello(protocol=99)))
            answer = await peer.answer_to(0)
        assert isinstance(answer, Failed)
        assert "protocol" in answer.message
        assert "99" in answer.message


class TestStrangeCalls:
    """Calls that the protocol allows, and that mean nothing: each gets an answer."""

    @pytest.mark.parametrize(
        "parameter",
        [[1], {"a": 1}, 2**63, 2**64 - 1, msgspec.msgpack.Ext(5, b"x")],
        ids=["list", "dict", "large", "largest", "extension"],
    )
    async def test_parameters(self, pair: Pair, parameter: object):
        """A parameter that SQLite cannot store is refused as at home, and the connection stays."""
        uid = await uid_of(pair.owner)
        async with raw_peer(socket_of(pair.owner)) as peer:
            await peer.greet()
            peer.send(frame(1, [3, "acme", uid, 1.0, 1, 0, False, False, [statement(parameter)]]))
            failed = await peer.answer_to(1)
            assert isinstance(failed, Failed)
            assert failed.classes[0] == "QueryError"
            peer.send(frame(2, read(uid)))
            assert await peer.answer_to(2) == Done([0])

    @pytest.mark.parametrize("seconds", [-1e300, -1.0, 0.0], ids=str)
    async def test_a_deadline_that_has_passed(self, pair: Pair, seconds: float):
        """The call times out while it waits for the writer, and has no effect."""
        async with raw_peer(socket_of(pair.owner)) as peer:
            await peer.greet()
            async with pair.own.transaction():
                peer.send(frame(1, write(await uid_of(pair.owner), 1, remaining_seconds=seconds)))
                failed = await peer.answer_to(1)
        assert isinstance(failed, Failed)
        assert failed.classes[0] == "CallTimeoutError"
        assert failed.attributes["was_started"] is False
        assert await texts(pair.own) == []

    @pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e300], ids=str)
    async def test_a_deadline_that_never_comes(self, pair: Pair, seconds: float):
        """The owner's own call timeout holds."""
        async with raw_peer(socket_of(pair.owner)) as peer:
            await peer.greet()
            peer.send(frame(1, write(await uid_of(pair.owner), 1, remaining_seconds=seconds)))
            assert isinstance(await peer.answer_to(1), Done)

    @pytest.mark.parametrize(
        "tenant_id", ["", "../acme", "acme/../acme", "a" * 10_000, "acme\0", "globex", "/etc/passwd"]
    )
    async def test_other_tenants(self, pair: Pair, tenant_id: str):
        """An id that names no open tenant makes no file, whatever characters it has."""
        before = sorted(pair.owner.config.data_dir.rglob("*"))
        async with raw_peer(socket_of(pair.owner)) as peer:
            await peer.greet()
            uid = await uid_of(pair.owner)
            peer.send(frame(1, write(uid, 1, tenant_id=tenant_id)), frame(2, read(uid, tenant_id=tenant_id)))
            peer.send(frame(3, Begin(tenant_id, uid)))
            assert {type((await peer.answer())[1]) for _ in range(3)} == {NotOwner}
        assert sorted(pair.owner.config.data_dir.rglob("*")) == before

    async def test_another_tenants_uid(self, pair: Pair):
        """An id with the key of another tenant, which had the id once, is not served."""
        async with raw_peer(socket_of(pair.owner)) as peer:
            await peer.greet()
            peer.send(frame(1, write(UID, 1)))
            assert await peer.answer_to(1) == NotOwner()

    @pytest.mark.parametrize("key", ["", "a\nb", "ä", "k" * 256], ids=["empty", "line", "umlaut", "long"])
    async def test_idempotency_keys(self, pair: Pair, key: str):
        """The owner checks keys too."""
        async with raw_peer(socket_of(pair.owner)) as peer:
            await peer.greet()
            unit = [insert("x")]
            peer.send(frame(1, WriteOnce("acme", await uid_of(pair.owner), 1.0, key, bytes(32), unit)))
            failed = await peer.answer_to(1)
        assert isinstance(failed, Failed)
        assert failed.classes[0] == "QueryError"

    async def test_transactions_that_are_not_there(self, pair: Pair):
        """Their calls say that the transaction has ended; a rollback is a no-op."""
        async with raw_peer(socket_of(pair.owner)) as peer:
            await peer.greet()
            for call, request in enumerate(
                [TransactionWrite(77, [insert("x")]), TransactionRead(77, count_notes()), Commit(77, 1, 0)]
            ):
                peer.send(frame(call + 1, request))
                failed = await peer.answer_to(call + 1)
                assert isinstance(failed, Failed)
                assert failed.classes[0] == "TransactionClosedError"
            peer.send(frame(9, Rollback(77)), frame(77, Cancel()))
            assert await peer.answer_to(9) == Done(None)

    async def test_a_number_that_was_used_before(self, pair: Pair):
        """Units with one number share a mark, which harms their sender only: nobody else's unit of the batch fails."""
        uid = await uid_of(pair.owner)
        async with raw_peer(socket_of(pair.owner)) as peer:
            await peer.greet()
            for call in (1, 2):
                async with pair.own.transaction():
                    peer.send(frame(call, write(uid, 5)))
                    writing = pair.own.execute("INSERT INTO notes (text) VALUES ('own')")
                    own = asyncio.create_task(writing, context=Context())  # outside of the transaction
                    await until(lambda: bool((s := pair.own.statistics()) and s.write.mailbox_requests == 2))
                await own
                assert isinstance(await peer.answer_to(call), Done)
        assert sorted(map(str, await texts(pair.own))) == ["5", "5", "own", "own"]


class TestOperations:
    """What operators of other processes may ask for."""

    @pytest.mark.parametrize(
        "path", ["", "a", "../a/b", "/tmp/a", "a/../../b", "a\0/b", "missing/b", "link/b", "a/" + "b" * 300]
    )
    async def test_copies_elsewhere(self, pair: Pair, tmp_path: Path, path: str):
        """A copy is written below ``scratch`` only, and into a folder that is there."""
        scratch, outside = pair.owner.config.data_dir / "scratch", tmp_path / "outside"
        (scratch / "a").mkdir(parents=True, exist_ok=True)
        outside.mkdir()
        (scratch / "link").symlink_to(outside)
        before = files_below(scratch, outside)
        async with raw_peer(socket_of(pair.owner)) as peer:
            await peer.greet()
            peer.send(frame(1, Copy("acme", await uid_of(pair.owner), path)))
            assert isinstance(await peer.answer_to(1), Failed)
        assert files_below(scratch, outside) == before
        await check_served(pair)

    @pytest.mark.parametrize("kind", [Copy, Check, Statistics, Refresh])
    async def test_other_tenants(self, pair: Pair, kind: Callable[..., object]):
        """A tenant that is not open here, or whose id has another key, is not worked on."""
        more = {Copy: ("a/b",), Check: (True,)}.get(kind, ())
        async with raw_peer(socket_of(pair.owner)) as peer:
            await peer.greet()
            peer.send(
                frame(1, kind("../acme", await uid_of(pair.owner), *more)), frame(2, kind("acme", UID, *more))
            )
            assert [type(await peer.answer_to(call)) for call in (1, 2)] == [NotOwner, NotOwner]
        await check_served(pair)

    async def test_a_tenant_that_is_held(self, pair: Pair):
        """A process that lets a tenant be closed and dies holds nobody up."""
        async with raw_peer(socket_of(pair.owner)) as peer:
            await peer.greet()
            peer.send(frame(1, Release("acme", await uid_of(pair.owner), "test")))
            assert isinstance(await peer.answer_to(1), Done)
        await check_served(pair)


class TestLimits:
    """What the owner keeps for other processes has limits."""

    async def test_a_process_that_says_nothing(self, pair: Pair):
        """A connection without a complete greeting ends after a time."""
        with_limits(pair.owner, hello_seconds_max=0.01)
        for sent in (b"", frame(0, hello())[:-1]):
            with structlog.testing.capture_logs() as logs:
                async with raw_peer(socket_of(pair.owner)) as peer:
                    peer.send(sent)
                    assert await peer.ended() == b""
            assert any("introduce" in log.get("reason", "") for log in logs)
        await check_served(pair)

    async def test_many_connections(self, pair: Pair):
        """Of connections that have not introduced themselves, the oldest end first; those that have stay."""
        with_limits(pair.owner, connections_max=8)
        await texts(pair.forwarded)
        path = socket_of(pair.owner)
        with structlog.testing.capture_logs() as logs:
            silent = [RawPeer(*await asyncio.open_unix_connection(path)) for _ in range(100)]
            await asyncio.gather(*(peer.ended() for peer in silent[:93]))
            async with raw_peer(path) as peer:
                await peer.greet()
                await check_served(pair)
                assert len(pair.owner._parts.peers._accepted) <= 8
            for one in silent:
                one.close()
        assert [log["event"] for log in logs].count("tenantry.peers.many") == 1

    async def test_many_processes(self, pair: Pair):
        """If all connections have introduced themselves, one more is refused."""
        with_limits(pair.owner, connections_max=3)
        path = socket_of(pair.owner)
        async with raw_peer(path) as first, raw_peer(path) as second, raw_peer(path) as third:
            for peer in (first, second, third):
                await peer.greet()
            async with raw_peer(path) as fourth:
                assert await fourth.ended() == b""
            first.close()
            await until(lambda: len(pair.owner._parts.peers._accepted) == 2)
            async with raw_peer(path) as fourth:
                await fourth.greet()

    async def test_many_calls(self, pair: Pair):
        """The owner takes a limited number of calls of a connection, and reads the others later; all are answered."""
        with_limits(pair.owner, calls_max=10)
        uid, count = await uid_of(pair.owner), 500
        async with raw_peer(socket_of(pair.owner)) as peer:
            await peer.greet()
            async with pair.own.transaction():
                peer.send(*(frame(number, write(uid, number)) for number in range(1, count + 1)))
                await until(lambda: waiting(pair) == 10)
                await pair.own.fetch_value("SELECT count(*) FROM notes")
                assert waiting(pair) == 10
            answers = [await peer.answer() for _ in range(count)]
        assert {type(answer) for _, answer in answers} == {Done}
        assert await texts(pair.own) == [*range(1, count + 1)]

    async def test_answers_that_nobody_reads(self, pair: Pair):
        """The owner keeps a limited size of answers: a result above it is not sent. After a time the connection ends."""
        with_limits(pair.owner, unread_bytes_max=3_000_000, unread_seconds_max=0.5, calls_max=64)
        uid = await uid_of(pair.owner)
        large = SentStatement("notes.large", "SELECT zeroblob(1000000)", (), Fetch.ONE)
        with structlog.testing.capture_logs() as logs:
            async with raw_peer(socket_of(pair.owner)) as peer:
                await peer.greet()
                peer.reader._transport.pause_reading()  # type: ignore[attr-defined]  # as a process that is stopped
                peer.send(*(frame(number, read(uid, statement=large)) for number in range(1, 1_000)))
                (served,) = (one for one in pair.owner._parts.peers._accepted if one.hello is not None)
                largest = 0

                def has_ended() -> bool:
                    nonlocal largest
                    largest = max(largest, served.unread_bytes)
                    return served.is_ended

                await until(has_ended)
                assert largest <= 3_100_000
                assert len(served._calls) == 0
        assert any("read its answers" in log.get("reason", "") for log in logs)
        await check_served(pair)

    async def test_a_result_that_finds_no_room(self, pair: Pair):
        """A read whose result is not sent fails, and can be repeated; a unit is done, and says so."""
        with_limits(pair.owner, unread_bytes_max=1_000)
        uid = await uid_of(pair.owner)
        blob = "zeroblob(10000)"
        async with raw_peer(socket_of(pair.owner)) as peer:
            await peer.greet()
            peer.send(frame(1, read(uid, statement=SentStatement("n", f"SELECT {blob}", (), Fetch.ONE))))
            sql = f"INSERT INTO notes (text) VALUES ({blob}) RETURNING text"
            peer.send(frame(2, write(uid, 2, SentStatement("n", sql, (), Fetch.ONE))))
            answers = dict([await peer.answer(), await peer.answer()])
        assert [answers[call].classes[0] for call in (1, 2)] == ["QueryError", "ResultLostError"]
        assert len(await texts(pair.own)) == 1

    async def test_many_transactions(self, data_dir: Path):
        """Transactions that nobody ends are rolled back at their deadline, one after the other, and let their tenant close."""
        async with open_pair(data_dir, transaction_timeout_seconds=0.02) as pair:
            with_limits(pair.owner, transactions_max=5)
            uid = await uid_of(pair.owner)
            async with raw_peer(socket_of(pair.owner)) as peer:
                await peer.greet()
                peer.send(*(frame(call, Begin("acme", uid)) for call in range(1, 1_001)))
                answers = [await peer.answer() for _ in range(1_000)]
                kinds = [answer.classes[0] for _, answer in answers if isinstance(answer, Failed)]
                assert len(kinds) == 995
                assert set(kinds) <= {"TenantOverloadedError", "CallTimeoutError"}
                await check_served(pair)
                entry = pair.owner._parts.pool._entries["acme"]
                await until(lambda: entry.lease_count == 0 and not entry.transactions)


SCALARS = st.one_of(
    *(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(),
        st.text(max_size=8),
        st.binary(max_size=20),
    ),
    st.sampled_from(["acme", b"t" * 16, "none", "SELECT 1", "n"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
MESSAGES = st.one_of(
    st.binary(max_size=40),
    st.tuples(st.integers(0, 20), VALUES).map(list),
    st.tuples(st.integers(0, 20), st.lists(SCALARS | VALUES, max_size=9)).map(lambda one: [one[0], *one[1]]),
)
SENT = st.lists(
    st.one_of(
        st.binary(max_size=60),
        st.builds(frame, st.integers(0, 5), MESSAGES),
        st.sampled_from([frame(0, hello(b"t" * 16)), frame(1, Begin("acme", UID)), frame(1, read(UID))]),
    ),
    max_size=6,
)
"""What a process that is not tenantry may send: random bytes, and frames whose beginning is that of a message."""


async def send_anything(pair: Pair, sent: list[bytes], *, is_greeted: bool) -> None:
    """Send this; the owner either ends the connection, or answers the next call."""
    async with raw_peer(socket_of(pair.owner)) as peer:
        if is_greeted:
            await peer.greet()
        peer.send(*sent)
        peer.writer.write_eof()
        await peer.ended()
    await until(lambda: all(one.hello is not None for one in pair.owner._parts.peers._accepted))


class TestAnything:
    """Bytes that nobody would think of. The owner's warnings are the only thing that they cause."""

    def check(self, data_dir: Path, examples: int) -> None:
        """Send as many examples of nonsense to one owner, and check that it still serves."""

        async def send_all() -> None:
            async with open_pair(data_dir, handed_over_after_calls=10**6) as pair:
                loop, failures = asyncio.get_running_loop(), []
                loop.set_exception_handler(lambda _, context: failures.append(context))

                @settings(max_examples=examples, suppress_health_check=list(HealthCheck), database=None)
                @given(sent=SENT, is_greeted=st.booleans())
                def send(sent: list[bytes], *, is_greeted: bool) -> None:
                    asyncio.run_coroutine_threadsafe(
                        send_anything(pair, sent, is_greeted=is_greeted), loop
                    ).result(HANG_SECONDS)

                with structlog.testing.capture_logs():
                    await asyncio.to_thread(send)
                assert failures == []
                await check_served(pair)

        asyncio.run(send_all())

    def test_a_little(self, data_dir: Path):
        """Fifty times."""
        self.check(data_dir, 50)

    @pytest.mark.soak
    def test_a_lot(self, data_dir: Path):
        """Twenty thousand times, or as often as ``SOAK_EXAMPLES`` says."""
        self.check(data_dir, soak_size("EXAMPLES", 20_000))

    @pytest.mark.soak
    async def test_ten_thousand_connections(self, pair: Pair):
        """Ten thousand connections one after the other, of which nobody introduces itself."""
        silent = []
        for _ in range(100):
            silent = [RawPeer(*await asyncio.open_unix_connection(socket_of(pair.owner))) for _ in range(100)]
            await check_served(pair)
            assert len(pair.owner._parts.peers._accepted) <= 256
            for one in silent:
                one.close()


def waiting(pair: Pair) -> int:
    """Return the number of writes in the tenant's mailbox."""
    statistics = pair.own.statistics()
    assert statistics is not None
    return statistics.write.mailbox_requests
