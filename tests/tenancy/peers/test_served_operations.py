"""What a process does for the operators of others: which files it writes, when it gives up, and what a lost or stopped owner means."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from others import other_process
from peers import Pair, open_pair, texts
from raw_peers import RawPeer, encode, frame, raw_peer, read, socket_of, uid_of
from registries import config
from tenantry import TenantRegistry
from tenantry.errors import PersistenceConnectionError, TenantBusyError, TenantOwnedElsewhereError
from tenantry.storage.sqlite.store import SQLiteStore
from tenantry.tenancy.peers.connections.messages import (
    Cancel,
    Check,
    Copy,
    Done,
    Failed,
    NotOwner,
    Ping,
    Refresh,
    Release,
    Statistics,
)
from tenantry.tenancy.peers.connections.owner_connection import OwnerConnection
from tenants import until


@pytest.fixture
async def pair(data_dir: Path) -> AsyncIterator[Pair]:
    """Two registries; the first has ``acme`` open."""
    async with open_pair(data_dir) as opened:
        yield opened


@pytest.fixture
async def peer(pair: Pair) -> AsyncIterator[RawPeer]:
    """A connection to the owner."""
    async with raw_peer(socket_of(pair.owner)) as opened:
        await opened.greet()
        yield opened


def databases_in(directory: Path) -> list[Path]:
    """Return the paths of the databases below a directory."""
    return sorted(directory.rglob("*.db"))


class Slow:
    """Copies and checks of databases that end when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
        self.begun, self.left, self.was_cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()
        original = getattr(SQLiteStore, method)

        async def work(store: SQLiteStore, *arguments: Any, **keywords: Any) -> None:
            self.begun.set()
            try:
                await self.left.wait()
            except asyncio.CancelledError:
                self.was_cancelled.set()
                raise
            await original(store, *arguments, **keywords)

        monkeypatch.setattr(SQLiteStore, method, work)


class TestCopies:
    """A copy is written below the scratch directory, and nowhere else."""

    @pytest.mark.parametrize(
        "path",
        [
            "copy.db",
            "../copy.db",
            "mine/../../copy.db",
            "/tmp/copy.db",
            "missing/copy.db",
            "link/copy.db",
            "mine/link.db",
            "mine/there.db",
            "mine/..",
            "mine/\0",
            "",
        ],
    )
    async def test_other_paths_are_refused(self, pair: Pair, peer: RawPeer, path: str, tmp_path: Path):
        """Whoever asks for another file gets an error, and no file is made or changed."""
        scratch = pair.owner.config.data_dir / "scratch"
        (scratch / "mine").mkdir(parents=True)
        (scratch / "link").symlink_to(tmp_path)
        (scratch / "mine" / "link.db").symlink_to(tmp_path / "target.db")
        (scratch / "mine" / "there.db").write_bytes(b"kept")
        before = databases_in(tmp_path)
        peer.send(frame(1, Copy("acme", await uid_of(pair.owner), path)))
        assert isinstance(await peer.answer_to(1), Failed)
        assert databases_in(tmp_path) == before
        assert (scratch / "mine" / "there.db").read_bytes() == b"kept"
        assert await texts(pair.own) == []

    async def test_a_long_copy(self, data_dir: Path, monkeypatch: pytest.MonkeyPatch):
        """A copy may take longer than a call, as long as the owner gives signs of life."""
        slow, pings = Slow(monkeypatch, "copy_to"), 0
        send = OwnerConnection.send

        def count(connection: OwnerConnection, call: int, message: bytes, **keywords: Any) -> None:
            nonlocal pings
            pings += message == encode(Ping())
            send(connection, call, message, **keywords)

        monkeypatch.setattr(OwnerConnection, "send", count)
        async with open_pair(data_dir, call_timeout_seconds=0.5) as pair:
            copying = asyncio.create_task(pair.other.snapshots.create("acme"))
            await slow.begun.wait()
            await until(lambda: pings > 2)  # one for each call timeout
            slow.left.set()
            assert (await copying).row_counts["notes"] == 0

    async def test_the_tenant_is_not_handed_over_during_a_copy(
        self, data_dir: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """A hand-over would interrupt the copy."""
        async with open_pair(data_dir, handed_over_after_calls=5) as pair:
            slow = Slow(monkeypatch, "copy_to")
            copying = asyncio.create_task(pair.other.snapshots.create("acme"))
            await slow.begun.wait()
            for _ in range(20):
                await texts(pair.forwarded)
            assert pair.owner.statistics().pool.closed_by_reason["handed_over"] == 0
            slow.left.set()
            await copying

    @pytest.mark.parametrize("method", ["copy_to", "check_integrity"])
    async def test_the_owner_gives_up_with_its_caller(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch, method: str
    ):
        """A caller that is cancelled cancels the work at the owner."""
        slow = Slow(monkeypatch, method)
        tenant = await pair.other.get("acme")
        owned = await pair.other._parts.tools.owners.find(tenant)
        assert owned is not None
        async with pair.other.scratch_directory() as directory:
            arguments = [directory / "copy.db"] if method == "copy_to" else []
            working = asyncio.create_task(getattr(owned, method)(*arguments))
            await slow.begun.wait()
            working.cancel()
            await slow.was_cancelled.wait()

    async def test_a_lost_owner(self, pair: Pair, monkeypatch: pytest.MonkeyPatch):
        """The operator is told that the owner ended, and can try again."""
        slow = Slow(monkeypatch, "copy_to")
        copying = asyncio.create_task(pair.other.snapshots.create("acme"))
        await slow.begun.wait()
        pair.owner._parts.peers.close()
        with pytest.raises(PersistenceConnectionError, match="ended during the work: try again") as caught:
            await copying
        assert caught.value.is_retryable
        await slow.was_cancelled.wait()


class TestReleases:
    """A released tenant stays closed as long as the other process needs it."""

    async def test_callers_wait_until_the_other_process_gives_up(self, pair: Pair, peer: RawPeer):
        """The tenant is closed when the answer comes, and opens again after `Cancel`."""
        peer.send(frame(1, Release("acme", await uid_of(pair.owner), "restore")))
        assert await peer.answer_to(1) == Done(None)
        assert pair.owner.statistics().pool.open_tenants == 0
        waiting = asyncio.create_task(texts(pair.own))
        peer.send(frame(2, Ping()))
        assert await peer.answer_to(2) == Done(None)
        assert not waiting.done()
        peer.send(frame(1, Cancel()))
        assert await waiting == []

    async def test_the_other_process_dies(self, pair: Pair):
        """The end of the connection ends the wait too."""
        async with raw_peer(socket_of(pair.owner)) as peer:
            await peer.greet()
            peer.send(frame(1, Release("acme", await uid_of(pair.owner), "restore")))
            await peer.answer_to(1)
            waiting = asyncio.create_task(texts(pair.own))
        assert await waiting == []

    async def test_callers_do_not_wait_for_ever(self, data_dir: Path):
        """After the usual time they are told what the tenant is busy with."""
        async with (
            open_pair(data_dir, pool_wait_timeout_seconds=0.1) as pair,
            raw_peer(socket_of(pair.owner)) as peer,
        ):
            await peer.greet()
            peer.send(frame(1, Release("acme", await uid_of(pair.owner), "restore")))
            await peer.answer_to(1)
            with pytest.raises(TenantBusyError, match="restore"):
                await texts(pair.own)

    @pytest.mark.parametrize("request_type", [Release, Refresh, Copy, Check, Statistics, read])
    async def test_another_tenant_with_the_id(self, pair: Pair, peer: RawPeer, request_type: Any):
        """The permanent key counts, not the id."""
        rest = {Release: ("restore",), Copy: ("mine/copy.db",), Check: (False,)}.get(request_type, ())
        named = ("other",) if request_type is read else ("acme", "other")
        peer.send(frame(1, request_type(*named, *rest)))
        assert await peer.answer_to(1) == NotOwner()
        assert pair.owner.statistics().pool.open_tenants == 1


async def test_an_owner_that_is_stopped(data_dir: Path):
    """It gives no sign of life, and the operator is told so; when it continues, the next try succeeds."""
    async with TenantRegistry(config(data_dir)) as registry:
        await registry.create("acme")
    with other_process(data_dir) as other:
        assert other.do("save", "acme") == "ok"
        async with (
            TenantRegistry(config(data_dir)) as registry,
            TenantRegistry(config(data_dir, call_timeout_seconds=0.3)) as impatient,
        ):
            assert (await registry.tenant_statistics("acme")).actor is not None
            os.kill(other.pid, signal.SIGSTOP)
            try:
                assert (await impatient.tenant_statistics("acme")).actor is None
                for work in (impatient.snapshots.create("acme"), impatient.archive("acme")):
                    with pytest.raises(TenantOwnedElsewhereError, match="does not answer") as caught:
                        await work
                    assert caught.value.pid == other.pid
                owner = await registry.tenant_owner("acme")
                assert owner is not None
                assert owner.pid == other.pid
            finally:
                os.kill(other.pid, signal.SIGCONT)
            await registry.snapshots.create("acme")
            await registry.archive("acme")
            assert await registry.tenant_owner("acme") is None
