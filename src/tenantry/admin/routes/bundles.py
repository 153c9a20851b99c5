"""Endpoints with streamed bodies: export or import a tenant as a bundle, or replace a tenant's database file."""

import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import anyio
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Send
from starlette.types import Scope as AsgiScope

from tenantry.admin.http.auth import Principal
from tenantry.admin.http.bodies import declared_bytes
from tenantry.admin.http.problems import too_many
from tenantry.admin.http.routing import Administrator, AdminRoute, CurrentService, Operator, Service
from tenantry.admin.http.tenant_change import CurrentChange, tagged
from tenantry.admin.openapi.responses import documented
from tenantry.admin.routes.tenants import TenantPath
from tenantry.admin.schemas import BackendName, DisplayName, TenantOut
from tenantry.errors import StorageFullError, TenantExistsError
from tenantry.files.atomic_file import storage_errors
from tenantry.files.disk_space import room_bytes
from tenantry.files.durable_files import FILE_MODE
from tenantry.scope import Scope
from tenantry.tenancy.registry import TenantRegistry
from tenantry.tenancy.snapshots.scratch import named
from tenantry.threads import run_in_thread

MEDIA_TYPE: Final = "application/gzip"
DATABASE_MEDIA_TYPE: Final = "application/vnd.sqlite3"
"""The media type that IANA has registered for SQLite files."""

TRANSFERS_MAX: Final = 8
"""The number of bundles that may be made, sent or received at the same time, because each bundle needs disk space."""

TRANSFERS_PER_CALLER_MAX: Final = 4
"""The number of simultaneous transfers of one caller, so that one caller cannot block the others."""

ACCEPTED_CHARACTERS_MAX: Final = 2000
_OWNER: Final = "The uid of another tenant whose mark the file may carry; this tenant's mark replaces it."
_UID: Final = "^[0-9a-f]{32}$"
_EXAMPLE: Final = "9f86d081884c4d659a2feaa0c55ad015"
_MEASURED_BYTES: Final = 4 * 2**20
_CHUNK_BYTES: Final = 256 * 1024


AcceptTables = Annotated[
    str | None,
    Query(
        max_length=ACCEPTED_CHARACTERS_MAX,
        examples=["notes,tags"],
        description="Comma-separated names of additional tables that belong to no schema pack. Needs the scope 'admin'.",
    ),
]


class BundleRoute(AdminRoute):
    """An endpoint whose body is a bundle."""

    body_type = MEDIA_TYPE
    is_streamed = True


class DatabaseRoute(AdminRoute):
    """An endpoint whose body is a plain SQLite file."""

    body_type = DATABASE_MEDIA_TYPE
    is_streamed = True


class BundleResponse(StreamingResponse):
    """Sends a file, and closes the connection if the client stops receiving.

    Args:
        pause_seconds_max: The longest time during which the client may receive nothing.
    """

    def __init__(self, path: Path, headers: dict[str, str], pause_seconds_max: float) -> None:
        self._chunks = _chunks(path)
        super().__init__(self._chunks, headers=headers, media_type=MEDIA_TYPE)
        self._pause_seconds_max = pause_seconds_max

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Send the response."""

        async def send_in_time(message: Message) -> None:
            with anyio.fail_after(self._pause_seconds_max):
                await send(message)

        try:
            await super().__call__(scope, receive, send_in_time)
        except TimeoutError as error:
            raise ClientDisconnect from error
        finally:
            # Without this call, the file would stay open until the generator is garbage collected.
            with anyio.CancelScope(shield=True):
                await self._chunks.aclose()


router = APIRouter(prefix="/v1/tenants/{tenant_id}", tags=["snapshots"], route_class=BundleRoute)
database_router = APIRouter(prefix="/v1/tenants/{tenant_id}", tags=["snapshots"], route_class=DatabaseRoute)


def _body_of(media_type: str) -> dict[str, Any]:
    schema = {"type": "string", "format": "binary"}
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}


async def _place(request: Request, service: CurrentService) -> AsyncIterator[Path]:
    """Yield a temporary path for a bundle or a database; the file is removed after the response or a disconnect."""
    with _counted(service, request.state.principal):
        async with service.registry.scratch_directory() as directory:
            yield directory / "bundle.tar.gz"


# A route declares this dependency after the principal, so that a caller without the scope does not use up a transfer.
Place = Annotated[Path, Depends(_place)]


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses={**documented(404, 409, 507), 200: {"content": {MEDIA_TYPE: {}}, "description": "A bundle."}},
)
async def export_tenant(
    tenant_id: TenantPath, principal: Operator, place: Place, service: CurrentService
) -> Response:
    """Return a bundle of the tenant's current data: an archive that contains a plain SQLite file."""
    with named(place, "the bundle"):
        await service.registry.export(tenant_id, place, by=principal.name)
    size = (await anyio.Path(place).stat()).st_size
    headers = {
        "Content-Length": str(size),
        "Content-Disposition": f'attachment; filename="{tenant_id}.tar.gz"',
    }
    return BundleResponse(place, headers, service.bodies.seconds_max)


@router.post(
    "/import",
    status_code=201,
    responses=documented(400, 409, 411, 413, 415, 507),
    openapi_extra=_body_of(MEDIA_TYPE),
)
async def import_tenant(
    tenant_id: TenantPath,
    principal: Operator,
    place: Place,
    service: CurrentService,
    request: Request,
    response: Response,
    display_name: Annotated[DisplayName | None, Query()] = None,
    accept_tables: AcceptTables = None,
    backend: Annotated[BackendName | None, Query()] = None,
) -> TenantOut:
    """Verify a bundle, and create a tenant with this id from the bundle.

    A bundle is refused if its database has tables, indexes, views or triggers of no schema pack; the problem names these objects.
    """
    accepted = _names(accept_tables)
    if accepted:
        principal.check_scope(Scope.ADMIN)
    await _check_free(service.registry, tenant_id)
    with named(place, "the file"):
        await _receive(request, place)
        tenant = await service.registry.import_bundle(
            tenant_id,
            place,
            display_name=display_name,
            accepted_tables=accepted,
            backend=backend,
            by=principal.name,
        )
    response.headers["Location"] = f"/v1/tenants/{tenant.id}"
    return tagged(tenant, response)


@database_router.post(
    "/replace-file",
    responses=documented(400, 404, 409, 411, 412, 413, 415, 507),
    openapi_extra=_body_of(DATABASE_MEDIA_TYPE),
)
async def replace_file(
    tenant_id: TenantPath,
    _: Administrator,
    place: Place,
    service: CurrentService,
    request: Request,
    change: CurrentChange,
    owner: Annotated[str | None, Query(pattern=_UID, description=_OWNER, examples=[_EXAMPLE])] = None,
    accept_tables: AcceptTables = None,
) -> TenantOut:
    """Verify a plain SQLite file, and replace the tenant's database with the file.

    The old database is kept with its log, and `undo-restore` undoes the replacement.
    """
    await change.check()
    accepted = _names(accept_tables)
    with named(place, "the file"):
        await _receive(request, place)
        replace = service.registry.snapshots.replace_file
        return await change.apply(partial(replace, tenant_id, place, owner=owner, accepted_tables=accepted))


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(filter(None, (name.strip() for name in (text or "").split(","))))


async def _check_free(registry: TenantRegistry, tenant_id: str) -> None:
    """Raise if the tenant id is already in use, before the bundle is received; the import checks the id again."""
    tenant = await registry.find(tenant_id)
    if tenant is not None:
        raise TenantExistsError(f"tenant {tenant_id!r} exists already ({tenant.state})", tenant_id=tenant_id)


async def _receive(request: Request, path: Path) -> None:
    """Write a request's body to a file, as long as enough disk space is left for tenants' writes."""
    with storage_errors(f"receive {path}"):
        await _check_room(path.parent, declared_bytes(request))
        bytes_unmeasured = 0
        # Only the file's owner may read the file, regardless of the umask.
        private = partial(os.open, mode=FILE_MODE)
        async with await anyio.open_file(path, "wb", opener=private) as file:
            async for chunk in request.stream():
                await file.write(chunk)
                bytes_unmeasured += len(chunk)
                if bytes_unmeasured >= _MEASURED_BYTES:
                    await _check_room(path.parent, 0)
                    bytes_unmeasured = 0


async def _check_room(directory: Path, size_bytes: int) -> None:
    room = await run_in_thread(room_bytes, directory)
    if room <= size_bytes:
        raise StorageFullError(
            f"not enough disk space for the bundle: only {room:,} bytes are free beyond the reserve for tenants' writes; free disk "
            "space, then try again"
        )


async def _chunks(path: Path) -> AsyncGenerator[bytes, None]:
    async with await anyio.open_file(path, "rb") as file:
        while chunk := await file.read(_CHUNK_BYTES):
            yield chunk


@contextmanager
def _counted(service: Service, principal: Principal) -> Iterator[None]:
    transfers, caller = service.transfers, principal.id
    for count, count_max, whose in (
        (transfers.total(), TRANSFERS_MAX, ""),
        (transfers[caller], TRANSFERS_PER_CALLER_MAX, " for this caller"),
    ):
        if count >= count_max:
            detail = f"{count_max} bundles are already being sent or received{whose}: try again when a transfer has ended"
            raise too_many("transfers", detail)
    transfers[caller] += 1
    try:
        yield
    finally:
        transfers[caller] -= 1
        if not transfers[caller]:
            del transfers[caller]
