"""Endpoints that create, list and revoke API keys, and that show the caller of a request."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from pydantic import Field

from tenantry.admin.http.cursors import CurrentCursor
from tenantry.admin.http.routing import Administrator, AdminRoute, CurrentService, Reader
from tenantry.admin.openapi.responses import documented
from tenantry.admin.schemas import LIST_ITEMS_MAX, Body, TenantIdText
from tenantry.scope import Scope
from tenantry.tenancy.catalog.api_keys import ApiKey
from tenantry.texts import KeyName

router = APIRouter(prefix="/v1", tags=["keys"], route_class=AdminRoute)


class CreateKeyRequest(Body):
    """An API key to create."""

    name: Annotated[KeyName, Field(examples=["nightly backups"])] = ""
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1, max_length=3)] = (Scope.READ,)
    tenants: Annotated[list[TenantIdText] | None, Field(min_length=1, max_length=1_000)] = Field(
        default=None, description="The tenants of the key; by default all tenants."
    )
    expires_in_seconds: Annotated[
        float | None, Field(strict=True, gt=0, le=10 * 365 * 86_400, examples=[30 * 86_400])
    ] = None


class CreatedKey(ApiKey):
    """A new API key, with its token."""

    token: str = Field(description="The secret token, shown only once: the service keeps only its hash.")


class Caller(Body):
    """The caller of a request."""

    name: str = Field(description="The caller's principal in the audit.", examples=["key:0123456789abcdef"])
    key: ApiKey | None = Field(
        description="The key without its secret; null for a caller without a key, who is authenticated in another way and may do everything."
    )


class KeyList(Body):
    """A page of keys, oldest first, including expired and revoked keys."""

    items: list[ApiKey]
    next_cursor: str | None


@router.post("/keys", status_code=201, responses=documented(400))
async def create_key(
    body: CreateKeyRequest,
    principal: Administrator,
    service: CurrentService,
    response: Response,
) -> CreatedKey:
    """Create an API key. Only this response shows the token."""
    principal.check_fleet()
    made, token = await service.registry.keys.create(
        **body.model_dump(), made_by=principal.key, by=principal.name
    )
    response.headers["Cache-Control"] = "no-store"
    return CreatedKey(**made.model_dump(), token=token)


@router.get("/keys", responses=documented(400))
async def list_keys(
    principal: Administrator,
    service: CurrentService,
    cursor: CurrentCursor,
    limit: Annotated[int, Query(ge=1, le=LIST_ITEMS_MAX)] = LIST_ITEMS_MAX,
) -> KeyList:
    """Return a page of API keys, without their secrets."""
    principal.check_fleet()
    page = await service.registry.keys.list(limit=limit, cursor=cursor.after)
    return KeyList(items=list(page), next_cursor=cursor.next(page))


@router.get("/caller", responses=documented())
async def get_caller(principal: Reader) -> Caller:
    """Return the caller of the request, with the key's scopes and tenants."""
    return Caller(name=principal.name, key=principal.key)


@router.delete("/keys/{key_id}", responses=documented(404))
async def revoke_key(
    key_id: Annotated[str, Path(max_length=64, examples=["0123456789abcdef"])],
    principal: Administrator,
    service: CurrentService,
) -> ApiKey:
    """Revoke an API key, with immediate effect."""
    principal.check_fleet()
    return await service.registry.keys.revoke(key_id, revoked_by=principal.key, by=principal.name)
