"""Bundles as streamed bodies: a tenant leaves as one, and another comes of one."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import anyio
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from tenantry.admin.problems import ProblemError, documented
from tenantry.admin.routing import AdminRoute, CurrentService, Operator, Service
from tenantry.admin.schemas import DisplayName, TenantOut
from tenantry.admin.tenants import TenantPath, tagged
from tenantry.errors import TenantryError
from tenantry.storage.draft import storage_errors

MEDIA_TYPE: Final = "application/gzip"
TRANSFERS_MAX: Final = 8
"""How many bundles may be made, sent or received at once: each takes space on the disk."""

_CHUNK_BYTES: Final = 256 * 1024


class BundleRoute(AdminRoute):
    """An operation whose body is a bundle."""

    body_type = MEDIA_TYPE
    is_streamed = True


class BundleResponse(StreamingResponse):
    """Sends a file, and gives up on a client that does not take it.

    Args:
        path: The file.
        headers: Of the answer.
        seconds_max: How long the client may pause.
    """

    def __init__(self, path: Path, headers: dict[str, str], seconds_max: float) -> None:
        self._chunks = _chunks(path)
        super().__init__(self._chunks, headers=headers, media_type=MEDIA_TYPE)
        self._seconds_max = seconds_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""

        async def send_in_time(message: Message) -> None:
            with anyio.fail_after(self._seconds_max):
                await send(message)

        try:
            await super().__call__(scope, receive, send_in_time)
        except TimeoutError as error:
            raise ClientDisconnect from error
        finally:
            # Otherwise the file stays open until somebody collects what was left in the middle.
            with anyio.CancelScope(shield=True):
                await self._chunks.aclose()


router = APIRouter(prefix="/v1/tenants/{tenant_id}", tags=["snapshots"], route_class=BundleRoute)


async def _place(_: Operator, service: CurrentService) -> AsyncIterator[Path]:
    """Give a path for a bundle; its file goes when the answer was sent, or nobody is there to take it."""
    with _counted(service):
        async with service.registry.scratch_directory() as directory:
            yield directory / "bundle.tar.gz"


Place = Annotated[Path, Depends(_place)]


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses={**documented(404, 409, 507), 200: {"content": {MEDIA_TYPE: {}}, "description": "A bundle."}},
)
async def export_tenant(tenant_id: TenantPath, place: Place, service: CurrentService) -> Response:
    """Return a bundle of the tenant's present state: an archive with a plain SQLite file in it."""
    with _called(place):
        await service.registry.export(tenant_id, place)
    size = (await anyio.Path(place).stat()).st_size
    headers = {
        "Content-Length": str(size),
        "Content-Disposition": f'attachment; filename="{tenant_id}.tar.gz"',
    }
    return BundleResponse(place, headers, service.bodies.seconds_max)


@router.post(
    "/import",
    status_code=201,
    responses=documented(400, 409, 413, 415, 507),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def import_tenant(
    tenant_id: TenantPath,
    place: Place,
    service: CurrentService,
    request: Request,
    response: Response,
    display_name: Annotated[DisplayName | None, Query()] = None,
) -> TenantOut:
    """Create a tenant of this id from a bundle; all of it is verified before that begins."""
    with _called(place):
        await _receive(request, place)
        tenant = await service.registry.import_bundle(tenant_id, place, display_name=display_name)
    response.headers["Location"] = f"/v1/tenants/{tenant.id}"
    return tagged(tenant, response)


async def _receive(request: Request, path: Path) -> None:
    with storage_errors(f"receive {path}"):
        async with await anyio.open_file(path, "wb") as file:
            async for chunk in request.stream():
                await file.write(chunk)


async def _chunks(path: Path) -> AsyncGenerator[bytes, None]:
    async with await anyio.open_file(path, "rb") as file:
        while chunk := await file.read(_CHUNK_BYTES):
            yield chunk


@contextmanager
def _counted(service: Service) -> Iterator[None]:
    if service.transfers >= TRANSFERS_MAX:
        raise ProblemError(
            503,
            "too-many-transfers",
            "Too many transfers",
            f"{TRANSFERS_MAX} bundles are sent or received already: try again when one is through",
            headers={"Retry-After": "5"},
            retry_after_seconds=5,
        )
    service.transfers += 1
    try:
        yield
    finally:
        service.transfers -= 1


@contextmanager
def _called(path: Path) -> Iterator[None]:
    """Have errors speak of the bundle: where it lies here for the moment says nothing to whoever sent it."""
    try:
        yield
    except TenantryError as error:
        words = str(error).replace(str(path), "the bundle").replace(str(path.parent), "a scratch directory")
        error.args = (words, *error.args[1:])
        raise
