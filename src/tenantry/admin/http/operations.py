"""Operations: long work that a request begins and that clients follow by its id, kept in memory while the service runs.

The audit has what an operation did, also after the service was killed. An operation that was killed before it did anything is
not in the audit: the client sends the request again.
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
"""How many operations that have ended are remembered."""

RUNNING_MAX: Final = 64
"""How many may run at once."""

RUNNING_PER_TENANT_MAX: Final = 4
"""How many operations of one tenant may run at once, so that no tenant keeps the others waiting."""

POLL_SECONDS: Final = 1
"""How long clients should wait before they look at an operation again, or try to begin another one."""

PATH: Final = "/v1/operations/"
"""The path of an operation, without its id."""

_current: ContextVar[str | None] = ContextVar("tenantry_operation", default=None)


class OperationState(StrEnum):
    """The state of an operation."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Operation(BaseModel):
    """Work that a request began.

    Attributes:
        tenant_id: The tenant, by the id that it had when the operation began.
        steps: The steps that are done, in order; each action has its own.
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
    """Runs operations, and remembers their results."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._log = EventLog()
        self._known: OrderedDict[str, Operation] = OrderedDict()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._followers: set[asyncio.Task[None]] = set()
        # By operation: set at its next change.
        self._changed: dict[str, asyncio.Event] = {}

    def start(
        self,
        action: str,
        tenant: TenantRecord | None,
        work: Callable[[], Awaitable[BaseModel | None]],
        *,
        by: str,
    ) -> Operation:
        """Begin an operation of this principal, and return it.

        Raises:
            ProblemError: 429, too many operations of the tenant run already; 503, too many operations of all tenants.
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
        """Return an operation as it is now.

        Raises:
            ProblemError: 404.
        """
        operation = self._known.get(operation_id)
        if operation is None:
            raise ProblemError(
                404,
                "operation-not-found",
                "Operation not found",
                "unknown operation; completed work is in the audit, and without a row there nothing was changed",
            )
        return operation

    async def changed(self, seen: Operation) -> Operation:
        """Wait until an operation differs from what was seen, and return it; at once if it has ended."""
        if seen.state is OperationState.RUNNING and self.get(seen.id) is seen:
            await self._changed.setdefault(seen.id, asyncio.Event()).wait()
        return self.get(seen.id)

    async def ended(self, operation_id: str) -> Operation:
        """Wait until an operation has ended, and return it."""
        operation = self.get(operation_id)
        while operation.state is OperationState.RUNNING:
            operation = await self.changed(operation)
        return operation

    def follow(self, following: Coroutine[Any, Any, None]) -> None:
        """Run a task beside the operations, such as one that waits for an operation's end; `aclose` waits for it too."""
        task = asyncio.create_task(following)
        self._followers.add(task)
        task.add_done_callback(self._followers.discard)

    def observe(self, event: Event) -> None:
        """Note the steps of lifecycle operations that operations made; the hook that a registry calls."""
        operation_id = _current.get()
        if not isinstance(event, OperationStepped) or operation_id is None:
            return
        operation = self._known.get(operation_id)
        if operation is not None and operation.state is OperationState.RUNNING:
            self._change(operation_id, {"steps": (*operation.steps, event.step)})

    async def aclose(self) -> None:
        """Wait for all operations that run."""
        while tasks := [*self._tasks.values(), *self._followers]:
            await asyncio.wait(tasks)

    def _check_room(self, tenant: TenantRecord | None) -> None:
        if len(self._tasks) >= RUNNING_MAX:
            raise too_many(
                "operations",
                f"{RUNNING_MAX} operations run already: try again when one has ended",
                seconds=POLL_SECONDS,
            )
        same = [one for one in self._tasks if tenant and self._known[one].tenant_uid == tenant.uid]
        if len(same) >= RUNNING_PER_TENANT_MAX:
            raise too_many(
                "operations",
                f"{RUNNING_PER_TENANT_MAX} operations of this tenant run already: try again when one has ended",
                status=429,
                seconds=POLL_SECONDS,
            )

    async def _run(self, operation: Operation, work: Callable[[], Awaitable[BaseModel | None]]) -> None:
        changes: dict[str, Any]
        # The call's own task inherits it, so its steps are known to be this operation's.
        _current.set(operation.id)
        try:
            result = await work()
            changes = {"state": OperationState.SUCCEEDED}
            changes["result"] = None if result is None else result.model_dump(mode="json")
        except TenantryError as error:
            changes = {"state": OperationState.FAILED, "problem": Problem(**problem_of(error))}
        except ProblemError as error:  # the caller lost the right before the operation's turn
            changes = {"state": OperationState.FAILED, "problem": Problem(**error.content)}
        except Exception as error:  # noqa: BLE001  # the operation has ended, and nobody else sees the error
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
