"""Every error that tenantry raises, in one tree.

    TenantryError
    ├── SettingsError                    settings cannot be used (also a ValueError)
    ├── PersistenceError                 a database, a statement or a row failed
    │   ├── DatabaseCorruptError         the file is damaged, or is not a database
    │   ├── UnsupportedByBackend         the tenant's back end lacks the feature
    │   ├── PersistenceConnectionError   not connected, cannot connect, cannot close
    │   │   ├── BackendNotConfiguredError  the settings do not name the tenant's back end
    │   │   ├── CatalogMovedError        the catalog is in another database
    │   │   ├── DataDirectoryError       the data directory cannot be used as it is
    │   │   ├── DatabaseServerError      the PostgreSQL database cannot be used as it is
    │   │   └── ConnectHookError         a connect hook failed, or made a change that is not allowed
    │   ├── MigrationError               a step failed, or the file and the code disagree
    │   │   └── MissingSchemaError       tenants have schema packs that this process lacks
    │   ├── ResultLostError              the write was committed, but its result is lost
    │   ├── RecordNotFoundError
    │   ├── DuplicateRecordError         a primary or unique key exists already
    │   ├── SnapshotError                a snapshot or bundle cannot be made, kept or used
    │   │   ├── SnapshotNotFoundError
    │   │   ├── SnapshotCorruptError     the content differs from what was written
    │   │   ├── ForeignSchemaError       a database from elsewhere has objects that no schema pack makes
    │   │   └── SnapshotStorageOwnedError  the snapshot storage belongs to another data directory
    │   └── QueryError                   a statement or its arguments were refused
    │       ├── ConstraintViolationError NOT NULL, CHECK, FOREIGN KEY
    │       ├── IdempotencyConflictError the key was used for another write
    │       ├── KeyRefusedError          the caller's API key is not valid any more
    │       ├── MalformedRowError        a stored row does not fit its model
    │       ├── StorageFullError         the disk is full, or the database reached its own limit
    │       └── TransactionClosedError   a transaction was used after its end, or ended with the tenant's owner
    └── TenantError                      a tenant or the registry cannot serve the call
        ├── TenantRequiredError          a request names no tenant, or more than one
        ├── InvalidTenantIdError         (also a ValueError)
        ├── TenantNotFoundError
        ├── TenantExistsError
        ├── TenantStateError             the lifecycle has no such transition
        │   ├── TenantSuspendedError
        │   ├── TenantDeletedError
        │   ├── TenantQuarantinedError
        │   ├── DeletionProtectedError
        │   └── GracePeriodError         deleted, and cannot be purged yet
        ├── RevisionError                the tenant was changed since it was read
        ├── TenantNotMovableError        a table of the tenant cannot be moved to the other back end
        ├── TenantBusyError              a lifecycle operation of the tenant is running
        ├── TenantOwnedElsewhereError    another process has the tenant open, and takes no calls of this one
        ├── LimitError                   a limit is reached; has retry_after_seconds
        │   ├── TenantOverloadedError    the tenant's mailbox is full, or too many of its calls are running
        │   ├── TenantRateLimitedError   the tenant made too many calls per second
        │   └── PoolExhaustedError       no place in the pool became free in time
        ├── CallTimeoutError             the call's deadline passed
        ├── JobError                     a fleet job does not allow this
        │   └── JobNotFoundError
        └── RegistryClosedError

Each class has two attributes: `is_retryable`, whether the same call may succeed later, and `outcome`, the value of a label in
metrics. Every value in an error's message is also an attribute. The store maps the errors of the database driver to errors of
this tree, with ``raise … from``.
"""

import copy
from typing import Any, ClassVar, Self


class TenantryError(Exception):
    """The base class of all errors that tenantry raises on purpose.

    Attributes:
        is_retryable: Whether the same call, unchanged, may succeed later.
        outcome: The value of the `outcome` label in metrics.
        retry_after_seconds: The waiting time before the next try; None if waiting does not help.
    """

    is_retryable: bool = False
    outcome: ClassVar[str] = "error"
    retry_after_seconds: float | None = None

    def for_another_caller(self) -> Self:
        """Return a copy of the error with the same cause.

        Raising an error changes the error's traceback, so each caller needs a separate instance.
        """
        again = copy.copy(self)
        again.__cause__ = self.__cause__
        return again

    def __reduce__(self) -> tuple[Any, ...]:
        """Support copy and pickle: copy the attributes, because an exception does not store its keyword arguments."""
        return _rebuilt, (type(self), self.args, self.__dict__.copy())


def _rebuilt(
    error_type: type[TenantryError], args: tuple[Any, ...], attributes: dict[str, Any]
) -> TenantryError:
    error = error_type.__new__(error_type, *args)
    error.__dict__.update(attributes)
    return error


class SettingsError(TenantryError, ValueError):
    """Settings cannot be used: the message names the setting, or the setting's environment variable."""


class PersistenceError(TenantryError):
    """A database, a statement or a row failed.

    Attributes:
        code: The database driver's name for the error (``SQLITE_BUSY``); None if the error does not come from the driver.
    """

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


class UnsupportedByBackend(PersistenceError):  # noqa: N818  # the name says all; "UnsupportedByBackendError" adds nothing
    """The tenant's back end lacks the feature, so nothing was done; docs/backends.md lists the features of each back end.

    Attributes:
        capability: The feature's name, such as ``byte_limit``; see `Capability`.
        backend: The name of the back end.
    """

    outcome = "unsupported"

    def __init__(self, message: str, *, capability: str, backend: str) -> None:
        super().__init__(message)
        self.capability = capability
        self.backend = backend


class PersistenceConnectionError(PersistenceError):
    """The database is not connected, cannot be reached, or could not be closed."""

    is_retryable = True
    outcome = "connection"

    def __init__(self, message: str, *, code: str | None = None, is_retryable: bool = True) -> None:
        super().__init__(message, code=code)
        self.is_retryable = is_retryable


class BackendNotConfiguredError(PersistenceConnectionError):
    """The settings of this process do not name the back end; nothing was read or changed. Other tenants are served.

    Attributes:
        backend: The name of the back end.
        setting: The environment variable that names the back end's database; None if the name of the back end is not valid.
    """

    is_retryable = False

    def __init__(self, message: str, *, backend: str, setting: str | None) -> None:
        super().__init__(message, is_retryable=False)
        self.backend = backend
        self.setting = setting


class CatalogMovedError(PersistenceConnectionError):
    """The database is not the deployment's catalog, because 'tenantry catalog move' has moved the catalog. Nothing was changed.

    Attributes:
        backend: The name of the back end with the other database.
        place: The place of the other database, for people.
    """

    is_retryable = False

    def __init__(self, message: str, *, backend: str, place: str) -> None:
        super().__init__(message, is_retryable=False)
        self.backend = backend
        self.place = place


class DataDirectoryError(PersistenceConnectionError):
    """The data directory is not usable; the message says what to change."""

    is_retryable = False

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message, is_retryable=False)
        self.path = path


class DatabaseServerError(PersistenceConnectionError):
    """The PostgreSQL server, its database or a pooler has a setting or a right that tenantry cannot work with.

    The message says what to change. No tenant's data was read or changed.

    Attributes:
        address: The role, the hosts and the name of the database, without a password.
    """

    is_retryable = False

    def __init__(self, message: str, *, address: str, code: str | None = None) -> None:
        super().__init__(message, code=code, is_retryable=False)
        self.address = address


class ConnectHookError(PersistenceConnectionError):
    """A connect hook failed, or made a change that is not allowed; the connection was closed.

    Attributes:
        schema: The hook's schema pack; None if the hook comes from `SQLiteConfig`.
    """

    is_retryable = False

    def __init__(self, message: str, *, schema: str | None = None) -> None:
        super().__init__(message, is_retryable=False)
        self.schema = schema


class DatabaseCorruptError(PersistenceError):
    """The file is damaged, is not a database, or belongs to another tenant; the file was not changed."""

    outcome = "corrupt"


class MigrationError(PersistenceError):
    """A migration failed, or the database and the code disagree about what was applied.

    Attributes:
        schema: The name of the schema pack; None if the error is about the whole file.
        version: The number of the migration; None if the error is about several migrations.
        is_step_failure: Whether a migration failed on this tenant's data. The value is False if the code and the file
            disagree because of a wrong deployment.
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


class MissingSchemaError(MigrationError):
    """Tenants have schema packs that this process lacks, so the process cannot create or migrate tenants.

    Attributes:
        missing_schemas: The names of the packs.
    """

    def __init__(self, message: str, *, missing_schemas: tuple[str, ...]) -> None:
        super().__init__(message)
        self.missing_schemas = missing_schemas


class ResultLostError(PersistenceError):
    """The write was committed, but its result was lost on the way to the caller. Do not repeat the write.

    Only a write that returns rows or a count can lose its result. On a database server the connection was lost before the result arrived.
    For a tenant that another process has open, the result was too large: for a message between the processes, or for the mark of the write
    in the tenant's database, if the owner ended before it sent the result. If a write with an idempotency key is repeated with its key, it
    returns its result.
    """

    outcome = "result_lost"


class RecordNotFoundError(PersistenceError):
    """A record that the call needs does not exist."""

    outcome = "not_found"

    def __init__(self, message: str, *, record_id: str | None = None) -> None:
        super().__init__(message)
        self.record_id = record_id


class DuplicateRecordError(PersistenceError):
    """A record with this primary or unique key exists already; nothing was written.

    Attributes:
        record_id: The id of the record that was not written; None if the statement names no id.
        constraint: The unique key that exists already: its columns with their table (``users.email``; several are separated by
            ``, ``), or the name of a unique index on expressions. The value is None if the database does not report it.
        columns: The columns of `constraint`; empty for an index on expressions.
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
    """The requested snapshot of the tenant does not exist.

    Attributes:
        snapshot_id: The id of the missing snapshot; None if the tenant has no snapshot at all.
    """

    outcome = "not_found"

    def __init__(self, message: str, *, snapshot_id: str | None = None) -> None:
        super().__init__(message)
        self.snapshot_id = snapshot_id


class SnapshotCorruptError(SnapshotError):
    """A snapshot, a bundle or a manifest is damaged; nothing was changed."""

    outcome = "corrupt"


class ForeignSchemaError(SnapshotError):
    """A foreign database differs from the schema packs in tables, triggers, views or indexes; nothing was changed.

    Attributes:
        objects: The type and the name of each object that differs; only the first objects if there are many.
    """

    outcome = "foreign_schema"

    def __init__(self, message: str, *, objects: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.objects = objects


class SnapshotStorageOwnedError(SnapshotError):
    """The snapshot storage belongs to another data directory, and was not changed; this data directory may be a copy.

    Attributes:
        location: The address of the snapshot storage.
        data_dir: The data directory that may not use the storage.
        owner_data_dir: The path of the data directory that owns the storage; None if the owner mark cannot be read.
        owner_host: The host name of the owner's machine; None if the storage's owner mark cannot be read.
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
        is_transient: Whether the next try may succeed, because the database was busy, the call was interrupted, or I/O failed.
    """

    def __init__(self, message: str, *, code: str | None = None, is_transient: bool = False) -> None:
        super().__init__(message, code=code)
        self.is_transient = is_transient
        self.is_retryable = self.is_retryable or is_transient


class ConstraintViolationError(QueryError):
    """A NOT NULL, CHECK or FOREIGN KEY constraint refused the row.

    Attributes:
        constraint: For NOT NULL, the column with its table (``users.name``); for CHECK, the constraint's name, or the expression
            of a nameless constraint. The value is None for foreign keys, triggers, and constraints that are not reported.
    """

    outcome = "constraint"

    def __init__(self, message: str, *, code: str | None = None, constraint: str | None = None) -> None:
        super().__init__(message, code=code)
        self.constraint = constraint


class KeyRefusedError(QueryError):
    """The caller's API key is not allowed, or is no longer allowed, to create or revoke keys; nothing was changed."""

    outcome = "key_refused"


class IdempotencyConflictError(QueryError):
    """The idempotency key was used before for a different write; nothing was written.

    Attributes:
        key: The idempotency key.
    """

    outcome = "idempotency_conflict"

    def __init__(self, message: str, *, key: str) -> None:
        super().__init__(message)
        self.key = key


class MalformedRowError(QueryError):
    """A stored row does not fit its model.

    Attributes:
        entity: The kind of record (``task``).
        record_id: The row's primary key as a string; None if the primary key's column is not known.
    """

    outcome = "malformed"

    def __init__(self, message: str, *, entity: str, record_id: str | None = None) -> None:
        super().__init__(message)
        self.entity = entity
        self.record_id = record_id


class StorageFullError(QueryError):
    """The disk is full, or the database has reached its own size limit; reads still work.

    Attributes:
        limit: ``database_bytes_max`` if the database reached that limit; None if the disk is full.
        limit_value: The value of the limit in bytes; None if the disk is full.
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
    """The transaction has ended: it was committed, was rolled back, or reached its deadline.

    A transaction also ends if another process had the tenant open and has ended, or if another process has taken the tenant over. Then
    nothing of the transaction was kept: open a new transaction.
    """

    outcome = "transaction_closed"


class TenantError(TenantryError):
    """A tenant or the registry cannot serve the call.

    Attributes:
        tenant_id: The tenant's id as the caller gave it; None if the error is about the registry.
    """

    def __init__(self, message: str, *, tenant_id: str | None = None) -> None:
        super().__init__(message)
        self.tenant_id = tenant_id


class TenantRequiredError(TenantError):
    """A request names no tenant, or more than one tenant; there is no default tenant."""

    outcome = "no_tenant"


class InvalidTenantIdError(TenantError, ValueError):
    """The text is not a valid tenant id; nothing was looked up or changed."""

    outcome = "invalid_id"


class TenantNotFoundError(TenantError):
    """The catalog has no such tenant."""

    outcome = "not_found"


class TenantExistsError(TenantError):
    """Another tenant, possibly a deleted tenant in its grace period, has the id."""

    outcome = "exists"


class TenantStateError(TenantError):
    """The tenant's state does not allow the call.

    Attributes:
        state: The tenant's state.
        reason: The reason for the state, if an operator gave one.
        event: The lifecycle event that was refused; None if a repository call was refused.
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
    """The tenant is suspended: its data is kept, and its calls are refused."""

    outcome = "suspended"


class TenantDeletedError(TenantStateError):
    """The tenant is deleted and in its grace period."""

    outcome = "deleted"


class TenantQuarantinedError(TenantStateError):
    """The tenant was quarantined because its database is damaged or a migration failed; `reason` has the details."""

    outcome = "quarantined"


class DeletionProtectedError(TenantStateError):
    """The tenant is protected from deletion; remove the protection first."""

    outcome = "deletion_protected"


class GracePeriodError(TenantStateError):
    """The deleted tenant is in its grace period, in which it can be undeleted; only a forced purge is possible.

    Attributes:
        retry_after_seconds: The remaining time of the grace period.
    """

    is_retryable = True
    outcome = "grace_period"

    def __init__(
        self, message: str, *, tenant_id: str | None, state: str, event: str, retry_after_seconds: float
    ) -> None:
        super().__init__(message, tenant_id=tenant_id, state=state, event=event)
        self.retry_after_seconds = retry_after_seconds


class RevisionError(TenantError):
    """The tenant was changed after the caller had read it; this call changed nothing.

    Attributes:
        revision: The revision that the caller expects.
        current_revision: The tenant's current revision.
    """

    outcome = "revision"

    def __init__(self, message: str, *, tenant_id: str | None, revision: int, current_revision: int) -> None:
        super().__init__(message, tenant_id=tenant_id)
        self.revision = revision
        self.current_revision = current_revision


class TenantNotMovableError(TenantError):
    """The tenant cannot be moved to the other back end, and nothing was changed.

    Attributes:
        tables: The names of the tables because of which the tenant cannot be moved.
    """

    outcome = "not_movable"

    def __init__(self, message: str, *, tenant_id: str, tables: tuple[str, ...]) -> None:
        super().__init__(message, tenant_id=tenant_id)
        self.tables = tables


class TenantBusyError(TenantError):
    """Another lifecycle operation of the tenant is running, in this process or in another process.

    Attributes:
        action: The name of the running operation.
        retry_after_seconds: The waiting time before the next try.
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
    """Another process, or another registry of this process, has the tenant open, and this process cannot forward its calls there.

    Calls are not forwarded if the setting ``forwarding`` is off in one of the two processes, if the owner's socket in ``peers`` cannot be
    reached, or if the two processes run releases with different versions of the protocol or of a schema pack. An operation that needs
    the tenant closed raises this error if the owner does not close the tenant. The message names the owner and the reason.

    Attributes:
        pid: The process id of the owner; None if the lock file could not be read.
        host: The host name of the owner; None if the lock file could not be read.
        socket_name: The name under which the owner takes calls of other processes; None if it takes none.
    """

    is_retryable = True
    outcome = "owned_elsewhere"

    def __init__(
        self,
        message: str,
        *,
        tenant_id: str | None,
        pid: int | None,
        host: str | None,
        socket_name: str | None = None,
    ) -> None:
        super().__init__(message, tenant_id=tenant_id)
        self.pid = pid
        self.host = host
        self.socket_name = socket_name


class LimitError(TenantError):
    """The call reached a limit; the same call may succeed later.

    Attributes:
        limit: The name of the setting (``mailbox_requests_max``).
        limit_value: The value of the setting.
        retry_after_seconds: The waiting time before the next try, estimated from the recent rate of calls.
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
    """The tenant's mailbox is full, or too many of its calls are running; the call had no effect."""

    outcome = "overloaded"


class TenantRateLimitedError(LimitError):
    """The tenant has used up its ``calls_per_second_max`` and its burst; the call had no effect."""

    outcome = "rate_limited"


class PoolExhaustedError(LimitError):
    """No place in the pool became free in time, or too many callers wait for a place already."""

    outcome = "pool_exhausted"


class CallTimeoutError(TenantError):
    """The call did not end within its timeout.

    Attributes:
        timeout_seconds: The timeout.
        was_started: Whether the call had started. A call that had not started has no effect; a started write may be committed.

    If another process has the tenant open, the call counts as started as soon as it was sent, unless that process answers that the call
    had not started. A process that was stopped, or whose event loop is blocked, does not answer. A write whose owner has ended counts as
    started if no process could open the tenant in time to look for the mark of the write.
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
    """The kind or the state of a fleet job does not allow the call.

    Attributes:
        job_id: The id of the job; None if no job was created.
    """

    outcome = "job"

    def __init__(self, message: str, *, job_id: str | None = None) -> None:
        super().__init__(message)
        self.job_id = job_id


class JobNotFoundError(JobError):
    """The fleet job does not exist."""

    outcome = "not_found"


class RegistryClosedError(TenantError):
    """The registry is not open in this process, or was closed while the call waited.

    A process that was forked from the process of an open registry cannot use that registry.
    """

    outcome = "closed"
