"""What every operation of the API has: a caller who is known, a name in the audit, and one effect for one idempotency key."""

import hashlib
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, ClassVar, Final

from fastapi import Depends, Header, Request, Response, Security
from fastapi.routing import APIRoute

from tenantry.admin.auth import Authenticate, Bearer, Principal
from tenantry.admin.bodies import BODY_LIMITS, BodyLimits, check_media_type, limited
from tenantry.admin.cursors import CursorSigner
from tenantry.admin.load import LoadBoard
from tenantry.admin.operations import Operation, Operations
from tenantry.admin.problems import MEDIA_TYPE, ProblemError
from tenantry.tenancy.answers import Answer, Answers
from tenantry.tenancy.api_keys import Scope
from tenantry.tenancy.audit import acting_as
from tenantry.tenancy.registry import TenantRegistry

IDEMPOTENCY_KEY: Final = "idempotency-key"
_KEY_CHARACTERS_MAX: Final = 255
_KEPT_HEADERS: Final = ("content-type", "location", "etag", "retry-after")
_STATUS_SERVER_ERROR: Final = 500

_SHOWN_ONCE: Final = (
    409,
    {"content-type": MEDIA_TYPE},
    b"""{"type": "urn:tenantry:problem:shown-once", "title": "Answered before", "status": 409,
"detail": "it was answered before with a secret, which is not kept: revoke what it made and make another"}""",
)

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Service:
    """What the operations work with.

    Attributes:
        registry: The tenants.
        authenticate: Finds out who calls.
        operations: Long work.
        board: Which tenants call the most.
        bodies: How large requests may be, and how long they may take to come.
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
        self._signer: CursorSigner | None = None

    async def signer(self) -> CursorSigner:
        """Return what signs cursors; its secret is read once."""
        if self._signer is None:
            self._signer = CursorSigner(await self.registry.answers.secret("cursors"))
        return self._signer


IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="The same request with the same key takes effect once, for a day.",
        min_length=1,
        max_length=_KEY_CHARACTERS_MAX,
        pattern=r"^[ -~]+$",
    ),
]


def _idempotency_key(_: IdempotencyKey = None) -> None:
    """Tell the document of the header, which `AdminRoute` looks at itself."""


class AdminRoute(APIRoute):
    """An operation that needs a key; one that is a POST takes an idempotency key."""

    body_type: ClassVar[str] = "application/json"
    is_streamed: ClassVar[bool] = False
    """Whether its body is worked on while it comes, and not read as a whole before."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        if "POST" in (options.get("methods") or ()):
            options["dependencies"] = [*(options.get("dependencies") or ()), Depends(_idempotency_key)]
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
                key = request.headers.get(IDEMPOTENCY_KEY)
                if key is None or request.method != "POST":
                    return await handle(request)
                return await _handle_once(service.registry.answers, principal, key, request, handle)

        return handle_known


async def _handle_once(
    answers: Answers, principal: Principal, key: str, request: Request, handle: Handler
) -> Response:
    """Handle a request unless one with its idempotency key was handled before; then answer as that one was answered."""
    if not key or len(key) > _KEY_CHARACTERS_MAX or not key.isascii() or not key.isprintable():
        raise ProblemError(
            422,
            "idempotency-key",
            "Not an idempotency key",
            f"Idempotency-Key has 1 to {_KEY_CHARACTERS_MAX} printable ASCII characters",
        )
    text = b"\0".join([request.method.encode(), request.url.path.encode(), request.url.query.encode()])
    request_hash = hashlib.sha256(text + b"\0" + await request.body()).hexdigest()
    before = await answers.begin(principal.id, key, request_hash)
    if before is not None:
        return _answered(before, request_hash)
    try:
        response = await handle(request)
    except BaseException:
        # Refused: it had no effect that a second try could double.
        await answers.forget(principal.id, key)
        raise
    if response.status_code >= _STATUS_SERVER_ERROR:
        await answers.forget(principal.id, key)
    elif "no-store" in response.headers.get("cache-control", ""):
        # A secret is shown once; whoever asks again hears that it was.
        await answers.keep(principal.id, key, *_SHOWN_ONCE)
    else:
        headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
        await answers.keep(principal.id, key, response.status_code, headers, bytes(response.body))
    return response


def _answered(before: Answer, request_hash: str) -> Response:
    if before.request_hash != request_hash:
        raise ProblemError(
            422,
            "idempotency-conflict",
            "The key was used for another request",
            "this Idempotency-Key was used for another request: take a new one",
        )
    if before.status is None:
        raise ProblemError(
            409,
            "request-under-way",
            "The request is under way",
            "the first request with this Idempotency-Key has not been answered yet",
            headers={"Retry-After": "1"},
            retry_after_seconds=1,
        )
    headers = {**before.headers, "Idempotency-Replayed": "true"}
    return Response(before.body, before.status, headers)


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
    response.headers["Location"] = f"/v1/operations/{operation.id}"
    response.headers["Retry-After"] = "1"
    return operation
