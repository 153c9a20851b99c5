"""Connects tenantry to a FastAPI or Starlette application: finds a request's tenant, responds to errors, opens the registry.

    tenant = TenantDependency(opened_registry, source=from_header("X-Tenant"))
    Company = Annotated[TenantHandle, Depends(tenant)]

    app = FastAPI(lifespan=registry_lifespan("data"))
    install_error_handlers(app)

    @app.get("/tasks")
    async def tasks(company: Company) -> Sequence[Task]:
        return await company.tasks.list_tasks(limit=100)

This module needs the extra ``service``. See ``docs/integration.md``.
"""

import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketState

from tenantry.admin.http.problems import public_answer
from tenantry.admin.http.unexpected_errors import REQUEST_FAILED
from tenantry.company import COMPANY
from tenantry.config import RegistryConfig
from tenantry.errors import RegistryClosedError, SettingsError, TenantRequiredError, TenantryError
from tenantry.eventlog import EventLog
from tenantry.integrations.sources import (
    Source,
    from_header,
    from_path,
    from_subdomain,
)
from tenantry.lifecycle import Permission, check_allows
from tenantry.schemas.schema import Schema
from tenantry.tenancy.handle import TenantHandle
from tenantry.tenancy.registry import TenantRegistry

__all__ = [
    "Source",
    "TenantDependency",
    "from_header",
    "from_path",
    "from_subdomain",
    "install_error_handlers",
    "opened_registry",
    "registry_lifespan",
]

_STATE_NAME: Final = "tenant_registry"
_STATUS_SERVER_ERROR: Final = 500
# RFC 6455, section 7.4.1, and IANA's registry of WebSocket close codes.
_CLOSE_REFUSED: Final = 1008
_CLOSE_TRY_LATER: Final = 1013

RegistryOf: TypeAlias = Callable[[HTTPConnection], TenantRegistry]
Lifespan: TypeAlias = Callable[[Starlette], AbstractAsyncContextManager[dict[str, Any]]]


class TenantDependency:
    """A FastAPI dependency that returns the handle of a request's tenant, or of a web socket's tenant.

    This class does not authenticate the caller. Your application must check that the caller may use the tenant. The safest
    source is a function that takes the tenant's id from a verified token.

    Args:
        registry: The registry, or a function that returns the registry for a request, such as `opened_registry`.
        source: The source of the tenant's id, such as `from_header`, `from_subdomain`, `from_path`, or your own function,
            which may be asynchronous.
    """

    def __init__(self, registry: TenantRegistry | RegistryOf, *, source: Source) -> None:
        self._registry = registry
        self._source = source
        # FastAPI reads this signature to describe the header or the path parameter in the OpenAPI document.
        describe = getattr(source, "parameter", None)
        described = [] if describe is None else [describe()]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        connection = inspect.Parameter("connection", kind, annotation=HTTPConnection)
        self.__signature__ = inspect.Signature([connection, *described])

    async def __call__(self, connection: HTTPConnection, **_: object) -> TenantHandle:
        """Return the handle of the request's tenant, for FastAPI; see `resolve`."""
        return await self.resolve(connection)

    async def resolve(self, connection: HTTPConnection) -> TenantHandle:
        """Return the handle of the tenant that the request names.

        This method reads only the catalog and its cache. No tenant is opened, so the pool need not close another tenant.

        Raises:
            TenantRequiredError: The request names no tenant, or more than one tenant.
            InvalidTenantIdError: The request's tenant id is not valid.
            TenantNotFoundError: The tenant does not exist.
            TenantStateError: The tenant is suspended, archived, quarantined or deleted.
            RegistryClosedError: The registry is not open.
        """
        registry = (
            self._registry if isinstance(self._registry, TenantRegistry) else self._registry(connection)
        )
        found = self._source(connection)
        tenant_id = await found if inspect.isawaitable(found) else found
        if tenant_id is None or tenant_id == "":
            raise TenantRequiredError(
                "the request names no tenant, and there is no default tenant: name the tenant in the request"
            )
        tenant = await registry.get(tenant_id)
        check_allows(tenant.state, Permission.READ, tenant_id=tenant.id, reason=tenant.reason)
        return registry.tenant(tenant.id)


def registry_lifespan(
    registry: TenantRegistry | RegistryConfig | Path | str,
    *,
    schemas: Sequence[Schema] | None = None,
    mounted: Sequence[Starlette] = (),
) -> Lifespan:
    """Return an application's lifespan that opens the registry before the first request and closes it after the last request.

    Args:
        registry: A registry, which allows only one start of the application. From settings or a data directory, each
            start creates a new registry.
        schemas: The schema packs of a new registry; the built-in pack if omitted.
        mounted: Mounted applications, such as the admin API. Their lifespans run too; Starlette itself runs none of these.

    Raises:
        SettingsError: The arguments include both a registry and schema packs.
    """
    if isinstance(registry, TenantRegistry) and schemas is not None:
        raise SettingsError(
            "the registry already has its schema packs: pass schemas= to TenantRegistry instead"
        )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        opened = (
            registry
            if isinstance(registry, TenantRegistry)
            else TenantRegistry(registry, schemas=(COMPANY,) if schemas is None else schemas)
        )
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(opened)
            for app in mounted:
                await stack.enter_async_context(app.router.lifespan_context(app))
            yield {_STATE_NAME: opened}

    return lifespan


def opened_registry(connection: HTTPConnection) -> TenantRegistry:
    """Return the registry that `registry_lifespan` opened for a request's application.

    Raises:
        RegistryClosedError: The application has another lifespan, or the application's server runs no lifespan.
    """
    registry: TenantRegistry | None = getattr(connection.state, _STATE_NAME, None)
    if registry is None:
        raise RegistryClosedError(
            "no registry was opened for this application: create the application with lifespan=registry_lifespan(…)"
        )
    return registry


def install_error_handlers(app: Starlette) -> None:
    """Respond to every error of tenantry with a problem (RFC 9457), and with ``Retry-After`` if a retry may succeed.

    The status and the ``type`` are the same as in the admin API. The response omits the error's message, which may contain the
    names of files or an operator's reason. Errors with a status of at least 500 are logged unless a retry may succeed.
    """
    app.add_exception_handler(TenantryError, _answer)  # type: ignore[arg-type]  # for both kinds of connection


async def _answer(connection: HTTPConnection, error: Exception) -> Response | None:
    assert isinstance(error, TenantryError)
    answer = public_answer(error)
    if answer.status_code >= _STATUS_SERVER_ERROR and not error.is_retryable:
        EventLog().failure(REQUEST_FAILED, error, tenant_id=getattr(error, "tenant_id", None))
    if isinstance(connection, WebSocket) and connection.application_state is not WebSocketState.CONNECTING:
        # An accepted web socket can only be closed. Before a web socket is accepted, Starlette can send the response.
        if connection.application_state is WebSocketState.CONNECTED:
            await connection.close(_CLOSE_TRY_LATER if error.is_retryable else _CLOSE_REFUSED)
        return None
    return answer
