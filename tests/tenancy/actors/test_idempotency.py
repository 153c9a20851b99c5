"""Idempotency keys on real files: a write with one takes effect once, and gives the same outcome however often it is sent."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyed_writes import RETENTION_SECONDS, MovedClock
from samples import NOON, a_message, a_task
from stores import OPTIONS, open_store, read_rows, rows, run
from tenantry import (
    Fetch,
    IdempotentWrite,
    RegistryConfig,
    Repository,
    Statement,
    TenantHandle,
    TenantRegistry,
)
from tenantry.errors import (
    ConstraintViolationError,
    DuplicateRecordError,
    IdempotencyConflictError,
    QueryError,
    TenantryError,
)
from tenantry.storage.idempotency import EXPIRED_KEYS_REMOVED_MAX, RESULTS_BYTES_MAX
from tenantry.storage.protocol import KeyedRequest
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.storage.sqlite.store import SQLiteStore
from tenants import as_another, database_path, held_writer, python, query, read_line, stored_contents, until

SEED = 20260131


INT64 = st.integers(-(2**63), 2**63 - 1)


# Whatever SQLite keeps. A NaN it takes for NULL, and no file name or text of ours holds half a character.
VALUES = (
    st.none()
    | INT64
    | st.floats(allow_nan=False)
    | st.binary()
    | st.text(st.characters(exclude_categories=["Cs"]))
)


# Two units in each pair that must not be taken for one another.
OTHER_PAYLOADS: dict[str, tuple[list[Statement], list[Statement]]] = {
    "text-for-number": ([rows("SELECT ?", 1)], [rows("SELECT ?", "1")]),
    "float-for-int": ([rows("SELECT ?", 1)], [rows("SELECT ?", 1.0)]),
    "bytes-for-text": ([rows("SELECT ?", "a")], [rows("SELECT ?", b"a")]),
    "null-for-text": ([rows("SELECT ?", None)], [rows("SELECT ?", "n")]),
    "cut-elsewhere": ([rows("SELECT ?, ?", "asb", "c")], [rows("SELECT ?, ?", "a", "bsc")]),
    "in-other-order": ([rows("SELECT 1"), rows("SELECT 2")], [rows("SELECT 2"), rows("SELECT 1")]),
    "once-more": ([rows("SELECT 1")], [rows("SELECT 1"), rows("SELECT 1")]),
    "asking-for-rows": ([rows("SELECT 1")], [Statement("test.run", "SELECT 1", (), Fetch.ONE)]),
    "parameters-or-a-statement": (
        [rows("SELECT ?, ?", "SELECT 2", "none")],
        [rows("SELECT ?, ?"), rows("SELECT 2")],
    ),
    "other-sql": ([rows("SELECT 1")], [rows("SELECT 2")]),
}


# Saves messages with keys, one caller after the other, and says which was acknowledged as soon as it was.
WRITER = """
import asyncio, os, sys
import structlog
from uuid import UUID
from samples import a_message
from tenantry import RegistryConfig, TenantRegistry

structlog.configure(logger_factory=structlog.ReturnLoggerFactory())

async def main(data_dir):
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        await registry.create("acme")
        acme = registry.tenant("acme")

        async def write(numbers):
            for n in numbers:
                await acme.idempotent(f"key-{n}").messages.save(a_message(id=UUID(int=n), content=str(n)))
                os.write(1, f"{n}\\n".encode())

        await asyncio.gather(*(write(range(first, 1_000_000, 8)) for first in range(8)))

asyncio.run(main(sys.argv[1]))
"""


class Twice(Repository):
    """Writes in two units."""

    async def write_twice(self, statement: Statement) -> None:
        """Run it in two units, as a method should not that is called with a key."""
        await self.write(statement)
        await self.write(statement)


@pytest.fixture
def clock() -> MovedClock:
    """A clock of the test's own."""
    return MovedClock()


@pytest.fixture
async def registry(data_dir: Path, clock: MovedClock) -> AsyncIterator[TenantRegistry]:
    """An open registry that keeps keys for a minute of that clock."""
    config = RegistryConfig(
        data_dir=data_dir, idempotency_retention_seconds=RETENTION_SECONDS, clock_hold_seconds=0
    )
    async with TenantRegistry(config, clock=clock) as opened:
        yield opened


@pytest.fixture
async def acme(registry: TenantRegistry) -> TenantHandle:
    """A tenant."""
    await registry.create("acme")
    return registry.tenant("acme")


def keyed(*statements: Statement, key: str = "key") -> KeyedRequest:
    """Return a unit with a key; its text stands for its hash."""
    return KeyedRequest(
        statements,
        key=key,
        payload_hash=repr(statements).encode(),
        now=NOON,
        kept_since=NOON - timedelta(days=1),
    )


def keys(data_dir: Path) -> set[str]:
    """Return the keys in the tenant's file, read without tenantry."""
    path = database_path(data_dir, "acme")
    if not query(path, "SELECT 1 FROM sqlite_schema WHERE name = 'tenantry_idempotency'"):
        return set()
    return {row[0] for row in query(path, "SELECT key FROM tenantry_idempotency")}


async def stored_ids(store: SQLiteStore) -> list[int]:
    """Return the rows of a test's own table."""
    return [row[0] for row in await read_rows(store, "SELECT id FROM t ORDER BY id")]


async def test_the_same_write_again_gives_the_same_outcome(acme: TenantHandle, data_dir: Path):
    """A delete that is sent again says again that there was one, though by then there is another or none; nothing is written."""
    await acme.idempotent("save").tasks.save(a_task(title="first"))
    assert await acme.idempotent("delete").tasks.delete("task-1") is True
    await acme.tasks.save(a_task(title="second"))
    assert await acme.idempotent("delete").tasks.delete("task-1") is True
    await acme.idempotent("save").tasks.save(a_task(title="first"))
    task = await acme.tasks.get("task-1")
    assert task is not None
    assert task.title == "second"
    assert keys(data_dir) == {"save", "delete"}


async def test_it_survives_the_process(data_dir: Path):
    """What another registry, on the same files later, is sent again is known."""
    message = a_message()
    for _ in range(2):
        async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
            if not (await registry.list()):
                await registry.create("acme")
            await registry.tenant("acme").idempotent("hello").messages.save(message)
    assert stored_contents(data_dir, "acme") == ["Hello."]


async def test_keys_are_the_tenants_own(registry: TenantRegistry):
    """Two tenants may use the same key, for different writes."""
    for tenant_id in ("acme", "globex"):
        await registry.create(tenant_id)
        await registry.tenant(tenant_id).idempotent("key").tasks.save(a_task(title=tenant_id))
    for tenant_id in ("acme", "globex"):
        task = await registry.tenant(tenant_id).tasks.get("task-1")
        assert task is not None
        assert task.title == tenant_id


async def test_another_write_with_the_key_is_refused(acme: TenantHandle, data_dir: Path):
    """It says which key, writes nothing, and leaves the first outcome for who sends the first write again."""
    first, other = a_message(content="first"), a_message(content="other")
    await acme.idempotent("key").messages.save(first)
    with pytest.raises(
        IdempotencyConflictError, match=r"messages\.save: the key 'key' was used for another write"
    ) as caught:
        await acme.idempotent("key").messages.save(other)
    assert (caught.value.key, caught.value.is_retryable) == ("key", False)
    await acme.idempotent("key").messages.save(first)
    assert stored_contents(data_dir, "acme") == ["first"]


@pytest.mark.parametrize(("first", "other"), OTHER_PAYLOADS.values(), ids=OTHER_PAYLOADS.keys())
async def test_what_is_another_write(acme: TenantHandle, first: list[Statement], other: list[Statement]):
    """Types, order, number and where one value ends and the next begins are all part of what is written."""
    outcome = await acme.idempotent("key").repository(Repository).write(*first)
    assert await acme.idempotent("key").repository(Repository).write(*first) == outcome
    with pytest.raises(IdempotencyConflictError):
        await acme.idempotent("key").repository(Repository).write(*other)


async def test_what_is_the_same_write(acme: TenantHandle):
    """The name in metrics and the kind of sequence are not part of it."""
    sql = "SELECT ?, ?, random()"
    first = (
        await acme.idempotent("key")
        .repository(Repository)
        .write(Statement("old.name", sql, ("a", 1), Fetch.ALL))
    )
    again = (
        await acme.idempotent("key")
        .repository(Repository)
        .write(Statement("new.name", sql, ["a", 1], Fetch.ALL))
    )
    assert again == first


async def test_a_key_expires(acme: TenantHandle, clock: MovedClock, data_dir: Path):
    """At the end of its retention it is as if it had never been: the same write runs again, and so may another."""
    await acme.idempotent("key").tasks.save(a_task())
    clock.move(RETENTION_SECONDS - 1)
    with pytest.raises(IdempotencyConflictError):
        await acme.idempotent("key").tasks.delete("task-1")
    clock.move(1)
    assert await acme.idempotent("key").tasks.delete("task-1") is True
    clock.move(RETENTION_SECONDS)
    assert await acme.idempotent("key").tasks.delete("task-1") is False
    assert keys(data_dir) == {"key"}


async def test_expired_keys_are_removed_a_few_at_a_time(
    acme: TenantHandle, clock: MovedClock, data_dir: Path
):
    """Each new key removes some, the oldest first, so the table stays small and no caller pays for all."""
    for n in range(EXPIRED_KEYS_REMOVED_MAX + 4):
        await acme.idempotent(f"second-{n}").tasks.delete("none")
        clock.move(1)
    clock.move(RETENTION_SECONDS - 2)  # the last one has not expired
    await acme.idempotent("second-18").tasks.delete(
        "none"
    )  # has expired, and is used again before it is removed
    assert keys(data_dir) == {"second-16", "second-17", "second-18", "second-19"}
    await acme.idempotent("new").tasks.delete("none")
    assert keys(data_dir) == {"second-18", "second-19", "new"}
    clock.move(1)
    await acme.idempotent("newer").tasks.delete("none")
    assert keys(data_dir) == {"second-18", "new", "newer"}


async def test_a_write_that_fails_keeps_no_key(acme: TenantHandle, data_dir: Path):
    """It had no effect: sent again it runs again, and the key is free for another write."""
    message = a_message(content="there already")
    await acme.messages.save(message)
    for _ in range(2):
        with pytest.raises(DuplicateRecordError):
            await acme.idempotent("key").messages.save(message)
    assert keys(data_dir) == set()
    await acme.idempotent("key").messages.save(a_message(content="another"))
    assert stored_contents(data_dir, "acme") == ["there already", "another"]


async def test_callers_at_the_same_moment(acme: TenantHandle, data_dir: Path):
    """Of many who send one write, and one who sends another, while the writer is busy, the first decides; it runs once."""
    await acme.messages.save(a_message(content="open"))
    message = a_message(content="once")
    with held_writer(database_path(data_dir, "acme")):
        sent = [asyncio.ensure_future(acme.idempotent("key").messages.save(message)) for _ in range(20)]
        other = asyncio.ensure_future(acme.idempotent("key").messages.save(a_message(content="other")))
        neighbour = asyncio.ensure_future(acme.messages.save(a_message(content="neighbour")))
        await until(lambda: _write_calls(acme) >= 1 + 22)
    assert await asyncio.gather(*sent) == [None] * 20
    with pytest.raises(IdempotencyConflictError):
        await other
    await neighbour
    assert stored_contents(data_dir, "acme") == ["open", "once", "neighbour"]


async def test_a_caller_that_lost_the_reply(acme: TenantHandle, data_dir: Path):
    """Cancelled while its batch ran, it sends the write again, through the same object too: it took effect once."""
    await acme.messages.save(a_message(content="open"))
    message, write = a_message(content="once"), acme.idempotent("key")
    with held_writer(database_path(data_dir, "acme")):
        lost = asyncio.ensure_future(write.messages.save(message))
        await until(lambda: _write_calls(acme) == 2)
        lost.cancel()
        with pytest.raises(asyncio.CancelledError):
            await lost
    await write.messages.save(message)
    assert stored_contents(data_dir, "acme") == ["open", "once"]


async def test_one_object_makes_one_write(acme: TenantHandle, data_dir: Path):
    """A second write through it is refused, the same one too; reading goes on."""
    write = acme.idempotent("key")
    await write.messages.save(a_message(content="first"))
    for message in (a_message(content="first"), a_message(content="second")):
        with pytest.raises(
            QueryError, match="the idempotency key 'key' belongs to an earlier write, and nothing was written"
        ):
            await write.messages.save(message)
    assert len(await write.messages.get_history("general")) == 1
    twice = acme.idempotent("twice").repository(Twice)
    with pytest.raises(QueryError, match=r"with another key for a different write; .* to one write\(\)"):
        await twice.write_twice(Statement("test.add", "DELETE FROM tasks"))
    assert stored_contents(data_dir, "acme") == ["first"]


async def test_a_second_write_at_the_same_moment(acme: TenantHandle, data_dir: Path):
    """It need not wait for the end of the first to be refused."""
    write = acme.idempotent("key")
    outcomes = await asyncio.gather(
        *(write.messages.save(a_message(content=content)) for content in ("first", "second")),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [type(None), QueryError]
    assert stored_contents(data_dir, "acme") == ["first"]


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE tenantry_owner",
        "DELETE FROM Tenantry_Owner",
        "UPDATE schema_migrations SET version = 0",
        "INSERT INTO tenantry_idempotency DEFAULT VALUES",
        "ALTER TABLE tenantry_owner RENAME TO another",
        "CREATE TRIGGER another AFTER UPDATE ON tenantry_owner BEGIN SELECT 1; END",
        "CREATE INDEX another ON schema_migrations (version)",
    ],
)
async def test_tables_of_tenantry_are_read_only(acme: TenantHandle, sql: str):
    """A repository reads the tables in which tenantry keeps owner, migrations and keys, and changes none of them."""
    await acme.idempotent("made").messages.save(a_message())
    with pytest.raises(QueryError, match="for anything but reading"):
        await acme.repository(Repository).write(Statement("test.change", sql))
    read = Statement("test.read", "SELECT count(*) FROM tenantry_owner", (), Fetch.ONE)
    assert await acme.repository(Repository).write(read) == [(1,)]


async def test_writing_nothing_uses_no_key(acme: TenantHandle, data_dir: Path):
    """An empty list of records, or of statements, is no write: the key is still there for one."""
    write = acme.idempotent("key")
    await write.messages.save_many([])
    assert await write.repository(Repository).write() == []
    assert keys(data_dir) == set()
    await write.messages.save_many([a_message(content="a"), a_message(content="b")])
    assert stored_contents(data_dir, "acme") == ["a", "b"]


@pytest.mark.parametrize(
    "key", ["", "x" * 256, "schlüssel", "a\nb", "a\x00", "a\n", "\x7f", None, 17, b"key"]
)
def test_what_is_no_key(data_dir: Path, key: Any):
    """It is refused before anything is sent, with what a key is."""
    tenant = TenantRegistry(RegistryConfig(data_dir=data_dir)).tenant("acme")
    with pytest.raises(QueryError, match="the idempotency key is not valid: use 1 to 255 printable ASCII"):
        tenant.idempotent(key)


@pytest.mark.parametrize("key", [" ", "~", "x" * 255, "'; DROP TABLE tasks; --", "%?"])
async def test_what_is_a_key(acme: TenantHandle, data_dir: Path, key: str):
    """The bounds themselves, and whatever else can be printed."""
    write = acme.idempotent(key)
    assert isinstance(write, IdempotentWrite)
    assert await write.tasks.delete("none") is False
    assert keys(data_dir) == {key}


@pytest.mark.parametrize(
    "parameters", [(object(),), ([1],), ({"a": 1},), (NOON,), 5, {"id": 1}, (n for n in [1])]
)
async def test_parameters_that_no_key_can_stand_for(acme: TenantHandle, data_dir: Path, parameters: Any):
    """What cannot be told apart from another is refused before it is sent; the key stays free."""
    write = acme.idempotent("key")
    with pytest.raises(
        QueryError, match=r"test\.bad: .* give a write with a key a sequence of None, int, float"
    ):
        await write.repository(Repository).write(Statement("test.bad", "SELECT ?", parameters))
    assert keys(data_dir) == set()
    assert await write.tasks.delete("none") is False


async def test_results_that_are_too_large_to_keep(acme: TenantHandle, data_dir: Path):
    """The write is refused whole, with the limit, and the key stays free."""
    await acme.tasks.save(a_task())
    write = acme.idempotent("key").repository(Repository)
    with pytest.raises(QueryError, match=rf"returns 2[0-9]{{6}} bytes, .* at most {RESULTS_BYTES_MAX} bytes"):
        await write.write(Statement("test.delete", "DELETE FROM tasks"), _large(RESULTS_BYTES_MAX))
    assert await acme.tasks.get("task-1") is not None
    assert keys(data_dir) == set()


async def test_large_results_that_are_kept(acme: TenantHandle):
    """Just below the limit they are given again."""
    size = RESULTS_BYTES_MAX // 2 - 100
    for _ in range(2):
        assert await acme.idempotent("key").repository(Repository).write(_large(size)) == [[(bytes(size),)]]


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(VALUES, VALUES), max_size=3))
def test_kept_results_are_equal_to_the_first(rows: list[tuple[Any, Any]]):
    """Whatever SQLite gives back, by whichever way to fetch it, is the same and of the same types when it is given again."""
    values = [value for row in rows for value in row]
    sql = " UNION ALL ".join(["SELECT ?, ?"] * len(rows)) or "SELECT 1 WHERE 0"
    request = keyed(
        *(Statement("test.rows", sql, values, fetch) for fetch in Fetch if fetch is not Fetch.NONE)
    )

    async def send_twice() -> None:
        async with open_store(SQLiteOptions(path=None, is_read_by_writer=True)) as store:
            first, again = await store.write([request, request])
            assert isinstance(first, list), first
            assert [tuple(row) for row in first[-1]] == rows
            assert again == first
            assert repr(again) == repr(first)  # 1 is no 1.0, and 0.0 no -0.0

    asyncio.run(send_twice())


@pytest.mark.parametrize("make_options", OPTIONS.values(), ids=OPTIONS.keys())
async def test_neighbours_in_the_batch(tmp_path: Path, make_options: Callable[[Path], SQLiteOptions]):
    """A batch in which units with keys repeat, conflict, fail, and one takes everybody's transaction with it: each is told its own."""
    table = "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)"
    rollback = run("INSERT OR ROLLBACK INTO t (id) VALUES (0)")
    async with open_store(make_options(tmp_path), table, "INSERT INTO t (id) VALUES (0)") as store:
        outcomes = await store.write(
            [
                (_insert(1),),
                keyed(_insert(2)),
                keyed(_insert(2)),
                keyed(_insert(3)),
                keyed(_insert(4), rollback, key="lost"),
                keyed(_insert(5), _insert(1), key="failed"),
                keyed(_insert(2)),
                keyed(_insert(6), key="lost"),
                keyed(_insert(7), key="failed"),
                (_insert(8), _insert(9)),
                (_insert(1),),
            ]
        )
        assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, list)] == [0, 1, 2, 6, 7, 8, 9]
        failures = [type(outcome) for outcome in outcomes if isinstance(outcome, TenantryError)]
        assert failures == [IdempotencyConflictError, *[DuplicateRecordError] * 3]
        assert await stored_ids(store) == [0, 1, 2, 6, 7, 8, 9]
        found = await read_rows(store, "SELECT key FROM tenantry_idempotency ORDER BY key")
        assert found == [("failed",), ("key",), ("lost",)]


async def test_a_commit_that_fails_keeps_no_key(tmp_path: Path):
    """The key is in the transaction of the write: where that is not kept the write runs again when it is sent again."""
    child = "CREATE TABLE child (t_id INTEGER REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)"
    options = SQLiteOptions(path=tmp_path / "a.db")
    async with open_store(options, "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)", child) as store:
        orphan = run("INSERT INTO child (t_id) VALUES (99)")
        for outcome in await store.write([keyed(_insert(1)), (orphan,), keyed(_insert(1))]):
            assert isinstance(outcome, ConstraintViolationError)
        assert await store.write([keyed(_insert(1)), keyed(_insert(1))]) == [[None], [None]]
        assert await stored_ids(store) == [1]


async def test_beside_a_transaction(acme: TenantHandle, data_dir: Path):
    """A write with a key waits for it like any other, and is refused to the task that holds it: a transaction has no keys."""
    async with acme.transaction() as tx:
        await tx.messages.save(a_message(content="inside"))
        with pytest.raises(QueryError, match="inside an open transaction"):
            await acme.idempotent("key").messages.save(a_message(content="inside, too"))
        waiting = as_another(acme.idempotent("key").messages.save(a_message(content="after")))
        await until(lambda: _write_calls(acme) == 2)
    await waiting
    assert stored_contents(data_dir, "acme") == ["inside", "after"]


@pytest.mark.parametrize("acknowledged", random.Random(SEED).sample(range(1, 400), 3))
async def test_kill_9_leaves_the_key_if_and_only_if_the_write(data_dir: Path, acknowledged: int):
    """After a kill at a random moment keys and messages are the same; all sent again, each message is there once."""
    with python(WRITER, data_dir) as process:
        said = {int(read_line(process)) for _ in range(acknowledged)}
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    found = keys(data_dir)
    assert found == {f"key-{content}" for content in stored_contents(data_dir, "acme")}
    assert {f"key-{n}" for n in said} <= found
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        acme = registry.tenant("acme")
        numbers = range(len(found) + 100)
        for n in numbers:
            await acme.idempotent(f"key-{n}").messages.save(a_message(id=UUID(int=n), content=str(n)))
    assert set(map(str, numbers)) <= set(stored_contents(data_dir, "acme"))
    assert len(stored_contents(data_dir, "acme")) == len(keys(data_dir))


def _insert(row_id: int) -> Statement:
    return run("INSERT INTO t (id) VALUES (?)", row_id)


def _large(size: int) -> Statement:
    return Statement("test.large", f"SELECT zeroblob({size})", (), Fetch.ALL)


def _write_calls(acme: TenantHandle) -> int:
    statistics = acme.statistics()
    assert statistics is not None
    return statistics.write.calls
