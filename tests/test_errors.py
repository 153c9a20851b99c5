"""Errors: one tree, each with its data, its label and its answer to "may I try again?"."""

import copy
import inspect
import pickle
import re
from collections.abc import Iterator

import pytest

from tenantry import errors
from tenantry.errors import QueryError, StorageFullError, TenantryError

# DOMAIN.md and the issue, and what tenantry adds below them: name, parent.
TREE = {
    "SettingsError": "TenantryError",
    "PersistenceError": "TenantryError",
    "DatabaseCorruptError": "PersistenceError",
    "UnsupportedByBackend": "PersistenceError",
    "PersistenceConnectionError": "PersistenceError",
    "BackendNotConfiguredError": "PersistenceConnectionError",
    "CatalogMovedError": "PersistenceConnectionError",
    "DataDirectoryError": "PersistenceConnectionError",
    "DatabaseServerError": "PersistenceConnectionError",
    "ConnectHookError": "PersistenceConnectionError",
    "MigrationError": "PersistenceError",
    "MissingSchemaError": "MigrationError",
    "ResultLostError": "PersistenceError",
    "RecordNotFoundError": "PersistenceError",
    "DuplicateRecordError": "PersistenceError",
    "SnapshotError": "PersistenceError",
    "SnapshotNotFoundError": "SnapshotError",
    "SnapshotCorruptError": "SnapshotError",
    "ForeignSchemaError": "SnapshotError",
    "SnapshotStorageOwnedError": "SnapshotError",
    "QueryError": "PersistenceError",
    "ConstraintViolationError": "QueryError",
    "IdempotencyConflictError": "QueryError",
    "KeyRefusedError": "QueryError",
    "MalformedRowError": "QueryError",
    "StorageFullError": "QueryError",
    "TransactionClosedError": "QueryError",
    "TenantError": "TenantryError",
    "TenantRequiredError": "TenantError",
    "InvalidTenantIdError": "TenantError",
    "TenantNotFoundError": "TenantError",
    "TenantExistsError": "TenantError",
    "TenantStateError": "TenantError",
    "TenantSuspendedError": "TenantStateError",
    "TenantDeletedError": "TenantStateError",
    "TenantQuarantinedError": "TenantStateError",
    "DeletionProtectedError": "TenantStateError",
    "GracePeriodError": "TenantStateError",
    "RevisionError": "TenantError",
    "TenantNotMovableError": "TenantError",
    "TenantBusyError": "TenantError",
    "TenantOwnedElsewhereError": "TenantError",
    "LimitError": "TenantError",
    "TenantOverloadedError": "LimitError",
    "TenantRateLimitedError": "LimitError",
    "PoolExhaustedError": "LimitError",
    "CallTimeoutError": "TenantError",
    "JobError": "TenantError",
    "JobNotFoundError": "JobError",
    "RegistryClosedError": "TenantError",
}
OUTCOMES = {
    "busy",
    "closed",
    "connection",
    "constraint",
    "corrupt",
    "deleted",
    "deletion_protected",
    "duplicate",
    "error",
    "exists",
    "foreign_schema",
    "full",
    "grace_period",
    "idempotency_conflict",
    "invalid_id",
    "job",
    "key_refused",
    "malformed",
    "migration",
    "no_tenant",
    "not_movable",
    "not_found",
    "overloaded",
    "owned_elsewhere",
    "pool_exhausted",
    "quarantined",
    "rate_limited",
    "result_lost",
    "revision",
    "snapshot",
    "state",
    "suspended",
    "timeout",
    "transaction_closed",
    "unsupported",
}
RETRYABLE = {
    "PersistenceConnectionError",
    "StorageFullError",
    "GracePeriodError",
    "TenantBusyError",
    "TenantOwnedElsewhereError",
    "LimitError",
    "TenantRateLimitedError",
    "TenantOverloadedError",
    "PoolExhaustedError",
    "CallTimeoutError",
}
# One value for each argument that any constructor takes.
ARGUMENTS = {
    "address": "app@db.example/tenants",
    "constraint": "users.email",
    "columns": ("users.email",),
    "code": "SQLITE_BUSY",
    "place": "host/tenants",
    "path": "/srv/data",
    "missing_schemas": ("crm",),
    "objects": ("trigger 'x'",),
    "location": "s3://backups/tenantry",
    "data_dir": "/srv/staging",
    "owner_data_dir": "/srv/data",
    "owner_host": "db-1",
    "schema": "company",
    "version": 3,
    "is_step_failure": True,
    "record_id": "t-1",
    "is_transient": True,
    "is_retryable": True,
    "entity": "task",
    "tenant_id": "acme",
    "tables": ("notes",),
    "state": "suspended",
    "reason": "unpaid",
    "event": "resume",
    "pid": 4711,
    "host": "db-1",
    "socket_name": "0123456789ab",
    "limit": "mailbox_requests_max",
    "limit_value": 1024,
    "retry_after_seconds": 0.25,
    "timeout_seconds": 30.0,
    "was_started": True,
    "snapshot_id": "20260101t000000000000z-00ff",
    "key": "order-17",
    "action": "restore",
    "revision": 3,
    "current_revision": 4,
    "job_id": "job-1",
    "backend": "east",
    "setting": "TENANTRY_DATABASES__east",
    "capability": "byte_limit",
}

ERROR_TYPES = {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, TenantryError)
}


def arguments(error_type: type[TenantryError]) -> dict[str, object]:
    """Return a value for each keyword that the constructor takes; the root takes none."""
    names = inspect.signature(error_type.__init__).parameters
    return {name: ARGUMENTS[name] for name in names if name not in {"self", "message", "args", "kwargs"}}


def make(error_type: type[TenantryError]) -> TenantryError:
    """Return an error with every attribute that its class can have."""
    return error_type("it failed", **arguments(error_type))


def drawn_tree() -> Iterator[tuple[str, str]]:
    """Yield each error with its parent, as the module's docstring draws them."""
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ((?:[│ ]   )*(?:[├└]── )?)([A-Z]\w+(?:Error|Backend))\b", line)
        if match:
            depth = len(match[1]) // 4
            del path[depth:]
            if path:
                yield match[2], path[-1]
            path.append(match[2])


def test_the_tree():
    """The classes form the tree that the contract names, with nothing beside it."""
    assert {
        name: error.__base__.__name__ for name, error in ERROR_TYPES.items() if name != "TenantryError"
    } == TREE
    assert TenantryError.__base__ is Exception


def test_the_drawing_is_the_tree():
    """What the module draws on top is what it holds."""
    assert dict(drawn_tree()) == TREE


def test_the_module_exports_errors_only():
    """``tenantry.errors`` is a leaf: it imports nothing of ours and offers nothing but errors."""
    public = {name for name, value in vars(errors).items() if not name.startswith("_")}
    assert public - set(ERROR_TYPES) <= {"Any", "ClassVar", "Self", "copy"}


def test_a_bad_id_is_also_a_value_error():
    """Callers that know nothing of tenantry know a ValueError."""
    assert issubclass(errors.InvalidTenantIdError, ValueError)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
@pytest.mark.parametrize("name", ERROR_TYPES)
def test_copies_and_pickles(name: str, again):  # noqa: ANN001  # copy, deepcopy or a lambda
    """Every error survives a copy and a way through another process with its text and all of its attributes."""
    error = make(ERROR_TYPES[name])
    twin = again(error)
    assert type(twin) is type(error)
    assert twin is not error
    assert (str(twin), twin.args) == ("it failed", ("it failed",))
    assert vars(twin) == vars(error)
    for attribute, value in vars(error).items():
        assert getattr(twin, attribute) == value
    assert twin.is_retryable == error.is_retryable


@pytest.mark.parametrize("name", ERROR_TYPES)
def test_carries_its_data(name: str):
    """What a constructor is given can be read from the error: no program has to take a message apart."""
    error = make(ERROR_TYPES[name])
    for argument, value in arguments(type(error)).items():
        assert getattr(error, argument) == value


@pytest.mark.parametrize("name", ERROR_TYPES)
def test_its_label_is_one_of_a_few(name: str):
    """The outcome is a label in metrics, so there are few, and each is a word."""
    assert ERROR_TYPES[name].outcome in OUTCOMES
    assert re.fullmatch(r"[a-z_]+", ERROR_TYPES[name].outcome)


@pytest.mark.parametrize("name", ERROR_TYPES)
def test_says_whether_to_try_again(name: str):
    """Trying again is worth it where the moment was to blame, and only there."""
    assert ERROR_TYPES[name].is_retryable == (name in RETRYABLE)


@pytest.mark.parametrize("name", ERROR_TYPES)
def test_each_is_documented(name: str):
    """Each class says when it is raised."""
    assert ERROR_TYPES[name].__doc__


def test_a_transient_failure_is_worth_another_try():
    """A busy database is the moment's failure; a wrong statement is not, however often it is sent."""
    assert QueryError("busy", code="SQLITE_BUSY", is_transient=True).is_retryable
    assert not QueryError("no such table", code="SQLITE_ERROR").is_retryable
    assert StorageFullError("full").is_retryable


@pytest.mark.parametrize(
    "name", [name for name in ERROR_TYPES if issubclass(ERROR_TYPES[name], errors.LimitError)]
)
def test_limits_say_when_to_come_back(name: str):
    """At a limit where waiting helps, the error says which limit and how long."""
    error = make(ERROR_TYPES[name])
    assert isinstance(error, errors.LimitError)
    assert (error.limit, error.limit_value, error.retry_after_seconds) == ("mailbox_requests_max", 1024, 0.25)


def test_others_do_not_invent_a_wait():
    """Where waiting does not help there is no number."""
    assert make(ERROR_TYPES["TenantNotFoundError"]).retry_after_seconds is None
