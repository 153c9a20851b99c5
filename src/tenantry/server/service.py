"""Runs the service, and defines the order of its start and stop. The service needs the extra ``service``.

1. The service binds the ports, and fails before any other step if a port is in use.
2. The registry opens, and finishes the interrupted work of a crashed process.
3. The servers accept requests, and the service prints its URL.
4. At SIGTERM or SIGINT ``/readyz`` responds with 503, and the servers still accept requests for ``drain_seconds``.
5. The servers accept no more connections, and the event streams of fleet jobs end. The service waits for running requests and
   operations, then the registry closes. A second signal ends the drain and the wait for requests.
"""

import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from fastapi import FastAPI
from prometheus_client import REGISTRY
from starlette.types import ASGIApp

from tenantry.admin import begin_drain, create_admin_app, end_streams
from tenantry.admin.app import is_draining
from tenantry.admin.http.request_checks import RequestChecks
from tenantry.admin.http.strangers import Strangers
from tenantry.admin.routes.probes import Probes, make_probes
from tenantry.errors import SettingsError, TenantryError
from tenantry.observability.certificate import export_certificate
from tenantry.observability.logging import log_libraries
from tenantry.server.certificate import Certificate
from tenantry.server.errors import DataDirectoryUnavailableError, ServeSettingsError
from tenantry.server.forwarded_client import ForwardedClient
from tenantry.server.http_server import HttpServer, bound
from tenantry.server.settings import Endpoint, ServeSettings
from tenantry.server.stopping import Stopping
from tenantry.tenancy.registry import TenantRegistry


async def run_service(
    settings: ServeSettings, announce: Callable[[str], None], warn: Callable[[str], None]
) -> None:
    """Serve until a signal arrives.

    Args:
        settings: The service's settings.
        announce: The function that gets a line with the URL when the service accepts requests.
        warn: The function that gets a warning for the operator if the service starts without an API key.

    Raises:
        ServeSettingsError: The address, the certificate or a setting cannot be used, or the address requires an API key and no key
            exists.
        DataDirectoryUnavailableError: The data directory cannot be opened.
    """
    log_libraries()
    certificate = None if settings.tls is None else Certificate(settings.tls)
    endpoints = [endpoint for endpoint in (settings.api, settings.probes) if endpoint is not None]
    async with AsyncExitStack() as stack:
        sockets = [stack.enter_context(bound(endpoint)) for endpoint in endpoints]
        stopping = Stopping(settings.drain_seconds, None if certificate is None else certificate.reload)
        stack.enter_context(stopping.at_signals())
        registry = await stack.enter_async_context(_opened(settings))
        await _check_keys(settings, registry, warn)
        ends_at = export_certificate(
            lambda: None if certificate is None else certificate.expires_at_seconds, REGISTRY
        )
        stack.callback(REGISTRY.unregister, ends_at)
        api = create_admin_app(
            registry,
            has_probes=settings.probes is None,
            has_exemplars=not settings.is_api_exposed,
            allowed_hosts=settings.checked_hosts,
        )
        await stack.enter_async_context(api.router.lifespan_context(api))
        apps = _apps(settings, registry, api)
        servers = [
            HttpServer(app, certificate, settings.graceful_seconds, is_behind_proxy=settings.is_behind_proxy)
            for app in apps
        ]
        urls = [_url(settings, endpoint, made) for endpoint, made in zip(endpoints, sockets, strict=True)]
        await stopping.run(
            servers,
            sockets,
            is_ready=partial(announce, _announcement(settings, *urls)),
            is_draining=partial(begin_drain, api),
            is_stopping=partial(end_streams, api),
        )


@asynccontextmanager
async def _opened(settings: ServeSettings) -> AsyncIterator[TenantRegistry]:
    try:
        registry = TenantRegistry(
            settings.config, schemas=settings.schemas, snapshot_storage=settings.snapshot_storage
        )
        await registry.open()
    except SettingsError as error:
        raise ServeSettingsError(str(error)) from error
    except TenantryError as error:
        raise DataDirectoryUnavailableError(str(error)) from error
    async with registry:
        yield registry


async def _check_keys(settings: ServeSettings, registry: TenantRegistry, warn: Callable[[str], None]) -> None:
    if await registry.keys.has_any():
        return
    how = f"tenantry key create --data-dir {settings.config.data_dir} --scope admin"
    if settings.is_exposed:
        raise ServeSettingsError(f"listening beyond this machine needs a key: create a key first, {how}")
    warn(f"no API key exists yet, so nobody can use the API: create a key, {how}")


def _apps(settings: ServeSettings, registry: TenantRegistry, api: FastAPI) -> Iterator[ASGIApp]:
    yield ForwardedClient(api) if settings.is_behind_proxy else api
    if settings.probes is not None:
        probes = FastAPI(openapi_url=None)
        probes.include_router(make_probes(registry, probes=Probes(registry, is_draining=is_draining(api))))
        yield Strangers(RequestChecks(probes, settings.checked_hosts))


def _url(settings: ServeSettings, endpoint: Endpoint, made: socket.socket) -> str:
    scheme = "http" if settings.tls is None else "https"
    return f"{scheme}://{endpoint.url_host}:{made.getsockname()[1]}"


def _announcement(settings: ServeSettings, api: str, probes: str | None = None) -> str:
    elsewhere = "" if probes is None else f", metrics and probes at {probes}"
    return f"tenantry serves {settings.config.data_dir} at {api}{elsewhere}"
