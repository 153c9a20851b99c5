"""Endpoints that return or follow an operation."""

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


# A dependency looks the operation up before the response begins, because a stream that has begun cannot become a 404.
FoundOperation = Annotated[Operation, Depends(_operation)]


@router.get("/{operation_id}", responses={**documented(404), 200: {"headers": RETRY_AFTER}})  # noqa: FAST003  # `_operation` takes the path parameter
async def get_operation(operation: FoundOperation, response: Response) -> Operation:
    """Return an operation's current state."""
    if operation.state is OperationState.RUNNING:
        response.headers["Retry-After"] = str(POLL_SECONDS)
    return operation


@router.get(
    "/{operation_id}/events",  # noqa: FAST003  # `_operation` takes the path parameter
    response_class=EventSourceResponse,
    responses=documented(404),
)
async def follow_operation(
    operation: FoundOperation, principal: Reader, service: CurrentService
) -> AsyncIterator[ServerSentEvent]:
    """Stream an operation's state as server-sent events: immediately, after each step and at the end, while the key is valid."""
    seen = service.operations.get(operation.id)
    while True:
        shown = await _operation_shown(service, principal, seen)
        yield ServerSentEvent(data=shown.model_dump(mode="json"), event=shown.state.value)
        if seen.state is not OperationState.RUNNING:
            return
        seen = await service.operations.changed(seen)


async def _check_may_see(service: Service, principal: Principal, operation: Operation) -> None:
    if principal.tenants is None or operation.started_by == principal.name:
        return  # A purge removes the tenant from the caller's key, but the caller may still see the result.
    if operation.tenant_uid not in await _own_uids(service, principal):
        raise another_tenant()


async def _operation_shown(service: Service, principal: Principal, operation: Operation) -> Operation:
    """Return an operation without the paths and the other tenants that the caller may not see."""
    if principal.tenants is None:
        return operation
    if operation.action == "clone" and operation.started_by != principal.name:
        made = (operation.result or {}).get("uid")
        if made is None or made not in await _own_uids(service, principal):
            operation = operation.model_copy(update={"result": None, "problem": _reduced(operation.problem)})
    # Hide paths here, because the events of a stream bypass the filter of `AdminRoute`.
    return Operation.model_validate_json(
        values_without_paths(operation.model_dump_json().encode(), service.registry.config.data_dir)
    )


def _reduced(problem: Problem | None) -> Problem | None:
    if problem is None:
        return None
    detail = "details are hidden because the problem concerns another tenant, which this key does not include"
    return Problem(type=problem.type, title=problem.title, status=problem.status, detail=detail)


async def _own_uids(service: Service, principal: Principal) -> set[str]:
    # Compare uids, because another tenant may have the id now.
    own = await service.registry.list(tenant_ids=principal.tenants, limit=LIST_ITEMS_MAX)
    return {tenant.uid for tenant in own}
