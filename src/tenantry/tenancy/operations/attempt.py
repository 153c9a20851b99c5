"""One attempt at an operation: repeated while its tenant changes, reported as an event, and audited once."""

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
    """Report the end of an operation as an event, which metrics count."""
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
    """Do the work of an operation, and audit it, unless that was done in one transaction with its change.

    Raises:
        TenantryError: Why the work failed; that is audited too.
    """
    try:
        result = await _done(operation, work)
    except TenantryError as error:
        if error.outcome == operation.last_outcome:
            raise
        operation.detail["error"] = str(error)
        try:
            await catalog.write(operation.audited(error.outcome))
        except TenantryError as failure:  # for example on a full disk: the caller gets the first error
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
            continue  # The tenant was changed between our look and our change: look again.
        except OSError as error:
            raise PersistenceConnectionError(
                f"{operation.action} of tenant {operation.tenant_id!r}: {error}"
            ) from error
