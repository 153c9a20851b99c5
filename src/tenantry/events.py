"""The events that the core reports to hooks, and the names of log events.

A hook is any callable that takes an event; tenantry's metrics use a hook. Hooks run on the event loop between two batches, so
they must be quick. An error that a hook raises is logged and has no effect on calls.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias


class TenantOpened(NamedTuple):
    """A tenant was opened, or opening it failed.

    Attributes:
        outcome: ``ok`` or the error's `outcome`.
        duration_seconds: The time between the pool's decision to open the tenant and the end of the opening, with migrations.
    """

    tenant_id: str
    backend: str
    outcome: str
    duration_seconds: float


class TenantClosed(NamedTuple):
    """A tenant was closed; `reason` is ``capacity``, ``idle``, ``state``, ``failed`` or ``shutdown``."""

    tenant_id: str
    backend: str
    reason: str
    duration_seconds: float


class StoreConnected(NamedTuple):
    """A store connected to its database, or failed to connect."""

    tenant_id: str
    backend: str
    outcome: str
    duration_seconds: float


class StoreMigrated(NamedTuple):
    """A store compared its database with the schema packs, and applied the pending migrations if there were any."""

    tenant_id: str
    backend: str
    outcome: str
    applied: int
    duration_seconds: float


class CallSample(NamedTuple):
    """One call of a batch: the name of its operation, its outcome, and the time at which it entered the mailbox."""

    operation: str
    outcome: str
    submitted_seconds: float


class BatchFinished(NamedTuple):
    """A batch has run, and its callers have their results or get them in the next steps of the event loop. All times are readings of the monotonic clock.

    Attributes:
        channel: ``write`` or ``read``.
        calls: One sample for each call.
        started_seconds: The time at which the batch was given to the store.
        finished_seconds: The time at which the store returned the results.
    """

    tenant_id: str
    backend: str
    channel: str
    calls: Sequence[CallSample]
    started_seconds: float
    finished_seconds: float


class CallRefused(NamedTuple):
    """A call was refused at a limit or at its deadline; `outcome` is the error's `outcome`."""

    tenant_id: str
    backend: str
    operation: str
    outcome: str
    duration_seconds: float


NO_ANSWER: Final = "no_answer"
"""The outcome of a call whose owner did not answer before the call's deadline. The owner does not count such a call, or not as a failure."""


class CallForwarded(NamedTuple):
    """A call to a tenant of another process has ended, in the process of the caller.

    Attributes:
        operation: The name of the first statement, or ``transaction``, ``commit`` or ``rollback``.
        outcome: ``ok``, the error's `outcome`, ``cancelled``, `NO_ANSWER`, ``not_owner`` or ``owner_lost``. After the last two, a call
            outside a transaction is repeated.
    """

    tenant_id: str
    backend: str
    operation: str
    outcome: str
    duration_seconds: float


class PoolWaited(NamedTuple):
    """A caller waited for a place in the pool, or was refused immediately; `outcome` is ``ok`` or the error's `outcome`."""

    tenant_id: str
    outcome: str
    duration_seconds: float


class OperationStepped(NamedTuple):
    """A step of a lifecycle operation (``create``, ``archive``, …) has ended, and its results are durable."""

    tenant_id: str
    action: str
    step: str


class OperationEnded(NamedTuple):
    """A lifecycle operation (``create``, ``suspend``, …) ended."""

    tenant_id: str
    action: str
    outcome: str
    duration_seconds: float


class TenantMoved(NamedTuple):
    """A tenant was moved to another back end.

    Attributes:
        source, target: The names of the back ends.
        rows: The number of rows in the copy with which the move began.
        duration_seconds: The duration of the whole move.
        pause_seconds: The time for which the tenant's callers waited.
    """

    tenant_id: str
    source: str
    target: str
    rows: int
    duration_seconds: float
    pause_seconds: float


class ClockLeapt(NamedTuple):
    """The machine's clock jumped, or no process read the clock for so long that a jump is possible.

    Attributes:
        seconds: The size of the jump; negative if the clock was set back.
        held_seconds: The time for which no old data is deleted.
    """

    seconds: float
    held_seconds: float


class FleetTenantFinished(NamedTuple):
    """A fleet job has finished its work on one tenant, and the outcome is stored.

    Attributes:
        kind: ``migrate``, ``check``, ``snapshot``, ``move``, or the name of a registered function.
        outcome: ``ok``, ``skipped`` or the error's `outcome`.
        duration_seconds: The total time of all attempts.
    """

    tenant_id: str
    kind: str
    outcome: str
    duration_seconds: float


Event: TypeAlias = (
    TenantOpened
    | TenantClosed
    | StoreConnected
    | StoreMigrated
    | BatchFinished
    | CallRefused
    | CallForwarded
    | PoolWaited
    | OperationStepped
    | OperationEnded
    | TenantMoved
    | FleetTenantFinished
    | ClockLeapt
)
Hook: TypeAlias = Callable[[Event], None]

# The names of log events: persistence.<entity>.<action> for the work of a back end, tenantry.* for everything else.
BACKEND_CONNECTING = "persistence.backend.connecting"
BACKEND_CONNECTED = "persistence.backend.connected"
BACKEND_CONNECTION_FAILED = "persistence.backend.connection_failed"
BACKEND_ALREADY_CONNECTED = "persistence.backend.already_connected"
BACKEND_DISCONNECTING = "persistence.backend.disconnecting"
BACKEND_DISCONNECTED = "persistence.backend.disconnected"
BACKEND_DISCONNECT_ERROR = "persistence.backend.disconnect_error"
BACKEND_HEALTH_CHECK = "persistence.backend.health_check"
BACKEND_CREATED = "persistence.backend.created"
BACKEND_UNKNOWN = "persistence.backend.unknown"
BACKEND_WAL_MODE_FAILED = "persistence.backend.wal_mode_failed"
BACKEND_NOT_CONNECTED = "persistence.backend.not_connected"

MIGRATION_STARTED = "persistence.migration.started"
MIGRATION_COMPLETED = "persistence.migration.completed"
MIGRATION_SKIPPED = "persistence.migration.skipped"
MIGRATION_FAILED = "persistence.migration.failed"

TASK_SAVED = "persistence.task.saved"
TASK_SAVE_FAILED = "persistence.task.save_failed"
TASK_FETCHED = "persistence.task.fetched"
TASK_FETCH_FAILED = "persistence.task.fetch_failed"
TASK_LISTED = "persistence.task.listed"
TASK_LIST_FAILED = "persistence.task.list_failed"
TASK_DELETED = "persistence.task.deleted"
TASK_DELETE_FAILED = "persistence.task.delete_failed"
TASK_DESERIALIZE_FAILED = "persistence.task.deserialize_failed"

COST_RECORD_SAVED = "persistence.cost_record.saved"
COST_RECORD_SAVE_FAILED = "persistence.cost_record.save_failed"
COST_RECORD_QUERIED = "persistence.cost_record.queried"
COST_RECORD_QUERY_FAILED = "persistence.cost_record.query_failed"
COST_RECORD_AGGREGATED = "persistence.cost_record.aggregated"
COST_RECORD_AGGREGATE_FAILED = "persistence.cost_record.aggregate_failed"

MESSAGE_SAVED = "persistence.message.saved"
MESSAGE_SAVE_FAILED = "persistence.message.save_failed"
MESSAGE_DUPLICATE = "persistence.message.duplicate"
MESSAGE_HISTORY_FETCHED = "persistence.message.history_fetched"
MESSAGE_HISTORY_FAILED = "persistence.message.history_failed"
MESSAGE_DESERIALIZE_FAILED = "persistence.message.deserialize_failed"

AUDIT_ENTRY_SAVED = "persistence.audit_entry.saved"
AUDIT_ENTRY_SAVE_FAILED = "persistence.audit_entry.save_failed"
AUDIT_ENTRY_QUERIED = "persistence.audit_entry.queried"
AUDIT_ENTRY_QUERY_FAILED = "persistence.audit_entry.query_failed"
AUDIT_ENTRY_DESERIALIZE_FAILED = "persistence.audit_entry.deserialize_failed"
