"""Runs an operation: retries after concurrent changes of the tenant, reports an event, and records the operation in the audit."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias, TypeVar

from tenantry.errors import PersistenceConnectionError, TenantryError
from tenantry.eventlog import EventLog
from tenantry.events import OperationEnded
from tenantry.tenancy.actors.actor import ActorContext
from tenantry.tenancy.catalog.catalog import Catalog, StaleTenantError
from tenantry.tenancy.operations.operation import Operation

T = TypeVar("T")

AUDIT_FAILED: Final = "tenantry.lifecycle.audit_failed"

Work: TypeAlias = Callable[[Operation], Awaitable[T]]


@contextmanager
def reported(operation: Operation, context: ActorContext) -> Iterator[None]:
    """Report the operation's outcome and duration as an event for the metrics."""
    now = context.clock.monotonic_seconds
    started = now()
    outcome = "error"
    try:
        yield
        outcome = "ok"
    except TenantryError as error:
        outcome = error.outcome
        raise
    finally:
        context.report(OperationEnded(operation.tenant_id, operation.action, outcome, now() - started))


async def audited(operation: Operation, work: Work[T], catalog: Catalog, log: EventLog) -> T:
    """Do an operation's work, and append the operation to the audit unless the work's last transaction has appended it.

    Raises:
        TenantryError: The work failed; the failure is audited.
    """
    try:
        result = await _done(operation, work)
    except TenantryError as error:
        if error.outcome == operation.last_outcome:
            raise
        operation.detail["error"] = str(error)
        try:
            await catalog.write(operation.audited(error.outcome))
        except (
            TenantryError
        ) as failure:  # for example, the disk is full; the caller gets the error of the work
            log.failure(AUDIT_FAILED, failure, tenant_id=operation.tenant_id, action=operation.action)
        raise
    if not operation.is_audited:
        await catalog.write(operation.audited(operation.outcome))
    return result


async def _done(operation: Operation, work: Work[T]) -> T:
    while True:
        try:
            return await work(operation)
        except StaleTenantError:
            continue  # The tenant was changed after its record was read: try again with the new record.
        except OSError as error:
            raise PersistenceConnectionError(
                f"{operation.action} of tenant {operation.tenant_id!r} failed: {error}"
            ) from error
