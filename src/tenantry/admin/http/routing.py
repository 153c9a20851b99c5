"""The route class and the dependencies of all endpoints: authentication, body limits and idempotency keys."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from fastapi import Depends, Request, Response, Security
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute

from tenantry.admin.http.access import ANSWERS_MAX, Access, key_changed
from tenantry.admin.http.auth import Authenticate, Bearer, Principal, unauthorized
from tenantry.admin.http.bodies import BodyLimits, LimitedReceive, check_media_type
from tenantry.admin.http.hidden_paths import hides_paths, values_without_paths
from tenantry.admin.http.idempotency import HEADER, Handler, documented_key, handle_once
from tenantry.admin.http.operations import PATH, POLL_SECONDS, Operation, Operations
from tenantry.admin.http.stream_authorization import AuthorizedResponse, stream_authorization
from tenantry.admin.openapi.responses import responses_of
from tenantry.admin.top_tenants import TopTenants
from tenantry.errors import KeyRefusedError
from tenantry.scope import Scope
from tenantry.tenancy.catalog.authority import acting_under
from tenantry.tenancy.registry import TenantRegistry


@dataclass(frozen=True, slots=True)
class Service:
    """The objects that all endpoints share.

    Attributes:
        authorization_seconds: The interval between two checks of a stream's key.
        transfers: The number of bundles that each caller is sending or receiving.
        draining: Set when the service is about to stop.
        stopping: Set when the event streams of fleet jobs must end.
    """

    registry: TenantRegistry
    authenticate: Authenticate
    operations: Operations
    top_tenants: TopTenants
    bodies: BodyLimits
    authorization_seconds: float
    transfers: Counter[str] = field(default_factory=Counter)
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


class AdminRoute(APIRoute):
    """An endpoint that needs an API key; a POST also takes an idempotency key.

    `Access` checks the caller's rights when the request begins, when the whole body has arrived, when an operation begins, and
    every `AUTHORIZATION_SECONDS` during an upload or a download.
    """

    body_type: ClassVar[str] = "application/json"
    is_streamed: ClassVar[bool] = False
    """Whether the endpoint processes the body while the body arrives, instead of reading the whole body first."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        if "POST" in (options.get("methods") or ()):
            options["dependencies"] = [*(options.get("dependencies") or ()), Depends(documented_key)]
        super().__init__(path, endpoint, **options)
        has_body = self.body_field is not None or (self.is_streamed and "POST" in (self.methods or ()))
        self.responses = responses_of(self, has_body=has_body)

    def get_route_handler(self) -> Handler:
        """Return the route's handler, wrapped with authentication, limits and idempotency."""
        handle = super().get_route_handler()

        async def handle_known(request: Request) -> Response:
            service: Service = request.app.state.service
            access = Access(request, service.authenticate, service.registry)
            await access.begin()
            receive = LimitedReceive(
                request, service.bodies, is_streamed=self.is_streamed, on_complete=access.check
            )
            request = Request(request.scope, receive)
            if self.body_field is not None or self.is_streamed:
                check_media_type(request, self.body_type)
            seconds = service.authorization_seconds
            authorization = (
                stream_authorization(access, receive.refuse, interval_seconds=seconds)
                if self.is_streamed
                else nullcontext()
            )
            with acting_under(access), _refused_as_unauthorized():
                async with authorization:
                    response = await self._answer(handle, request, access)
            if "location" in response.headers:
                # Add the current prefix, which may differ from the prefix of the recorded response.
                response.headers["location"] = (
                    request.scope.get("root_path", "") + response.headers["location"]
                )
            if isinstance(response, StreamingResponse):
                return AuthorizedResponse(response, access, interval_seconds=seconds)
            if hides_paths(request) and response.body:
                response.body = values_without_paths(bytes(response.body), service.registry.config.data_dir)
                response.headers["content-length"] = str(len(response.body))
            return response

        return handle_known

    async def _answer(self, handle: Handler, request: Request, access: Access) -> Response:
        service: Service = request.app.state.service
        principal: Principal = request.state.principal
        if request.method == "POST" and HEADER in request.headers:
            responses, operations = service.registry.recorded_responses, service.operations
            return await handle_once(
                request, handle, responses, operations, caller=principal.id, is_streamed=self.is_streamed
            )
        for _ in range(ANSWERS_MAX):
            response = await handle(request)
            if await access.holds_for(response):
                return response
        raise key_changed()


@contextmanager
def _refused_as_unauthorized() -> Iterator[None]:
    """Respond with 401 if the key is revoked during the request, as for a key that was revoked before the request."""
    try:
        yield
    except KeyRefusedError as error:
        raise unauthorized() from error


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _needs(scope: Scope) -> Callable[[Principal], Principal]:
    def check(principal: Annotated[Principal, Security(Bearer())]) -> Principal:
        principal.check_scope(scope)
        return principal

    return check


CurrentService = Annotated[Service, Depends(_service)]
Reader = Annotated[Principal, Depends(_needs(Scope.READ))]
Operator = Annotated[Principal, Depends(_needs(Scope.OPERATE))]
Administrator = Annotated[Principal, Depends(_needs(Scope.ADMIN))]


def accepted(operation: Operation, response: Response) -> Operation:
    """Respond with 202, the operation, and the path at which clients follow the operation."""
    response.status_code = 202
    response.headers["Location"] = f"{PATH}{operation.id}"
    response.headers["Retry-After"] = str(POLL_SECONDS)
    return operation
