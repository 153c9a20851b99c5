"""Operations: read or follow one by its id."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from tenantry.admin.http.auth import Principal, another_tenant
from tenantry.admin.http.hidden_paths import values_without_paths
from tenantry.admin.http.operations import POLL_SECONDS, Operation, OperationState
from tenantry.admin.http.problems import Problem
from tenantry.admin.http.routing import AdminRoute, CurrentService, Reader, Service
from tenantry.admin.openapi.responses import RETRY_AFTER, documented
from tenantry.admin.schemas import LIST_ITEMS_MAX

router = APIRouter(prefix="/v1/operations", tags=["operations"], route_class=AdminRoute)

OperationPath = Annotated[str, Path(max_length=64, examples=["9f86d081884c7d65"])]


async def _operation(operation_id: OperationPath, principal: Reader, service: CurrentService) -> Operation:
    operation = service.operations.get(operation_id)
    await _check_may_see(service, principal, operation)
    return await _operation_shown(service, principal, operation)


# Looked up before the response begins: a stream that has begun cannot become a 404.
FoundOperation = Annotated[Operation, Depends(_operation)]


@router.get("/{operation_id}", responses={**documented(404), 200: {"headers": RETRY_AFTER}})  # noqa: FAST003  # `_operation` takes it
async def get_operation(operation: FoundOperation, response: Response) -> Operation:
    """Return an operation as it is now."""
    if operation.state is OperationState.RUNNING:
        response.headers["Retry-After"] = str(POLL_SECONDS)
    return operation


@router.get(
    "/{operation_id}/events",  # noqa: FAST003  # `_operation` takes it
    response_class=EventSourceResponse,
    responses=documented(404),
)
async def follow_operation(
    operation: FoundOperation, principal: Reader, service: CurrentService
) -> AsyncIterator[ServerSentEvent]:
    """Stream an operation as server-sent events: at once, at each step and at its end, while the key is valid."""
    seen = service.operations.get(operation.id)
    while True:
        shown = await _operation_shown(service, principal, seen)
        yield ServerSentEvent(data=shown.model_dump(mode="json"), event=shown.state.value)
        if seen.state is not OperationState.RUNNING:
            return
        seen = await service.operations.changed(seen)


async def _check_may_see(service: Service, principal: Principal, operation: Operation) -> None:
    if principal.tenants is None or operation.started_by == principal.name:
        return  # A purge removes the tenant from the key that began it; its caller still sees the result.
    if operation.tenant_uid not in await _own_uids(service, principal):
        raise another_tenant()


async def _operation_shown(service: Service, principal: Principal, operation: Operation) -> Operation:
    """Return an operation as the caller may see it: without paths, and without tenants that the key is not for."""
    if principal.tenants is None:
        return operation
    if operation.action == "clone" and operation.started_by != principal.name:
        made = (operation.result or {}).get("uid")
        if made is None or made not in await _own_uids(service, principal):
            operation = operation.model_copy(update={"result": None, "problem": _reduced(operation.problem)})
    # Here, because the events of a stream do not pass `AdminRoute`'s own filter.
    return Operation.model_validate_json(
        values_without_paths(operation.model_dump_json().encode(), service.registry.config.data_dir)
    )


def _reduced(problem: Problem | None) -> Problem | None:
    if problem is None:
        return None
    detail = "the problem concerns a tenant that this key is not for"
    return Problem(type=problem.type, title=problem.title, status=problem.status, detail=detail)


async def _own_uids(service: Service, principal: Principal) -> set[str]:
    # By uid, because an id may belong to another tenant by now.
    own = await service.registry.list(tenant_ids=principal.tenants, limit=LIST_ITEMS_MAX)
    return {tenant.uid for tenant in own}
