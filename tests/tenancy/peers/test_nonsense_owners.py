"""A process that holds a tenant's lock and answers nonsense: callers get errors of tenantry, and in time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import structlog

from raw_peers import RawPeer, array_of, frame, raw_owner, socket_of
from registries import config, make_tenant
from service import Service
from tenantry import TenantHandle, TenantRegistry
from tenantry.errors import (
    CallTimeoutError,
    LimitError,
    QueryError,
    RegistryClosedError,
    ResultLostError,
    TenantNotFoundError,
    TenantOwnedElsewhereError,
    TenantryError,
    TransactionClosedError,
)
from tenantry.files.lock_file import LockFile
from tenantry.storage.sqlite.database_files.layout import tenant_paths
from tenantry.tenancy.actors.channel import ChannelStatistics
from tenantry.tenancy.peers.connections.messages import (
    PROTOCOL_VERSION,
    Cancel,
    Done,
    Failed,
    NotOwner,
    UnitsDone,
    Welcome,
    decode_request,
)
from tenants import make_message

NAME = "0123456789ab"
SHORT = {"call_timeout_seconds": 0.3, "pool_wait_timeout_seconds": 0.3}
"""Settings of a registry whose calls are to time out."""

Answers = Callable[[Any], Any]
"""Returns the answer to a request: a message, bytes, or None for no answer."""


@asynccontextmanager
async def forwarding_to(
    data_dir: Path, answers: Answers, greeting: Any = None, **settings: Any
) -> AsyncIterator[TenantHandle]:
    """Open a registry whose tenant ``acme`` is locked by an owner that answers so; yield the tenant's handle."""
    await make_tenant(data_dir)
    with locked(data_dir, NAME):
        async with TenantRegistry(config(data_dir, **settings)) as registry:
            welcome = Welcome(PROTOCOL_VERSION, 1, "test", registry._parts.peers._versions())

            async def serve(peer: RawPeer) -> None:
                while True:
                    call, message = await peer.message()
                    if call == 0:
                        answer = welcome if greeting is None else greeting
                    else:
                        answer = answers(decode_request(message))
                    if answer is not None:
                        peer.send(answer if isinstance(answer, bytes) else frame(call, answer))

            async with raw_owner(data_dir, NAME, serve):
                yield registry.tenant("acme")


@contextmanager
def locked(data_dir: Path, socket_name: str, tenant_id: str = "acme") -> Iterator[None]:
    """Hold the lock of a tenant, whose file names this socket."""
    lock = LockFile(tenant_paths(data_dir, tenant_id).lock, socket_name=socket_name)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


GREETINGS = {
    "bytes": b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10,
    "an empty message": frame(0, b""),
    "a long message": b"\xff" * 8,
    "a result": frame(0, Done(5)),
    "units that are done": frame(0, UnitsDone([0])),
    "no owner": frame(0, NotOwner()),
    "a refusal": frame(0, Failed(["TenantError", "TenantryError"], "not with you", {})),
    "a refusal of an unknown kind": frame(
        0, Failed(["FutureError"], "not with you", {"retry_after_seconds": "x"})
    ),
    "another protocol": frame(0, Welcome(99, 1, "9.9", {})),
    "no schema packs": frame(0, Welcome(PROTOCOL_VERSION, 1, "9.9", {})),
    "other versions of schema packs": frame(0, Welcome(PROTOCOL_VERSION, 1, "9.9", {"company": 999})),
    "a huge array": frame(0, b"\x92\x0c" + array_of(2**32 - 1)),
}


@pytest.mark.parametrize("greeting", GREETINGS.values(), ids=GREETINGS)
async def test_greetings(data_dir: Path, greeting: bytes):
    """Without a proper greeting the tenant is refused as without forwarding, and the error says why."""
    with structlog.testing.capture_logs():
        async with forwarding_to(data_dir, lambda _: None, greeting) as tenant:
            with pytest.raises(TenantryError) as caught:
                await tenant.fetch_value("SELECT 1")
    assert isinstance(caught.value, (TenantOwnedElsewhereError, CallTimeoutError)) or "not with you" in str(
        caught.value
    )


RESULTS: tuple[Any, ...] = (
    None,
    5,
    "rows",
    [],
    [5],
    ["ab"],
    [[["id"], [1, 2]]],
    [[], []],
    [{}],
    {},
    [None, None],
)
"""Results that do not fit one statement that returns named rows."""


@pytest.mark.parametrize("result", RESULTS, ids=repr)
async def test_results_of_writes(data_dir: Path, result: Any):
    """The unit was done, so the error says that its result is lost. It must not look as if the unit could be repeated."""
    async with forwarding_to(data_dir, lambda _: Done(result)) as tenant:
        with pytest.raises(ResultLostError, match="of another kind"):
            await tenant.fetch_all("INSERT INTO notes (text) VALUES (1) RETURNING id")


async def test_units_that_are_done(data_dir: Path):
    """One message answers several calls, and changes nothing for calls that do not wait. It is no answer to a unit with results."""
    async with forwarding_to(data_dir, lambda _: UnitsDone([9, 1, 1, 2, 2**40])) as tenant:
        await tenant.messages.save(make_message())
        with pytest.raises(ResultLostError, match="of another kind"):
            await tenant.fetch_all("INSERT INTO notes (text) VALUES (1) RETURNING id")


@pytest.mark.parametrize("result", [5, "rows", [5], ["ab"], [["id"], [1, 2]], [[5], [1]], {}, True], ids=repr)
async def test_results_of_reads(data_dir: Path, result: Any):
    """A result of another kind is an error of the query."""
    async with forwarding_to(data_dir, lambda _: Done(result)) as tenant:
        with pytest.raises(QueryError, match="of another kind"):
            await tenant.fetch_all("SELECT id FROM notes")


@pytest.mark.parametrize(
    ("failed", "kind"),
    [
        (Failed([], "what", {}), TenantryError),
        (Failed(["Exception", "SystemExit", "copy", "Any"], "what", {}), TenantryError),
        (Failed(["NewError", "QueryError", "PersistenceError"], "what", {"new": 1}), QueryError),
        (Failed(["CallTimeoutError"], "what", {}), CallTimeoutError),
        (Failed(["TenantNotFoundError"], "what", {"__class__": "x", "args": [], "tenant_id": []}), TenantNotFoundError),
        (Failed(["LimitError"], "what", {"retry_after_seconds": "soon", "is_retryable": "yes"}), LimitError),
        (Failed(["LimitError"], "what", {"retry_after_seconds": float("nan")}), LimitError),
        (Failed(["LimitError"], "what", {"outcome": "a label of metrics"}), LimitError),
    ],
    ids=["nothing", "no errors", "newer", "no attributes", "odd attributes", "a text", "NaN", "an outcome"],
)  # fmt: skip
async def test_errors(data_dir: Path, failed: Failed, kind: type[TenantryError]):
    """An error of any kind is an error of tenantry, with the attributes of its class."""
    async with forwarding_to(data_dir, lambda _: failed) as tenant:
        with pytest.raises(TenantryError, match="what") as caught:
            await tenant.fetch_value("SELECT 1")
    error = caught.value
    assert type(error) is kind
    assert error.outcome == kind.outcome
    assert error.retry_after_seconds is None
    assert isinstance(error.is_retryable, bool)
    if isinstance(error, CallTimeoutError):
        assert error.was_started  # nobody said that it was not


BROKEN = {
    "bytes": b"\xff" * 100,
    "a greeting": Welcome(PROTOCOL_VERSION, 1, "test", {}),
    "a request": Cancel(),
    "deep nesting": b"\x92\x0c" + b"\x91" * 100_000,
    "a huge array": b"\x92\x0c" + array_of(2**32 - 1),
    "a text that is not UTF-8": b"\x92\x0c\xa2\xff\xfe",
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
async def test_broken_answers(data_dir: Path, answer: Any):
    """The connection ends. A unit that may have been done is asked for until its deadline, and then it is not known; a read is no more."""
    broken = frame(1, answer) if isinstance(answer, bytes) and len(answer) != 100 else answer

    def answers(request: Any) -> Any:
        return broken

    with structlog.testing.capture_logs() as logs:
        async with forwarding_to(data_dir, answers, **SHORT) as tenant:
            with pytest.raises(CallTimeoutError) as written:
                await tenant.execute("INSERT INTO notes (text) VALUES (1)")
            assert written.value.was_started
            with pytest.raises(CallTimeoutError):
                await tenant.fetch_value("SELECT 1")
    assert "tenantry.peer.refused" in {log["event"] for log in logs}


async def test_answers_that_were_not_asked_for(data_dir: Path):
    """Answers to calls that were never made are ignored, however many."""

    def answers(request: Any) -> bytes:
        noise = [frame(call, Done(call)) for call in (*range(50, 500), 2**32 - 1)]
        return b"".join([*noise, frame(1, Done([["1"], [1]]))])

    async with forwarding_to(data_dir, answers) as tenant:
        assert await tenant.fetch_value("SELECT 1") == 1


async def test_no_answer(data_dir: Path):
    """A call that is never answered ends at its deadline; whether it had an effect is not known."""
    async with forwarding_to(data_dir, lambda _: None, **SHORT) as tenant:
        with pytest.raises(CallTimeoutError) as caught:
            await tenant.execute("INSERT INTO notes (text) VALUES (1)")
    assert caught.value.was_started


async def test_an_owner_that_denies_to_be_one(data_dir: Path):
    """A process that holds the lock for longer than it has the tenant open is asked now and then, until the call's deadline."""
    asked = 0

    def answers(request: Any) -> NotOwner:
        nonlocal asked
        asked += 1
        return NotOwner()

    async with forwarding_to(data_dir, answers, **SHORT) as tenant:
        with pytest.raises(CallTimeoutError) as caught:
            await tenant.execute("INSERT INTO notes (text) VALUES (1)")
    assert not caught.value.was_started
    assert 1 < asked < 100


IN_TRANSACTIONS = {
    "Begin": Done(None),
    "TransactionWrite": Done("?"),
    "TransactionRead": Done("?"),
    "Commit": NotOwner(),
    "Rollback": Done("?"),
}


async def test_transactions(data_dir: Path):
    """Whatever an owner answers inside a transaction, the caller gets an error of tenantry, and never a commit that was none."""

    def answers(request: Any) -> Any:
        return IN_TRANSACTIONS.get(type(request).__name__)

    async def do(*actions: Callable[[Any], Awaitable[Any]]) -> None:
        async with tenant.transaction() as tx:
            for action in actions:
                await action(tx)

    async with forwarding_to(data_dir, answers) as tenant:
        with pytest.raises(ResultLostError):
            await do(lambda tx: tx.execute("INSERT INTO notes (text) VALUES (1)"))
        with pytest.raises(QueryError):
            await do(lambda tx: tx.fetch_all("SELECT 1"))
        with pytest.raises(TransactionClosedError):
            await do()


async def test_an_owner_that_reads_nothing(data_dir: Path):
    """A process that takes connections and does not read them, as a stopped one, costs a call its timeout, and has no effect."""

    async def stand(peer: RawPeer) -> None:
        peer.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    await make_tenant(data_dir)
    with locked(data_dir, NAME):
        async with TenantRegistry(config(data_dir, **SHORT)) as registry, raw_owner(data_dir, NAME, stand):
            with pytest.raises(CallTimeoutError) as caught:
                await registry.tenant("acme").fetch_value("SELECT 1")
    assert not caught.value.was_started


@pytest.mark.parametrize(
    "name", ["../../etc", "a/b", "", ".", "x" * 200, "0123456789ab\0", "0123456789AB"], ids=repr
)
async def test_names_of_sockets(data_dir: Path, name: str):
    """A lock file that names no socket of ours is as one that names none, or whose owner is not there."""
    await make_tenant(data_dir)
    with locked(data_dir, name[:60]):
        async with TenantRegistry(config(data_dir)) as registry:
            with pytest.raises(TenantOwnedElsewhereError):
                await registry.tenant("acme").fetch_value("SELECT 1")


async def test_its_own_name(data_dir: Path):
    """A lock that this process holds without having the tenant open, as while a disk hangs, leads to no call to itself."""
    await make_tenant(data_dir)
    async with TenantRegistry(config(data_dir)) as registry:
        with locked(data_dir, socket_of(registry).name), pytest.raises(TenantOwnedElsewhereError):
            await registry.tenant("acme").fetch_value("SELECT 1")


async def test_the_registry_closes_during_the_greeting(data_dir: Path):
    """A caller that waits for the connection gets an error, and is not cancelled."""
    await make_tenant(data_dir)
    greeted = asyncio.Event()

    async def never_answer(peer: RawPeer) -> None:
        await peer.message()
        greeted.set()
        await peer.message()

    with locked(data_dir, NAME):
        async with TenantRegistry(config(data_dir)) as registry, raw_owner(data_dir, NAME, never_answer):
            call = asyncio.create_task(registry.tenant("acme").fetch_value("SELECT 1"))
            await greeted.wait()
            await registry.aclose()
            with pytest.raises(RegistryClosedError):
                await call


async def test_statistics_of_several_tenants(data_dir: Path):
    """The API asks for all of them at the same time, so that an owner that does not answer delays the response only once."""
    await make_tenant(data_dir)
    await make_tenant(data_dir, "globex")
    counted = dict.fromkeys([one.name for one in fields(ChannelStatistics)], 7)

    async def answer_together(peer: RawPeer) -> None:
        await peer.message()
        peer.send(frame(0, Welcome(PROTOCOL_VERSION, 1, "test", {})))
        for call in [(await peer.message())[0], (await peer.message())[0]]:
            peer.send(frame(call, Done({"write": counted, "read": counted})))

    with locked(data_dir, NAME), locked(data_dir, NAME, "globex"):
        async with (
            TenantRegistry(config(data_dir)) as registry,
            raw_owner(data_dir, NAME, answer_together),
            Service(registry) as service,
        ):
            client = await service.caller("read")
            found = await client.get("/v1/statistics", params={"tenant_id": ["acme", "globex"]})
    assert [one["read"]["calls"] for one in found.json()["items"]] == [7, 7]
