"""What lies around the sockets: stale names, long paths, other users, other namespaces, a machine without ``/proc``, stopped owners."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from needs import need, needed_program
from others import other_process
from peers import open_pair, texts
from raw_peers import raw_peer, socket_of
from registries import config, make_tenant
from tenantry import TenantRegistry
from tenantry.errors import CallTimeoutError, TenantOwnedElsewhereError
from tenantry.eventlog import EventLog
from tenantry.files.lock_file import Holder, LockFile, read_holder
from tenantry.storage.sqlite.database_files.layout import tenant_paths
from tenantry.tenancy.peers.connections.peer_socket import PeerSocket
from tenants import HANG_SECONDS, make_message, python, read_json

NOBODY = 65_534
NAME = "0123456789ab"

_CALLER = """
import asyncio, json, logging, os, sys
import structlog
from tenantry import RegistryConfig, TenantRegistry
from tenantry.errors import TenantryError

events = []
structlog.configure(
    processors=[lambda logger, method, event: events.append(event["event"]) or str(event)],
    logger_factory=structlog.ReturnLoggerFactory(),
)

async def main(data_dir):
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        try:
            insert = "INSERT INTO notes (text) VALUES (?) RETURNING text"
            found = await registry.tenant("acme").fetch_value(insert, (os.getpid(),))
        except TenantryError as error:
            found = [type(error).__name__, str(error)]
        print(json.dumps([found, registry.statistics().pool.open_tenants, events]))

asyncio.run(main(sys.argv[1]))
"""
"""A program that makes one call, and prints the call's outcome, the number of open tenants, and the registry's log."""


async def call_elsewhere(data_dir: Path, *command: str) -> tuple[Any, int, list[str]]:
    """Make a call from a process that this command starts, while the event loop of this process runs."""

    def call() -> str:
        done = subprocess.run(
            [*command, sys.executable, "-c", _CALLER, data_dir],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    found, open_tenants, events = json.loads(await asyncio.to_thread(call))
    return found, open_tenants, events


def unshare(*options: str) -> list[str]:
    """Return a command that runs a program in other namespaces."""
    command = [needed_program("unshare", package="util-linux"), *options]
    tried = subprocess.run([*command, "true"], check=False, capture_output=True)
    need(tried.returncode == 0, f"needs the right to {' '.join(command)}: run the tests as root")
    return command


class TestNames:
    """The folder of sockets, and what lies in it."""

    async def test_stale_names_are_removed(self, data_dir: Path):
        """A socket without a listener goes at the next opening; a socket with one, a file and a folder stay."""
        folder = data_dir / "peers"
        async with TenantRegistry(config(data_dir)) as first:
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(folder / NAME))
            (folder / "a0123456789b").write_text("a file")
            (folder / "b0123456789c").mkdir()
            with socket.socket(socket.AF_UNIX) as starting:
                starting.bind(str(folder / f"{NAME}.new"))
            async with TenantRegistry(config(data_dir)) as second:
                names = {path.name for path in folder.iterdir()}
                assert NAME not in names
                assert {"a0123456789b", "b0123456789c", f"{NAME}.new"} <= names
                assert {socket_of(first).name, socket_of(second).name} <= names
            os.utime(folder / f"{NAME}.new", (0, 0))
            async with TenantRegistry(config(data_dir)):
                assert not (folder / f"{NAME}.new").exists()
        assert {path.name for path in folder.iterdir() if path.is_socket()} == set()

    async def test_a_killed_owner(self, data_dir: Path):
        """The lock file and the socket of a killed owner lead nowhere, and hinder nobody."""
        await make_tenant(data_dir)
        with other_process(data_dir) as other:
            assert await asyncio.to_thread(other.do, "save", "acme", "theirs") == "ok"
            name = _holder(data_dir).socket_name
            other.kill()
        assert name is not None
        assert (data_dir / "peers" / name).exists()
        async with TenantRegistry(config(data_dir)) as registry:
            assert not (data_dir / "peers" / name).exists()
            await registry.tenant("acme").messages.save(make_message("ours"))
            assert registry.statistics().pool.open_tenants == 1

    @pytest.mark.parametrize("characters", [10, 100, 200])
    async def test_long_paths(self, tmp_path: Path, characters: int):
        """The path of the data directory may be longer than the address of a socket."""
        data_dir = tmp_path / ("d" * characters) / ("e" * characters)
        async with open_pair(data_dir) as pair:
            await pair.forwarded.execute("INSERT INTO notes (text) VALUES (1)")
            assert pair.other.statistics().pool.open_tenants == 0
            with other_process(data_dir) as other:
                assert await other.ask("save", "acme", "theirs") == "ok"
            assert pair.owner.statistics().pool.open_tenants == 1

    async def test_a_folder_that_is_gone(self, data_dir: Path):
        """Without the folder there is no new way to the owner, and the error is that of a tenant that is open elsewhere."""
        async with open_pair(data_dir) as pair:
            await texts(pair.forwarded)
            shutil.rmtree(data_dir / "peers")
            await pair.forwarded.execute(
                "INSERT INTO notes (text) VALUES (1)"
            )  # on the connection that there is
            for owner in list(pair.other._parts.peers._owners.values()):
                owner.end()
            with pytest.raises(TenantOwnedElsewhereError):
                await texts(pair.forwarded)
            assert await texts(pair.own) == [1]

    @pytest.mark.parametrize("kind", ["a file", "a link", "a link to a folder", "of another user"])
    async def test_folders_that_cannot_be_used(self, data_dir: Path, tmp_path: Path, kind: str):
        """The registry opens without a socket, says so in the log, and others are refused as without forwarding."""
        folder = data_dir / "peers"
        folder.parent.mkdir()
        if kind == "a file":
            folder.write_text("a file")
        elif kind == "of another user":
            need(os.geteuid() == 0, "needs the right to give files away: run the tests as root")
            folder.mkdir()
            os.chown(folder, NOBODY, NOBODY)
        else:
            (tmp_path / "elsewhere").mkdir()
            folder.symlink_to(tmp_path / ("elsewhere" if kind == "a link to a folder" else "nowhere"))
        with structlog.testing.capture_logs() as logs:
            async with open_pair(data_dir) as pair:
                with pytest.raises(TenantOwnedElsewhereError):
                    await texts(pair.forwarded)
                assert await texts(pair.own) == []
        events = [log["event"] for log in logs if log["log_level"] == "warning"]
        assert events.count("tenantry.peers.not_heard") == 2
        assert not (tmp_path / "elsewhere").exists() or not list((tmp_path / "elsewhere").iterdir())

    async def test_a_folder_that_is_open_to_all(self, data_dir: Path):
        """A folder with other permissions is closed to other users again."""
        (data_dir / "peers").mkdir(parents=True)
        (data_dir / "peers").chmod(0o777)
        async with open_pair(data_dir) as pair:
            assert (data_dir / "peers").stat().st_mode & 0o777 == 0o700
            assert socket_of(pair.owner).stat().st_mode & 0o777 == 0o600
            assert await texts(pair.forwarded) == []


class TestCancelledOpening:
    """A registry whose opening is cancelled leaves the event loop as it was."""

    @pytest.mark.parametrize("steps", range(6))
    async def test_the_next_file_is_watched(self, tmp_path: Path, steps: int):
        """After each step of the opening, the event loop watches the next file, which gets the descriptor of the closed socket."""
        peer_socket = PeerSocket(tmp_path, is_wanted=True, log=EventLog())
        opening = asyncio.ensure_future(peer_socket.open(asyncio.Protocol))
        for _ in range(steps):
            await asyncio.sleep(0)
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await opening
        peer_socket.close()
        await asyncio.sleep(0)
        is_readable = asyncio.Event()
        watched, written = socket.socketpair()
        with watched, written:
            asyncio.get_running_loop().add_reader(watched.fileno(), is_readable.set)
            written.send(b"a message")
            async with asyncio.timeout(HANG_SECONDS):
                await is_readable.wait()
            asyncio.get_running_loop().remove_reader(watched.fileno())


class TestUsers:
    """Processes of other users. The modes of the folder and the socket refuse them; here the modes are opened."""

    @pytest.fixture
    def open_dir(self) -> Iterator[Path]:
        """A data directory that every user can reach."""
        need(os.geteuid() == 0, "needs the right to become another user: run the tests as root")
        with tempfile.TemporaryDirectory(prefix="tenantry-users-") as directory:
            Path(directory).chmod(0o755)
            yield Path(directory) / "data"

    @staticmethod
    def open_up(registry: TenantRegistry) -> Path:
        """Let every user connect to a registry, and return the path of the registry's socket."""
        path = socket_of(registry)
        for one, mode in ((registry.config.data_dir, 0o755), (path.parent, 0o755), (path, 0o666)):
            one.chmod(mode)
        return path

    async def test_a_caller_of_another_user(self, open_dir: Path):
        """The owner closes the connection before it reads a byte, and says which user it was."""
        async with TenantRegistry(config(open_dir)) as registry:
            path = self.open_up(registry)
            with structlog.testing.capture_logs() as logs, python(_AS_NOBODY, path, "connect") as process:
                answer = await asyncio.to_thread(read_json, process)
            assert answer == ""
            reasons = [log["reason"] for log in logs if log["event"] == "tenantry.peer.broken_off"]
            assert len(reasons) == 1
            assert str(NOBODY) in reasons[0]
            async with raw_peer(path) as peer:
                await peer.greet()

    async def test_an_owner_of_another_user(self, open_dir: Path):
        """A process of another user that took the place of the owner's socket gets no byte of a call."""
        await make_tenant(open_dir)
        path = open_dir / "peers" / NAME
        path.parent.chmod(0o777)
        path.parent.parent.chmod(0o755)
        lock = LockFile(tenant_paths(open_dir, "acme").lock, socket_name=NAME)
        lock.acquire()
        try:
            with python(_AS_NOBODY, path, "listen") as process:
                assert read_json(process) == "listening"
                async with TenantRegistry(config(open_dir)) as registry:
                    with (
                        structlog.testing.capture_logs(),
                        pytest.raises(TenantOwnedElsewhereError, match=str(NOBODY)),
                    ):
                        await registry.tenant("acme").messages.get_history("general")
                    assert await asyncio.to_thread(read_json, process) == ""
                    assert path.exists()
        finally:
            lock.release()


_AS_NOBODY = f"""
import json, os, socket, sys

def tell(what):
    print(json.dumps(what), flush=True)

def received(connected):
    try:
        return connected.recv(1024).decode("latin-1")
    except ConnectionResetError:
        return ""

os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
path, what = sys.argv[1:]
with socket.socket(socket.AF_UNIX) as mine:
    if what == "connect":
        mine.connect(path)
        tell(received(mine))
    else:
        mine.bind(path)
        os.chmod(path, 0o666)
        mine.listen()
        tell("listening")
        tell(received(mine.accept()[0]))
        sys.stdin.readline()
"""
"""Connects as another user, or listens as one, and tells what it receives."""


class TestNamespaces:
    """Processes that share the directory and nothing else, as containers do."""

    async def test_other_namespaces(self, data_dir: Path):
        """A process with other pids, another network, another host name and other mounts is served, and has no tenant open."""
        command = unshare("--fork", "--pid", "--net", "--uts", "--ipc", "--mount")
        async with open_pair(data_dir) as pair:
            found, open_tenants, events = await call_elsewhere(data_dir, *command)
            assert (type(found), open_tenants) == (int, 0)
            assert found != os.getpid()
            assert "tenantry.peers.not_heard" not in events
            assert await texts(pair.own) == [found]

    @pytest.mark.parametrize("characters", [10, 100])
    async def test_without_proc(self, tmp_path: Path, characters: int):
        """Without ``/proc`` a directory with a short path is served as ever; one with a long path has no socket, and says so."""
        command = [*unshare("--mount"), "sh", "-c", 'umount -l /proc && exec "$@"', "sh"]
        data_dir = tmp_path / ("d" * characters)
        async with open_pair(data_dir) as pair:
            found, _, events = await call_elsewhere(data_dir, *command)
            if characters == 10:
                assert await texts(pair.own) == [found]
                assert "tenantry.peers.not_heard" not in events
            else:
                assert found[0] == "TenantOwnedElsewhereError"
                assert events.count("tenantry.peers.not_heard") == 1
                assert await texts(pair.own) == []


class TestStoppedOwners:
    """An owner that is stopped keeps its tenants: nobody can take them, and nobody may."""

    async def test_an_owner_that_is_stopped(self, data_dir: Path):
        """Calls time out, on an old connection and on a new one; after the owner continues, they are served again."""
        await make_tenant(data_dir)
        settings = config(data_dir, call_timeout_seconds=1.0, pool_wait_timeout_seconds=1.0)
        with other_process(data_dir) as other:
            assert await asyncio.to_thread(other.do, "save", "acme", "theirs") == "ok"
            async with TenantRegistry(settings) as registry, TenantRegistry(settings) as newer:
                known, unknown = registry.tenant("acme"), newer.tenant("acme")
                await known.messages.save(make_message("before"))
                os.kill(other.pid, signal.SIGSTOP)
                try:
                    with pytest.raises(CallTimeoutError) as caught:
                        await known.messages.save(make_message("meanwhile"))
                    assert caught.value.was_started
                    with pytest.raises(
                        CallTimeoutError, match=f"process {other.pid} on .* does not answer"
                    ) as caught:
                        await unknown.messages.save(make_message("never"))
                    assert not caught.value.was_started
                    assert _holder(data_dir).pid == other.pid
                finally:
                    os.kill(other.pid, signal.SIGCONT)
                await _saved_again(known, "after")
                await _saved_again(unknown, "after")
                found = [one.content for one in await known.messages.get_history("general")]
                assert registry.statistics().pool.open_tenants == newer.statistics().pool.open_tenants == 0
        assert "never" not in found
        assert found.count("after") >= 2
        assert found.count("meanwhile") <= 1

    async def test_a_caller_that_is_killed_inside_a_transaction(self, data_dir: Path):
        """Its transaction is rolled back at once, and the owner's next write does not wait for a deadline."""
        async with open_pair(data_dir, transaction_timeout_seconds=60.0, call_timeout_seconds=60.0) as pair:
            with python(_INSIDE, data_dir) as process:
                assert await asyncio.to_thread(read_json, process) == "inside"
                waiting = asyncio.create_task(pair.own.execute("INSERT INTO notes (text) VALUES ('own')"))
                process.kill()
                await waiting
            assert await texts(pair.own) == ["own"]


def _holder(data_dir: Path) -> Holder:
    """Return the owner of the tenant ``acme``."""
    return read_holder(LockFile(tenant_paths(data_dir, "acme").lock).read())


async def _saved_again(tenant: Any, content: str) -> None:
    """Save a message; the owner may still work off what it was sent before it continued."""
    async with asyncio.timeout(HANG_SECONDS):
        while True:
            with contextlib.suppress(CallTimeoutError):
                await tenant.messages.save(make_message(content))
                return


_INSIDE = """
import asyncio, json, sys
from tenantry import RegistryConfig, TenantRegistry

async def main(data_dir):
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        async with registry.tenant("acme").transaction() as tx:
            await tx.execute("INSERT INTO notes (text) VALUES ('theirs')")
            print(json.dumps("inside"), flush=True)
            await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main(sys.argv[1]))
"""
"""Opens a transaction, and says so."""
