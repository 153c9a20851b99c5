"""Every error that tenantry raises, in one tree.

    TenantryError
    ├── PersistenceError                 a database, a statement or a row
    │   ├── DatabaseCorruptError         the file is damaged, or no database at all
    │   ├── PersistenceConnectionError   not connected, cannot connect, cannot close
    │   │   └── DataDirectoryError       the data directory cannot be used as it is
    │   ├── MigrationError               a step failed, or the file and the code disagree
    │   ├── RecordNotFoundError
    │   ├── DuplicateRecordError         told by the driver's extended error code
    │   ├── SnapshotError                a snapshot or bundle cannot be made, kept or used
    │   │   ├── SnapshotNotFoundError
    │   │   ├── SnapshotCorruptError     it is not what was written
    │   │   ├── ForeignSchemaError       a database from elsewhere has objects that no schema pack makes
    │   │   └── SnapshotStorageOwnedError  the snapshot storage belongs to another data directory
    │   └── QueryError                   a statement or its arguments were refused
    │       ├── ConstraintViolationError NOT NULL, CHECK, FOREIGN KEY
    │       ├── IdempotencyConflictError the key was used for another write
    │       ├── KeyRefusedError          the caller's API key is not good any more
    │       ├── MalformedRowError        a stored row is not what the model says
    │       ├── StorageFullError         the disk or the database's own limit
    │       └── TransactionClosedError   a transaction used after its end
    └── TenantError                      one tenant, or the registry that keeps it
        ├── TenantRequiredError          a request names no tenant, or more than one
        ├── InvalidTenantIdError         (also a ValueError)
        ├── TenantNotFoundError
        ├── TenantExistsError
        ├── TenantStateError             the lifecycle has no such transition
        │   ├── TenantSuspendedError
        │   ├── TenantDeletedError
        │   ├── TenantQuarantinedError
        │   ├── DeletionProtectedError
        │   └── GracePeriodError         deleted, and not to be purged yet
        ├── RevisionError                the tenant was changed since it was read
        ├── TenantBusyError              a lifecycle operation of it is under way
        ├── TenantOwnedElsewhereError    another process holds the tenant's lock
        ├── LimitError                   at a limit; carries retry_after_seconds
        │   ├── TenantOverloadedError    the tenant's mailbox is full, or too many of its calls are under way
        │   ├── TenantRateLimitedError   the tenant's calls per second
        │   └── PoolExhaustedError       no actor could be had in time
        ├── CallTimeoutError             the call's deadline passed
        ├── JobError                     a fleet job does not allow this
        │   └── JobNotFoundError
        └── RegistryClosedError

Each class says whether the same call may succeed later (`is_retryable`) and which bounded
`outcome` label it has in metrics; data is carried in attributes, never only in the message.
Driver errors are mapped once, in the store, with ``raise … from``.
"""

import copy
from typing import Any, ClassVar, Self


class TenantryError(Exception):
    """The root of everything that tenantry raises on purpose.

    Attributes:
        is_retryable: Whether the same call may succeed later, unchanged.
        outcome: The value of the `outcome` label that metrics give this error.
        retry_after_seconds: How long to wait before trying again, where waiting helps.
    """

    is_retryable: bool = False
    outcome: ClassVar[str] = "error"
    retry_after_seconds: float | None = None

    def for_another_caller(self) -> Self:
        """Return a copy with the same cause: an instance, with its traceback, belongs to the one caller that raises it."""
        again = copy.copy(self)
        again.__cause__ = self.__cause__
        return again

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by attributes: the constructors take keywords, which exceptions do not remember."""
        return _rebuilt, (type(self), self.args, self.__dict__.copy())


def _rebuilt(
    error_type: type[TenantryError], args: tuple[Any, ...], attributes: dict[str, Any]
) -> TenantryError:
    error = error_type.__new__(error_type, *args)
    error.__dict__.update(attributes)
    return error


class PersistenceError(TenantryError):
    """A database, a statement or a row failed.

    Attributes:
        code: The driver's symbolic error code (``SQLITE_BUSY``), None where no driver spoke.
    """

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


class PersistenceConnectionError(PersistenceError):
    """The database is not connected, cannot be reached, or would not close."""

    is_retryable = True
    outcome = "connection"

    def __init__(self, message: str, *, code: str | None = None, is_retryable: bool = True) -> None:
        super().__init__(message, code=code)
        self.is_retryable = is_retryable


class DataDirectoryError(PersistenceConnectionError):
    """The data directory cannot be used as it is: the message says what to change."""

    is_retryable = False

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message, is_retryable=False)
        self.path = path


class DatabaseCorruptError(PersistenceError):
    """The file is damaged, is not a database, or belongs to another tenant; it was not changed."""

    outcome = "corrupt"


class MigrationError(PersistenceError):
    """A migration failed, or the database and the code disagree about what was applied.

    Attributes:
        schema: The schema pack, None where the file as a whole is meant.
        version: The migration's number, None where no single one is meant.
        is_step_failure: Whether a step's own SQL failed (the tenant's matter); False where
            code and file disagree (the deployment's matter: the tenant is not to blame).
    """

    outcome = "migration"

    def __init__(
        self,
        message: str,
        *,
        schema: str | None = None,
        version: int | None = None,
        is_step_failure: bool = False,
        code: str | None = None,
    ) -> None:
        super().__init__(message, code=code)
        self.schema = schema
        self.version = version
        self.is_step_failure = is_step_failure


class RecordNotFoundError(PersistenceError):
    """A record that the call needs does not exist."""

    outcome = "not_found"

    def __init__(self, message: str, *, record_id: str | None = None) -> None:
        super().__init__(message)
        self.record_id = record_id


class DuplicateRecordError(PersistenceError):
    """A record with this primary or unique key exists already; nothing was written.

    Attributes:
        record_id: The record that was to be written, None where the statement does not name one.
        constraint: The key that is taken: its columns with their table (``users.email``, or several with ``, `` between),
            or the name of a unique index on expressions. None where the database does not say.
        columns: The same columns, one by one; empty for an index on expressions.
    """

    outcome = "duplicate"

    def __init__(
        self,
        message: str,
        *,
        record_id: str | None = None,
        code: str | None = None,
        constraint: str | None = None,
        columns: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, code=code)
        self.record_id = record_id
        self.constraint = constraint
        self.columns = columns


class SnapshotError(PersistenceError):
    """A snapshot or bundle cannot be made, kept or used."""

    outcome = "snapshot"

    def __init__(self, message: str, *, code: str | None = None, is_retryable: bool = False) -> None:
        super().__init__(message, code=code)
        self.is_retryable = is_retryable


class SnapshotNotFoundError(SnapshotError):
    """There is no such snapshot of the tenant.

    Attributes:
        snapshot_id: The one that was asked for, None where any would do.
    """

    outcome = "not_found"

    def __init__(self, message: str, *, snapshot_id: str | None = None) -> None:
        super().__init__(message)
        self.snapshot_id = snapshot_id


class SnapshotCorruptError(SnapshotError):
    """A snapshot, a bundle or a manifest is not what was written; nothing was changed."""

    outcome = "corrupt"


class ForeignSchemaError(SnapshotError):
    """A database from elsewhere has tables, triggers, views or indexes that no schema pack makes, or lacks some; nothing was changed.

    Attributes:
        objects: The first of these objects, each as its type and its name.
    """

    outcome = "foreign_schema"

    def __init__(self, message: str, *, objects: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.objects = objects


class SnapshotStorageOwnedError(SnapshotError):
    """The snapshot storage belongs to another data directory, of which this one may be a copy; nothing was changed there.

    Attributes:
        location: The storage's.
        data_dir: The directory that was refused.
        owner_data_dir: The path of the directory that it belongs to, None where its mark cannot be read.
        owner_host: The machine of that directory, None likewise.
    """

    def __init__(
        self,
        message: str,
        *,
        location: str,
        data_dir: str,
        owner_data_dir: str | None,
        owner_host: str | None,
    ) -> None:
        super().__init__(message)
        self.location = location
        self.data_dir = data_dir
        self.owner_data_dir = owner_data_dir
        self.owner_host = owner_host


class QueryError(PersistenceError):
    """A statement failed, or its arguments were refused before any SQL ran.

    Attributes:
        is_transient: Whether the failure was the moment's (busy, interrupted, I/O).
    """

    def __init__(self, message: str, *, code: str | None = None, is_transient: bool = False) -> None:
        super().__init__(message, code=code)
        self.is_transient = is_transient
        self.is_retryable = self.is_retryable or is_transient


class ConstraintViolationError(QueryError):
    """A NOT NULL, CHECK or FOREIGN KEY constraint refused the row.

    Attributes:
        constraint: The column with its table (``users.name``) of NOT NULL, the name or else the expression of CHECK. None for
            a foreign key, a trigger, and where the database does not say.
    """

    outcome = "constraint"

    def __init__(self, message: str, *, code: str | None = None, constraint: str | None = None) -> None:
        super().__init__(message, code=code)
        self.constraint = constraint


class KeyRefusedError(QueryError):
    """The caller's API key may not, or may no longer, make or revoke keys; nothing was changed."""

    outcome = "key_refused"


class IdempotencyConflictError(QueryError):
    """The idempotency key was used before, for a write with another payload; nothing was written.

    Attributes:
        key: The key.
    """

    outcome = "idempotency_conflict"

    def __init__(self, message: str, *, key: str) -> None:
        super().__init__(message)
        self.key = key


class MalformedRowError(QueryError):
    """A stored row could not be turned into its model.

    Attributes:
        entity: The kind of record (``task``).
        record_id: The row's key as text.
    """

    outcome = "malformed"

    def __init__(self, message: str, *, entity: str, record_id: str) -> None:
        super().__init__(message)
        self.entity = entity
        self.record_id = record_id


class StorageFullError(QueryError):
    """The disk, or the database's own size limit, is full; reads go on.

    Attributes:
        limit: ``database_bytes_max`` where it is that limit, None where it is the disk.
        limit_value: What it is set to, in bytes.
    """

    is_retryable = True
    outcome = "full"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        limit: str | None = None,
        limit_value: int | None = None,
    ) -> None:
        super().__init__(message, code=code)
        self.limit = limit
        self.limit_value = limit_value


class TransactionClosedError(QueryError):
    """The transaction has ended: committed, rolled back, or past its deadline."""

    outcome = "transaction_closed"


class TenantError(TenantryError):
    """One tenant, or the registry that keeps it, cannot do what was asked.

    Attributes:
        tenant_id: The tenant's id as given, None where the registry as a whole is meant.
    """

    def __init__(self, message: str, *, tenant_id: str | None = None) -> None:
        super().__init__(message)
        self.tenant_id = tenant_id


class TenantRequiredError(TenantError):
    """A request does not say which tenant it is about, or says it twice: there is no default."""

    outcome = "no_tenant"


class InvalidTenantIdError(TenantError, ValueError):
    """The text is no tenant id; nothing was looked up and nothing touched."""

    outcome = "invalid_id"


class TenantNotFoundError(TenantError):
    """No such tenant in the catalog."""

    outcome = "not_found"


class TenantExistsError(TenantError):
    """The id is taken, by a living tenant or by a deleted one in its grace period."""

    outcome = "exists"


class TenantStateError(TenantError):
    """The tenant's state does not allow this.

    Attributes:
        state: The state it is in.
        reason: Why it is in that state, where someone said so.
        event: The lifecycle event that was refused, None where it was a repository call.
    """

    outcome = "state"

    def __init__(
        self,
        message: str,
        *,
        tenant_id: str | None = None,
        state: str,
        reason: str | None = None,
        event: str | None = None,
    ) -> None:
        super().__init__(message, tenant_id=tenant_id)
        self.state = state
        self.reason = reason
        self.event = event


class TenantSuspendedError(TenantStateError):
    """The tenant is suspended: its data is kept, its calls are refused."""

    outcome = "suspended"


class TenantDeletedError(TenantStateError):
    """The tenant is deleted and waits out its grace period."""

    outcome = "deleted"


class TenantQuarantinedError(TenantStateError):
    """The tenant was quarantined after corruption or a failed migration; see `reason`."""

    outcome = "quarantined"


class DeletionProtectedError(TenantStateError):
    """The tenant is protected from deletion: take the protection away first."""

    outcome = "deletion_protected"


class GracePeriodError(TenantStateError):
    """The deleted tenant can still be brought back: it is purged after its grace period, or by force.

    Attributes:
        retry_after_seconds: What is left of the grace period.
    """

    is_retryable = True
    outcome = "grace_period"

    def __init__(
        self, message: str, *, tenant_id: str | None, state: str, event: str, retry_after_seconds: float
    ) -> None:
        super().__init__(message, tenant_id=tenant_id, state=state, event=event)
        self.retry_after_seconds = retry_after_seconds


class RevisionError(TenantError):
    """The tenant was changed since it was read; nothing was changed now.

    Attributes:
        revision: The one that the change was decided on.
        current_revision: The tenant's.
    """

    outcome = "revision"

    def __init__(self, message: str, *, tenant_id: str | None, revision: int, current_revision: int) -> None:
        super().__init__(message, tenant_id=tenant_id)
        self.revision = revision
        self.current_revision = current_revision


class TenantBusyError(TenantError):
    """A lifecycle operation of the tenant is under way, here or in another process.

    Attributes:
        action: That call.
        retry_after_seconds: When it is worth trying again.
    """

    is_retryable = True
    outcome = "busy"

    def __init__(
        self, message: str, *, tenant_id: str | None, action: str, retry_after_seconds: float
    ) -> None:
        super().__init__(message, tenant_id=tenant_id)
        self.action = action
        self.retry_after_seconds = retry_after_seconds


class TenantOwnedElsewhereError(TenantError):
    """Another process, or another registry of this one, has the tenant open.

    Attributes:
        pid: The owner's process id, None if the lock file could not be read.
        host: The owner's host name, None likewise.
    """

    is_retryable = True
    outcome = "owned_elsewhere"

    def __init__(self, message: str, *, tenant_id: str | None, pid: int | None, host: str | None) -> None:
        super().__init__(message, tenant_id=tenant_id)
        self.pid = pid
        self.host = host


class LimitError(TenantError):
    """Something that has a limit reached it; waiting helps.

    Attributes:
        limit: The setting's name (``mailbox_requests_max``).
        limit_value: What it is set to.
        retry_after_seconds: When it is worth trying again, computed from the recent rate.
    """

    is_retryable = True

    def __init__(
        self,
        message: str,
        *,
        tenant_id: str | None,
        limit: str,
        limit_value: float,
        retry_after_seconds: float,
    ) -> None:
        super().__init__(message, tenant_id=tenant_id)
        self.limit = limit
        self.limit_value = limit_value
        self.retry_after_seconds = retry_after_seconds


class TenantOverloadedError(LimitError):
    """The tenant's mailbox is full, or too many of its calls are under way; the call was not taken in."""

    outcome = "overloaded"


class TenantRateLimitedError(LimitError):
    """The tenant's ``calls_per_second_max`` and its burst are used up; the call was not taken in."""

    outcome = "rate_limited"


class PoolExhaustedError(LimitError):
    """Every place in the pool stayed in use, or too many callers wait for one already."""

    outcome = "pool_exhausted"


class CallTimeoutError(TenantError):
    """The call's deadline passed.

    Attributes:
        timeout_seconds: The deadline that passed.
        was_started: False: the call was taken back and has no effect. True: its batch was
            running, and a write may or may not have been committed.
    """

    is_retryable = True
    outcome = "timeout"

    def __init__(
        self, message: str, *, tenant_id: str | None, timeout_seconds: float, was_started: bool
    ) -> None:
        super().__init__(message, tenant_id=tenant_id)
        self.timeout_seconds = timeout_seconds
        self.was_started = was_started


class JobError(TenantError):
    """A fleet job's kind or state does not allow this.

    Attributes:
        job_id: The job, None where none was made.
    """

    outcome = "job"

    def __init__(self, message: str, *, job_id: str | None = None) -> None:
        super().__init__(message)
        self.job_id = job_id


class JobNotFoundError(JobError):
    """There is no such fleet job."""

    outcome = "not_found"


class RegistryClosedError(TenantError):
    """The registry is not open, or closed while the call waited."""

    outcome = "closed"
