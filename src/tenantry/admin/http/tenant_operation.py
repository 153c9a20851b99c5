"""Begins an operation on the tenant of a request's path: 202, with the tenant as its result."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated

from fastapi import Depends, Path, Request, Response

from tenantry.admin.http.if_match import ExpectedRevision
from tenantry.admin.http.operations import Operation
from tenantry.admin.http.routing import CurrentService, accepted
from tenantry.admin.schemas import TenantIdText, TenantOut
from tenantry.tenancy.tenant_record import TenantRecord


class _BeginOperation:
    """Begins an operation, unless the tenant has changed since the request was decided on.

    Args:
        tenant_id: The tenant.
        if_revision: The revision that the request expects.
        request: Has the caller.
        service: Runs the operation.
        response: Gets the status and the headers.
    """

    def __init__(
        self,
        tenant_id: Annotated[TenantIdText, Path()],
        if_revision: ExpectedRevision,
        request: Request,
        service: CurrentService,
        response: Response,
    ) -> None:
        self._tenant_id = tenant_id
        self._by: str = request.state.principal.name
        self._if_revision = if_revision
        self._service = service
        self._response = response

    async def __call__(self, action: str, call: Callable[..., Awaitable[TenantRecord]]) -> Operation:
        """Begin the operation, and return it as it is now.

        Args:
            action: The operation's name.
            call: Does the work with ``by`` and ``if_revision``, and returns the tenant that is the operation's result.

        Raises:
            TenantNotFoundError: The tenant does not exist.
            ProblemError: 412, the tenant has changed; 429 or 503, too many operations run.
        """
        tenant = await self._service.registry.get(self._tenant_id)
        work = partial(_shown, partial(call, by=self._by, if_revision=self._if_revision))
        operation = self._service.operations.start(action, tenant, work, by=self._by)
        return accepted(operation, self._response)


BeginOperation = Annotated[_BeginOperation, Depends()]


async def _shown(call: Callable[[], Awaitable[TenantRecord]]) -> TenantOut:
    return TenantOut.of(await call())
