"""What every operation has: a caller who is known and named in the audit, a body with limits, one effect for one key."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any, ClassVar

from fastapi import Depends, Request, Response, Security
from fastapi.routing import APIRoute

from tenantry.admin.auth import Authenticate, Bearer, Principal
from tenantry.admin.bodies import BODY_LIMITS, BodyLimits, check_media_type, limited
from tenantry.admin.cursors import CursorSigner
from tenantry.admin.idempotency import HEADER, Handler, Once, documented_key
from tenantry.admin.load import LoadBoard
from tenantry.admin.operations import PATH, Operation, Operations
from tenantry.tenancy.api_keys import Scope
from tenantry.tenancy.audit import acting_as
from tenantry.tenancy.registry import TenantRegistry


class Service:
    """What the operations work with.

    Attributes:
        registry: The tenants.
        authenticate: Finds out who calls.
        operations: Long work.
        board: Which tenants call the most.
        bodies: How large requests may be, and how long they may take to come.
        transfers: How many bundles are on their way, by caller.
        stopping: Set when no stream is to go on that would not end by itself.
    """

    def __init__(
        self,
        registry: TenantRegistry,
        authenticate: Authenticate,
        operations: Operations,
        board: LoadBoard,
        bodies: BodyLimits = BODY_LIMITS,
    ) -> None:
        self.registry = registry
        self.authenticate = authenticate
        self.operations = operations
        self.board = board
        self.bodies = bodies
        self.transfers: Counter[str] = Counter()
        self.stopping = asyncio.Event()
        self._signer: CursorSigner | None = None

    async def signer(self) -> CursorSigner:
        """Return what signs cursors; its secret is read once."""
        if self._signer is None:
            self._signer = CursorSigner(await self.registry.answers.secret("cursors"))
        return self._signer


class AdminRoute(APIRoute):
    """An operation that needs a key; one that is a POST takes an idempotency key."""

    body_type: ClassVar[str] = "application/json"
    is_streamed: ClassVar[bool] = False
    """Whether its body is worked on while it comes, and not read as a whole before."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        if "POST" in (options.get("methods") or ()):
            options["dependencies"] = [*(options.get("dependencies") or ()), Depends(documented_key)]
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Handler:
        """Return the handler, with what comes before and after it."""
        handle = super().get_route_handler()

        async def handle_known(request: Request) -> Response:
            service: Service = request.app.state.service
            principal = await service.authenticate(request)
            tenant_id = request.path_params.get("tenant_id")
            if tenant_id is not None:
                principal.check_tenant(tenant_id)
            request.state.principal = principal
            request = limited(request, service.bodies, is_streamed=self.is_streamed)
            if self.body_field is not None or self.is_streamed:
                check_media_type(request, self.body_type)
            with acting_as(principal.name):
                if request.method != "POST" or HEADER not in request.headers:
                    response = await handle(request)
                else:
                    once = Once(service.registry.answers, service.operations, principal.id)
                    response = await once.handle(request, handle, is_streamed=self.is_streamed)
            if "location" in response.headers:
                # Where the API is mounted, which is not where it was when an answer was kept.
                response.headers["location"] = (
                    request.scope.get("root_path", "") + response.headers["location"]
                )
            return response

        return handle_known


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
    """Answer with an operation that has begun: 202, and where to follow it."""
    response.status_code = 202
    response.headers["Location"] = f"{PATH}{operation.id}"
    response.headers["Retry-After"] = "1"
    return operation
