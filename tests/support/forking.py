"""A process that forks itself while it has a registry open. Tests start it with `forking`; it prints what its child was told.

Import it by name (``tests/support`` is on pytest's path): ``from forking import forking``.
"""

import asyncio
import gc
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import structlog

import tenantry
from tenantry import RegistryConfig, Scope, TenantHandle, TenantRegistry
from tenants import HANG_SECONDS, make_message, say

OWN, READ, FORWARDED, CLOSED = "acme", "globex", "initech", "umbrella"
"""Tenants of the process that forks: written to, only read, open in the test's process, and closed."""

T = TypeVar("T")
Calls = Mapping[str, Callable[[], Awaitable[object]]]


@contextmanager
def forking(way: str, data_dir: Path, *arguments: object) -> Iterator["subprocess.Popen[str]"]:
    """Start the process in Python's development mode; it is killed at the end of the block if it still lives.

    Args:
        way: One of `WAYS`.
        data_dir: The data directory.
        arguments: For the way.
    """
    paths = [str(Path(tenantry.__file__).parents[1]), str(Path(__file__).parent)]
    # Python 3.12 warns of every fork of a process with threads.
    warnings = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
    with subprocess.Popen(
        [sys.executable, "-X", "dev", *warnings, __file__, way, str(data_dir), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def calls_of(registry: TenantRegistry, open_transaction: Any) -> Calls:
    """Return calls of each kind."""

    async def begin(tenant: TenantHandle) -> None:
        async with tenant.transaction():
            pass

    async def stream(tenant: TenantHandle) -> None:
        async for _ in tenant.stream("SELECT seq FROM messages", key=["seq"]):
            pass

    message = make_message("of the child")
    calls: dict[str, Callable[[], Awaitable[object]]] = {}
    for name in (OWN, READ, FORWARDED, CLOSED):
        tenant = registry.tenant(name)
        calls[f"{name}: read"] = lambda tenant=tenant: tenant.messages.get_history("general")
        calls[f"{name}: write"] = lambda tenant=tenant: tenant.messages.save(message)
        calls[f"{name}: keyed"] = lambda tenant=tenant: tenant.idempotent("k").messages.save(message)
        calls[f"{name}: begin"] = lambda tenant=tenant: begin(tenant)
        calls[f"{name}: stream"] = lambda tenant=tenant: stream(tenant)
    return calls | {
        "continued": lambda: open_transaction.messages.save(message),
        "get": lambda: registry.get(OWN),
        "list": registry.list,
        "create": lambda: registry.create("new"),
        "suspend": lambda: registry.suspend(OWN),
        "export": lambda: registry.export(OWN, registry.config.data_dir / "bundle"),
        "snapshot": lambda: registry.snapshots.create(OWN),
        "key": lambda: registry.keys.create(name="child", scopes=[Scope.ADMIN]),
        "keys": registry.keys.list,
        "audit": registry.audit.list,
        "jobs": registry.fleet.list,
        "statistics": lambda: registry.tenant_statistics(OWN),
        "check": registry.check_catalog,
        "reports": registry.backend_reports,
        "open": registry.open,
    }


def tell(line: object) -> None:
    """Print a line in one system call, because two children may print at the same time."""
    os.write(1, f"{line}\n".encode())


async def outcomes(calls: Calls) -> dict[str, str]:
    """Make each call, and return what came back from it."""
    found = {}
    for name, call in calls.items():
        try:
            async with asyncio.timeout(HANG_SECONDS):
                found[name] = repr(await call())
        except Exception as error:  # noqa: BLE001  # the test compares it
            found[name] = f"{type(error).__name__}: {error}"
    return found


async def work(data_dir: Path, fork: Callable[[TenantRegistry, Any], Awaitable[None]]) -> None:
    """Fork during the work with a registry, and go on with it."""
    async with TenantRegistry(
        RegistryConfig(data_dir=data_dir, call_timeout_seconds=HANG_SECONDS)
    ) as registry:
        for name in (OWN, FORWARDED):
            await say(registry, name, "before")
        await registry.tenant(READ).messages.get_history("general")
        async with registry.tenant(OWN).transaction() as transaction:
            await transaction.messages.save(make_message("begun"))
            await fork(registry, transaction)
            await transaction.messages.save(make_message("ended"))
        for name in (OWN, READ, FORWARDED, CLOSED):
            await say(registry, name, "after")


def be_child(registry: TenantRegistry, transaction: Any) -> None:
    """Make the calls in the child, then drop all that the parent had."""
    found = asyncio.run(outcomes(calls_of(registry, transaction)))
    asyncio.run(registry.aclose())
    del registry, transaction
    gc.collect()
    tell(json.dumps(found))


def fork_beside_loop(data_dir: Path) -> None:
    """Fork in another thread than the event loop's. The child ends as interpreters do, and so drops every object."""
    opened: list[Any] = []
    is_ready, is_forked = threading.Event(), threading.Event()

    async def fork(registry: TenantRegistry, transaction: Any) -> None:
        opened.extend([registry, transaction])
        is_ready.set()
        await asyncio.to_thread(is_forked.wait)

    working = threading.Thread(target=lambda: asyncio.run(work(data_dir, fork)))
    working.start()
    is_ready.wait()
    child = os.fork()
    if child == 0:
        be_child(*opened)
        opened.clear()
        sys.exit()
    opened.clear()
    assert os.waitpid(child, 0)[1] == 0
    is_forked.set()
    working.join()


def fork_in_loop(data_dir: Path) -> None:
    """Fork in the event loop's thread, as `multiprocessing` does in a coroutine."""

    async def fork(registry: TenantRegistry, transaction: Any) -> None:
        child = multiprocessing.get_context("fork").Process(target=be_child, args=[registry, transaction])
        child.start()
        await asyncio.to_thread(child.join)
        assert child.exitcode == 0

    asyncio.run(work(data_dir, fork))


def fork_and_wait(data_dir: Path, is_hooked: str) -> None:
    """Fork a child that lives until it is killed, print its id, and wait; with ``no`` without the hook of the connections."""
    if is_hooked == "no":
        from tenantry.tenancy.peers.peers import Peers  # noqa: PLC0415

        Peers.leave_in_child = lambda _: None  # type: ignore[method-assign]

    async def main() -> None:
        async with TenantRegistry(data_dir) as registry:
            await say(registry, OWN, "before")
            tell("open")
            await asyncio.to_thread(sys.stdin.readline)
            fork_and_pause()

    asyncio.run(main())


def fork_in_transaction(data_dir: Path) -> None:
    """Fork in a transaction of a tenant that another process has open, print the child's id, and wait."""

    async def main() -> None:
        async with TenantRegistry(data_dir) as registry, registry.tenant(OWN).transaction() as transaction:
            await transaction.messages.save(make_message("lost"))
            fork_and_pause()

    asyncio.run(main())


def fork_and_pause() -> None:
    """Fork; both processes wait for a signal."""
    child = os.fork()
    if child != 0:
        tell(child)
    signal.pause()
    os._exit(0)


def open_in_children(data_dir: Path) -> None:
    """Fork two children that open the same object; each sends messages of the tenants of both, and of a third process."""
    registry = TenantRegistry(data_dir)
    for name in ("first", "second"):
        if os.fork() == 0:
            asyncio.run(_say_in_child(registry, name))
            sys.exit()
    for _ in range(2):
        assert os.wait()[1] == 0
    tell("done")


async def _say_in_child(registry: TenantRegistry, name: str) -> None:
    async with registry:
        for tenant in (OWN if name == "first" else READ, FORWARDED):
            await say(registry, tenant, f"{name} opens")
        tell("open")
        await asyncio.to_thread(os.read, 0, 1)
        await asyncio.gather(
            *(say(registry, tenant, f"{name} {n}") for n in range(100) for tenant in (OWN, READ, FORWARDED))
        )
        tell("said")
        await asyncio.to_thread(os.read, 0, 1)


def fork_on_a_server(data_dir: Path, url: str) -> None:
    """Fork a process with tenants on PostgreSQL: first a child that ends, then one that lives until it is killed."""

    async def main() -> None:
        config = RegistryConfig(data_dir=data_dir, databases={"server": url}, default_backend="server")
        async with TenantRegistry(config) as registry:
            await registry.create(OWN)
            await say(registry, OWN, "before")
            ended = os.fork()
            if ended == 0:
                save = registry.tenant(OWN).messages.save
                found = await_in_child(outcomes({"save": lambda: save(make_message("of the child"))}))
                tell(found["save"])
                # The interpreter drops what it had, but the parent's coroutine is not continued.
                del registry, save
                gc.collect()
                os._exit(0)
            assert (await asyncio.to_thread(os.waitpid, ended, 0))[1] == 0
            await say(registry, OWN, "after")
            fork_and_pause()

    asyncio.run(main())


def await_in_child(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on an event loop of the child, in a coroutine of the parent's loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


def open_again(data_dir: Path, when: str) -> None:
    """Open a registry in a child, while the parent has the directory open or after it has closed it; print the outcome."""

    async def save() -> None:
        async with TenantRegistry(data_dir) as registry:
            await say(registry, OWN, "of the child")

    def try_in_child() -> None:
        tell(json.dumps(asyncio.run(outcomes({"save": save}))["save"]))

    async def main() -> None:
        async with TenantRegistry(data_dir) as registry:
            await say(registry, OWN, "of the parent")
            if when == "open":
                child = multiprocessing.get_context("fork").Process(target=try_in_child)
                child.start()
                await asyncio.to_thread(child.join)

    asyncio.run(main())
    if when == "closed":
        child = multiprocessing.get_context("fork").Process(target=try_in_child)
        child.start()
        child.join()


WAYS: Mapping[str, Callable[..., None]] = {
    "beside the loop": fork_beside_loop,
    "in the loop": fork_in_loop,
    "wait": fork_and_wait,
    "in a transaction": fork_in_transaction,
    "in children": open_in_children,
    "on a server": fork_on_a_server,
    "again": open_again,
}

if __name__ == "__main__":
    # Only warnings of the interpreter and lost errors are left for standard error.
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    WAYS[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
