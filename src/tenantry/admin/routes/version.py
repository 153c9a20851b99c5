"""The audit, keys, operations, statistics, and what the service is."""

from collections.abc import AsyncIterator
from contextlib import suppress
from importlib.metadata import version
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Path, Query, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import Field

from tenantry.admin.http.auth import Principal, another_tenant
from tenantry.admin.http.hidden_paths import values_without_paths
from tenantry.admin.http.operations import Operation, OperationState
from tenantry.admin.http.problems import Problem, documented
from tenantry.admin.http.routing import (
    Administrator,
    AdminRoute,
    CurrentService,
    Reader,
    Service,
)
from tenantry.admin.routes.tenants import TenantPath
from tenantry.admin.schemas import (
    LIST_ITEMS_MAX,
    AuditEntryOut,
    AuditPage,
    AuditVerificationOut,
    Body,
    ChannelLoad,
    StatisticsList,
    TenantIdText,
    TenantStatistics,
    TopTenants,
    VersionOut,
)
from tenantry.errors import TenantNotFoundError
from tenantry.storage.sqlite.maintenance import SQLITE_VERSION
from tenantry.tenancy.actors.channel import ChannelStatistics
from tenantry.tenancy.catalog.api_keys import ApiKey, Scope
from tenantry.tenancy.catalog.audit import AdminAuditEntry
from tenantry.texts import KeyName

router = APIRouter(prefix="/v1", route_class=AdminRoute)

STATISTICS_TENANTS_MAX: Final = 100

OperationPath = Annotated[str, Path(max_length=64, examples=["9f86d081884c7d65"])]


class NewKey(Body):
    """A key to make."""

    name: Annotated[KeyName, Field(examples=["nightly backups"])] = ""
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1, max_length=3)] = (Scope.READ,)
    tenants: Annotated[list[TenantIdText] | None, Field(min_length=1, max_length=1_000)] = Field(
        default=None, description="The only tenants that it is for; all if left out."
    )
    expires_in_seconds: Annotated[float | None, Field(strict=True, gt=0, le=10 * 365 * 86_400)] = None


class MadeKey(ApiKey):
    """A key that was just made."""

    token: str = Field(description="Shown this once: only its hash is kept.")


class Caller(Body):
    """Who makes the request."""

    name: str = Field(description="In the audit.", examples=["key:0123456789abcdef"])
    key: ApiKey | None = Field(
        description="The key, without its secret; null where another way in was found, which may do everything."
    )


class KeyList(Body):
    """A page of the keys, oldest first, also those that are refused by now."""

    items: list[ApiKey]
    next_cursor: str | None


@router.get("/tenants/{tenant_id}/statistics", tags=["statistics"], responses=documented(404))
async def get_statistics(tenant_id: TenantPath, _: Reader, service: CurrentService) -> TenantStatistics:
    """Return a tenant's size and, while it is open in this process, its counters."""
    return await _statistics(service, tenant_id)


@router.get("/statistics", tags=["statistics"], responses=documented())
async def list_statistics(
    principal: Reader,
    service: CurrentService,
    tenant_id: Annotated[list[TenantIdText], Query(min_length=1, max_length=STATISTICS_TENANTS_MAX)],
) -> StatisticsList:
    """Return the same of several tenants at once; those that do not exist are left out."""
    for one in tenant_id:
        principal.check_tenant(one)
    items = []
    for one in tenant_id:
        with suppress(TenantNotFoundError):
            items.append(await _statistics(service, one))
    return StatisticsList(items=items)


@router.get("/statistics/top", tags=["statistics"], responses=documented())
async def get_top_tenants(
    principal: Reader, service: CurrentService, limit: Annotated[int, Query(ge=1, le=100)] = 10
) -> TopTenants:
    """Return the tenants that call this process the most."""
    principal.check_fleet()
    return TopTenants(items=service.board.top(limit))


async def _operation(operation_id: OperationPath, principal: Reader, service: CurrentService) -> Operation:
    operation = service.operations.get(operation_id)
    await _check_may_see(service, principal, operation)
    return await _operation_shown(service, principal, operation)


# Looked for before an answer begins: in the middle of a stream nobody can be told that there is none.
FoundOperation = Annotated[Operation, Depends(_operation)]


@router.get("/operations/{operation_id}", tags=["operations"], responses=documented(404))  # noqa: FAST003  # `_operation` takes it
async def get_operation(operation: FoundOperation, response: Response) -> Operation:
    """Return long work that a request began, as it is now."""
    if operation.state is OperationState.RUNNING:
        response.headers["Retry-After"] = "1"
    return operation


@router.get(
    "/operations/{operation_id}/events",  # noqa: FAST003  # `_operation` takes it
    tags=["operations"],
    response_class=EventSourceResponse,
    responses=documented(404),
)
async def follow_operation(
    operation: FoundOperation, principal: Reader, service: CurrentService
) -> AsyncIterator[ServerSentEvent]:
    """Stream an operation as server-sent events: as it is, at each step and when it has ended, while the key is good."""
    seen = service.operations.get(operation.id)
    while True:
        shown = await _operation_shown(service, principal, seen)
        yield ServerSentEvent(data=shown.model_dump(mode="json"), event=shown.state.value)
        if seen.state is not OperationState.RUNNING:
            return
        seen = await service.operations.changed(seen)


@router.get("/audit", tags=["audit"], responses=documented(400, 404))
async def list_audit(
    principal: Reader,
    service: CurrentService,
    tenant_id: Annotated[TenantIdText | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=LIST_ITEMS_MAX)] = 100,
    cursor: Annotated[str | None, Query(max_length=4096)] = None,
) -> AuditPage:
    """Return who did what to which tenant, newest first.

    A key for some tenants sees what was done to the tenant that has the id now, also when it had another, and not what was
    done to another tenant that had the same id before.
    """
    wanted = {"tenant_id": tenant_id}
    if tenant_id is None:
        principal.check_fleet()
    else:
        principal.check_tenant(tenant_id)
        if principal.tenants is not None:
            wanted = {"tenant_uid": (await service.registry.get(tenant_id)).uid}
    signer = await service.signer()
    query = f"audit {wanted}"
    page = await service.registry.audit.list(**wanted, limit=limit, cursor=signer.check(cursor, query))
    items = [AuditEntryOut.model_validate(_shown_to(principal, entry).model_dump()) for entry in page]
    return AuditPage(items=items, next_cursor=signer.sign(page.next_cursor, query))


@router.get("/audit/verification", tags=["audit"], responses=documented())
async def verify_audit(principal: Reader, service: CurrentService) -> AuditVerificationOut:
    """Compute the audit's chain of hashes anew and compare."""
    principal.check_fleet()
    found = await service.registry.audit.verify()
    return AuditVerificationOut(
        is_intact=found.is_intact, rows=found.rows, hash=found.hash, problem=found.problem
    )


@router.post("/keys", tags=["keys"], status_code=201, responses=documented(400))
async def create_key(
    body: NewKey,
    principal: Administrator,
    service: CurrentService,
    response: Response,
) -> MadeKey:
    """Make an API key; its token is shown this once."""
    principal.check_fleet()
    made, token = await service.registry.keys.create(**body.model_dump(), made_by=principal.key)
    response.headers["Cache-Control"] = "no-store"
    return MadeKey(**made.model_dump(), token=token)


@router.get("/keys", tags=["keys"], responses=documented(400))
async def list_keys(
    principal: Administrator,
    service: CurrentService,
    limit: Annotated[int, Query(ge=1, le=LIST_ITEMS_MAX)] = LIST_ITEMS_MAX,
    cursor: Annotated[str | None, Query(max_length=4096)] = None,
) -> KeyList:
    """Return a page of API keys, without their secrets."""
    principal.check_fleet()
    signer = await service.signer()
    page = await service.registry.keys.list(limit=limit, cursor=signer.check(cursor, "keys"))
    return KeyList(items=list(page), next_cursor=signer.sign(page.next_cursor, "keys"))


@router.get("/caller", tags=["keys"], responses=documented())
async def get_caller(principal: Reader) -> Caller:
    """Return who makes the request, and what its key is good for."""
    return Caller(name=principal.name, key=principal.key)


@router.delete("/keys/{key_id}", tags=["keys"], responses=documented(404))
async def revoke_key(
    key_id: Annotated[str, Path(max_length=64, examples=["0123456789abcdef"])],
    principal: Administrator,
    service: CurrentService,
) -> ApiKey:
    """Have an API key refused from now on."""
    principal.check_fleet()
    return await service.registry.keys.revoke(key_id, revoked_by=principal.key)


@router.get("/version", tags=["service"], responses=documented())
async def get_version(_: Reader, service: CurrentService) -> VersionOut:
    """Return what runs, and with which limits."""
    limits = service.registry.config.model_dump(mode="json", exclude={"data_dir"})
    return VersionOut(tenantry=version("tenantry"), sqlite=SQLITE_VERSION, backend="sqlite", limits=limits)


async def _check_may_see(service: Service, principal: Principal, operation: Operation) -> None:
    if principal.tenants is None or operation.started_by == principal.name:
        return  # A key lets go of a tenant that it has purged, and is to hear that it is done.
    if operation.tenant_uid not in await _own_uids(service, principal):
        raise another_tenant()


async def _operation_shown(service: Service, principal: Principal, operation: Operation) -> Operation:
    """Return what the caller may see of an operation: no paths, and nothing of a tenant that the key is not for."""
    if principal.tenants is None:
        return operation
    if operation.action == "clone" and operation.started_by != principal.name:
        made = (operation.result or {}).get("uid")
        if made is None or made not in await _own_uids(service, principal):
            operation = operation.model_copy(update={"result": None, "problem": _reduced(operation.problem)})
    # Also as an event, which does not go the way of other answers.
    return Operation.model_validate_json(
        values_without_paths(operation.model_dump_json().encode(), service.registry.config.data_dir)
    )


def _reduced(problem: Problem | None) -> Problem | None:
    if problem is None:
        return None
    detail = "it concerns a tenant that this key is not for"
    return Problem(type=problem.type, title=problem.title, status=problem.status, detail=detail)


async def _own_uids(service: Service, principal: Principal) -> set[str]:
    # By what a tenant is and not by what it is called: an id may be another company's by now.
    own = await service.registry.list(tenant_ids=principal.tenants, limit=LIST_ITEMS_MAX)
    return {tenant.uid for tenant in own}


def _shown_to(principal: Principal, entry: AdminAuditEntry) -> AdminAuditEntry:
    """Return a row without the name of another tenant than the caller's: the one that this one was cloned from."""
    source = entry.detail.get("source")
    if source is None or principal.is_for(source):
        return entry
    detail = {name: value for name, value in entry.detail.items() if name != "source"}
    return entry.model_copy(update={"detail": detail})


async def _statistics(service: Service, tenant_id: str) -> TenantStatistics:
    statistics = await service.registry.tenant_statistics(tenant_id)
    actor = statistics.actor
    return TenantStatistics(
        tenant_id=tenant_id,
        is_open=actor is not None,
        database_bytes=statistics.database_bytes,
        write=None if actor is None else _load(actor.write),
        read=None if actor is None else _load(actor.read),
    )


def _load(channel: ChannelStatistics) -> ChannelLoad:
    return ChannelLoad(
        waiting_requests=channel.mailbox_requests,
        running_requests=channel.running_requests,
        calls=channel.calls,
        batches=channel.batches,
        refused=channel.refused,
        timed_out=channel.timed_out,
    )
