"""Runs the service: in which order it starts and stops. Needs the extra ``service``.

1. The ports are taken, so that nothing else happens when they cannot be.
2. The registry opens, and with that what a crashed process began is finished.
3. The servers answer, and the URL is printed.
4. At SIGTERM or SIGINT the servers accept nothing any more, streams that follow fleet jobs end, then requests and operations
   that were begun, and the registry closes. A second signal does not wait for requests.
"""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Final

from fastapi import FastAPI
from prometheus_client import REGISTRY
from starlette.types import ASGIApp

from tenantry.admin import create_admin_app, end_streams
from tenantry.admin.probes import make_probes
from tenantry.admin.request_checks import RequestChecks
from tenantry.admin.strangers import Strangers
from tenantry.cli.exits import CommandError, Exit
from tenantry.cli.forwarded_client import ForwardedClient
from tenantry.cli.http_server import HttpServer, bound, check_tls
from tenantry.cli.listening import Endpoint, ServeSettings
from tenantry.cli.output import print_note
from tenantry.cli.target import note_other_owner
from tenantry.errors import TenantryError
from tenantry.observability import export_metrics
from tenantry.observability.logging import log_libraries
from tenantry.tenancy.registry import TenantRegistry

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


async def run_service(settings: ServeSettings, announce: Callable[[str], None]) -> None:
    """Serve until a signal comes.

    Args:
        settings: What, and where.
        announce: Called with a line that has the URL, when it answers.

    Raises:
        CommandError: It may not, or cannot, listen there, or the data directory cannot be opened.
    """
    log_libraries()
    if settings.tls is not None:
        check_tls(settings.tls)
    endpoints = [endpoint for endpoint in (settings.api, settings.probes) if endpoint is not None]
    async with AsyncExitStack() as stack:
        sockets = [stack.enter_context(bound(endpoint)) for endpoint in endpoints]
        stopping = _Stopping()
        stack.enter_context(stopping.at_signals())
        registry = await stack.enter_async_context(_opened(settings))
        await _check_keys(settings, registry)
        stack.callback(REGISTRY.unregister, export_metrics(registry, REGISTRY))
        closing_seconds = settings.config.shutdown_timeout_seconds
        api = create_admin_app(
            registry,
            has_probes=settings.probes is None,
            has_exemplars=not settings.is_api_exposed,
            allowed_hosts=settings.checked_hosts,
        )
        apps = _apps(settings, registry, api)
        servers = [
            HttpServer(app, settings.tls, closing_seconds, is_behind_proxy=settings.is_behind_proxy)
            for app in apps
        ]
        urls = [_url(settings, endpoint, made) for endpoint, made in zip(endpoints, sockets, strict=True)]
        is_ready = partial(announce, _announcement(settings, *urls))
        await stopping.run(servers, sockets, is_ready, partial(end_streams, api))


class _Stopping:
    """Runs servers until a signal comes."""

    def __init__(self) -> None:
        self._is_asked = asyncio.Event()
        self._servers: Sequence[HttpServer] = ()

    @contextmanager
    def at_signals(self) -> Iterator[None]:
        """Stop at a signal in the block; at a second one without waiting."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    async def run(
        self,
        servers: Sequence[HttpServer],
        sockets: Sequence[socket.socket],
        is_ready: Callable[[], None],
        is_stopping: Callable[[], None],
    ) -> None:
        """Run the servers, each with its socket, and return when they have stopped."""
        self._servers = servers
        async with asyncio.TaskGroup() as group:
            for server, made in zip(servers, sockets, strict=True):
                group.create_task(server.serve([made]))
            for server in servers:
                await server.answers.wait()
            is_ready()
            await self._is_asked.wait()
            for server in servers:
                server.stop(is_urgent=False)
            is_stopping()

    def _stop(self) -> None:
        if self._is_asked.is_set():
            for server in self._servers:
                server.stop(is_urgent=True)
        self._is_asked.set()


@asynccontextmanager
async def _opened(settings: ServeSettings) -> AsyncIterator[TenantRegistry]:
    note_other_owner(settings.config.data_dir)
    registry = TenantRegistry(settings.config, snapshot_storage=settings.snapshot_storage)
    try:
        await registry.open()
    except TenantryError as error:
        raise CommandError(Exit.UNREACHABLE, str(error)) from error
    async with registry:
        yield registry


async def _check_keys(settings: ServeSettings, registry: TenantRegistry) -> None:
    if await registry.keys.has_any():
        return
    how = f"tenantry key create --data-dir {settings.config.data_dir} --scope admin"
    if settings.is_exposed:
        raise CommandError(
            Exit.USAGE, f"will not listen beyond this machine without a key: make one first, {how}"
        )
    print_note(f"there is no key yet, so nobody can call: {how}")


def _apps(settings: ServeSettings, registry: TenantRegistry, api: FastAPI) -> Iterator[ASGIApp]:
    yield ForwardedClient(api) if settings.is_behind_proxy else api
    if settings.probes is not None:
        probes = FastAPI(openapi_url=None)
        probes.include_router(make_probes(registry))
        yield Strangers(RequestChecks(probes, settings.checked_hosts))


def _url(settings: ServeSettings, endpoint: Endpoint, made: socket.socket) -> str:
    scheme = "http" if settings.tls is None else "https"
    return f"{scheme}://{endpoint.url_host}:{made.getsockname()[1]}"


def _announcement(settings: ServeSettings, api: str, probes: str | None = None) -> str:
    elsewhere = "" if probes is None else f", metrics and probes at {probes}"
    return f"tenantry serves {settings.config.data_dir} at {api}{elsewhere}"
