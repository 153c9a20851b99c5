"""Operations: long work that a request starts and that clients follow by an id. Operations are kept only in memory.

The audit records what an operation did, even if the service is killed. An operation that was killed before its first change is
not in the audit, and the client sends the request again.
"""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from tenantry.admin.http.problems import Problem, ProblemError, problem_of, too_many, unexpected
from tenantry.admin.http.unexpected_errors import log_failure
from tenantry.clock import Clock
from tenantry.errors import TenantryError
from tenantry.eventlog import EventLog
from tenantry.events import Event, OperationStepped
from tenantry.tenancy.tenant_record import TenantRecord

KEPT_MAX: Final = 1_000
"""The number of operations in memory above which the oldest ended operations are dropped."""

RUNNING_MAX: Final = 64
"""The number of operations that may run at the same time."""

RUNNING_PER_TENANT_MAX: Final = 4
"""The number of operations of one tenant that may run at the same time, so that one tenant cannot block the others."""

POLL_SECONDS: Final = 1
"""The delay after which clients should poll an operation again, or retry to start another operation."""

PATH: Final = "/v1/operations/"
"""The path of an operation, without its id."""

_current: ContextVar[str | None] = ContextVar("tenantry_operation", default=None)


class OperationState(StrEnum):
    """The state of an operation."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Operation(BaseModel):
    """Long work that a request started.

    Attributes:
        tenant_id: The tenant's id at the operation's start.
        steps: The names of the finished steps, in order; each kind of operation has its own steps.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    action: str
    tenant_id: str | None
    tenant_uid: str | None
    started_by: str
    state: OperationState
    steps: tuple[str, ...] = ()
    started_at: datetime
    finished_at: datetime | None = None
    result: dict[str, Any] | None = None
    problem: Problem | None = None


class Operations:
    """Runs operations, and keeps their results in memory."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._log = EventLog()
        self._known: OrderedDict[str, Operation] = OrderedDict()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._followers: set[asyncio.Task[None]] = set()
        # The event of each operation, by operation id; an event is set at the operation's next change.
        self._changed: dict[str, asyncio.Event] = {}

    def start(
        self,
        action: str,
        tenant: TenantRecord | None,
        work: Callable[[], Awaitable[BaseModel | None]],
        *,
        by: str,
    ) -> Operation:
        """Start an operation on behalf of a principal, and return the operation.

        Raises:
            ProblemError: Too many operations of the tenant (429) or of all tenants (503) are running.
        """
        self._check_room(tenant)
        operation = Operation(
            id=secrets.token_hex(8),
            action=action,
            tenant_id=tenant and tenant.id,
            tenant_uid=tenant and tenant.uid,
            started_by=by,
            state=OperationState.RUNNING,
            started_at=self._clock.now(),
        )
        self._known[operation.id] = operation
        task = asyncio.create_task(self._run(operation, work))
        if not task.done():  # an eager task may have ended already
            self._tasks[operation.id] = task
        self._forget()
        return operation

    def get(self, operation_id: str) -> Operation:
        """Return the current state of an operation.

        Raises:
            ProblemError: The operation is unknown (404).
        """
        operation = self._known.get(operation_id)
        if operation is None:
            raise ProblemError(
                404,
                "operation-not-found",
                "Operation not found",
                "unknown operation: look in the audit; if the audit has no row for the operation, nothing was changed",
            )
        return operation

    async def changed(self, seen: Operation) -> Operation:
        """Wait for an operation's next change after `seen`, and return the operation; do not wait if the operation has ended."""
        if seen.state is OperationState.RUNNING and self.get(seen.id) is seen:
            await self._changed.setdefault(seen.id, asyncio.Event()).wait()
        return self.get(seen.id)

    async def ended(self, operation_id: str) -> Operation:
        """Wait until an operation has ended, and return the operation."""
        operation = self.get(operation_id)
        while operation.state is OperationState.RUNNING:
            operation = await self.changed(operation)
        return operation

    def follow(self, following: Coroutine[Any, Any, None]) -> None:
        """Run a task that follows an operation, for example to record its result; `aclose` also waits for the task."""
        task = asyncio.create_task(following)
        self._followers.add(task)
        task.add_done_callback(self._followers.discard)

    def observe(self, event: Event) -> None:
        """Record a finished step in the running operation; the registry calls this hook with each event."""
        operation_id = _current.get()
        if not isinstance(event, OperationStepped) or operation_id is None:
            return
        operation = self._known.get(operation_id)
        if operation is not None and operation.state is OperationState.RUNNING:
            self._change(operation_id, {"steps": (*operation.steps, event.step)})

    async def aclose(self) -> None:
        """Wait until no operation runs."""
        while tasks := [*self._tasks.values(), *self._followers]:
            await asyncio.wait(tasks)

    def _check_room(self, tenant: TenantRecord | None) -> None:
        if len(self._tasks) >= RUNNING_MAX:
            raise too_many(
                "operations",
                f"{RUNNING_MAX} operations are running already: try again when an operation has ended",
                seconds=POLL_SECONDS,
            )
        same = [one for one in self._tasks if tenant and self._known[one].tenant_uid == tenant.uid]
        if len(same) >= RUNNING_PER_TENANT_MAX:
            raise too_many(
                "operations",
                f"{RUNNING_PER_TENANT_MAX} operations of this tenant are running already: try again when an operation has ended",
                status=429,
                seconds=POLL_SECONDS,
            )

    async def _run(self, operation: Operation, work: Callable[[], Awaitable[BaseModel | None]]) -> None:
        changes: dict[str, Any]
        # Tasks that the work starts inherit the operation's id, so `observe` finds the operation of a step.
        _current.set(operation.id)
        try:
            result = await work()
            changes = {"state": OperationState.SUCCEEDED}
            changes["result"] = None if result is None else result.model_dump(mode="json")
        except TenantryError as error:
            changes = {"state": OperationState.FAILED, "problem": Problem(**problem_of(error))}
        except ProblemError as error:  # the caller lost the right before the operation began
            changes = {"state": OperationState.FAILED, "problem": Problem(**error.content)}
        except Exception as error:  # noqa: BLE001  # no other code handles the task's error
            log_failure(self._log, error, action=operation.action, tenant_id=operation.tenant_id)
            changes = {"state": OperationState.FAILED, "problem": Problem(**unexpected().content)}
        self._end(operation, changes)

    def _end(self, operation: Operation, changes: dict[str, Any]) -> None:
        self._tasks.pop(operation.id, None)
        self._change(operation.id, {**changes, "finished_at": self._clock.now()})

    def _change(self, operation_id: str, changes: dict[str, Any]) -> None:
        self._known[operation_id] = self._known[operation_id].model_copy(update=changes)
        changed = self._changed.pop(operation_id, None)
        if changed is not None:
            changed.set()

    def _forget(self) -> None:
        for operation_id in list(self._known):
            if len(self._known) <= KEPT_MAX:
                return
            if self._known[operation_id].state is not OperationState.RUNNING:
                del self._known[operation_id]
