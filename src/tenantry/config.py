"""The settings of tenantry. Settings are immutable, and their names contain the units."""

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from tenantry.environment import read_settings, variable
from tenantry.errors import SettingsError
from tenantry.postgres_config import PostgresConfig, url_option
from tenantry.schemas.connect_hook import ConnectHook

Durability: TypeAlias = Literal["full", "normal"]
"""``full``: an acknowledged write survives a power failure. ``normal``: an acknowledged write survives a crash of the process, but
a power failure may lose the last writes. See SQLite's ``synchronous`` (https://www.sqlite.org/pragma.html#pragma_synchronous)."""

Engine: TypeAlias = Literal["auto", "native", "python"]
"""What runs the statements of SQLite databases. ``native``: the engine in C, without the interpreter's lock. ``python``: Python's sqlite3.
``auto``: the engine in C where it can be used, otherwise Python's sqlite3."""

MEMORY_PATH = ":memory:"
JOURNAL_SIZE_LIMIT_BYTES = 64 * 1024 * 1024
WAL_BYTES_MAX = 2 * JOURNAL_SIZE_LIMIT_BYTES
BATCH_REQUESTS_MAX = 64
TRANSACTION_TIMEOUT_SECONDS = 10.0
POOL_WAIT_TIMEOUT_SECONDS = 10.0
OPEN_TENANTS_MAX = 512
SERVER_OPEN_TENANTS_MAX = 10_000
"""The default of ``open_tenants_max`` if new tenants are on a server, where an open tenant has no file and no connection."""

SQLITE = "sqlite"
"""The name of the back end that keeps SQLite files in the data directory; every registry has this back end."""

POSTGRES = "postgres"
"""The name of the back end that keeps tenants in the database of the setting ``database``."""

_BACKEND_NAME = re.compile("[a-z][a-z0-9_]{0,30}")
_YEAR_SECONDS = 366 * 86_400
_CENTURY_SECONDS = 100 * 365 * 86_400  # small enough for date arithmetic

Seconds: TypeAlias = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
WalBytes: TypeAlias = Annotated[int, Field(ge=64 * 1024, le=2**40)]
Count: TypeAlias = Annotated[int, Field(ge=1, le=1_000_000)]


class SQLiteConfig(BaseModel):
    """The settings of an SQLite database.

    Attributes:
        path: The path of the file, or ``:memory:`` for a database that is lost when its connection closes.
        wal_mode: Whether to use a write-ahead log, so that reads continue during a write; otherwise a rollback journal is used.
        journal_size_limit: The size in bytes to which the write-ahead log is truncated.
        wal_bytes_max: The largest size of the write-ahead log. At this size, reads wait until the log is checkpointed.
        on_connect: The hooks that add functions and collations to each connection, after the hooks of the schema packs.
        engine: What runs the statements, see `Engine`. With ``native``, a back end cannot be made in a process that cannot use the
            engine in C. A database with hooks always uses Python's sqlite3.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    wal_mode: bool = True
    journal_size_limit: int = Field(default=JOURNAL_SIZE_LIMIT_BYTES, ge=0, le=2**40)
    wal_bytes_max: WalBytes = WAL_BYTES_MAX
    on_connect: tuple[ConnectHook, ...] = ()
    engine: Engine = "auto"

    @field_validator("path", mode="before")
    @classmethod
    def _check_path(cls, value: object) -> object:
        text = str(value) if isinstance(value, Path) else value
        if not isinstance(text, str):
            return text
        if not text.strip() or "\0" in text:
            raise ValueError("path must be the path of a file, or ':memory:'")
        if text.startswith("file:"):
            raise ValueError("path must not be a 'file:' URI, which could have options: give a plain path")
        if ".." in Path(text).parts:
            raise ValueError("path must not contain '..': give the absolute path")
        return text


_SCHEMA_PATTERN = r"^(?!pg_|tenant_|tenantry\Z)[a-z][a-z0-9_]{0,62}\Z"


class PersistenceConfig(BaseModel):
    """The settings of a back end for a single database without a registry.

    Attributes:
        backend: ``sqlite`` or ``postgres``.
        sqlite: The settings of the SQLite database.
        postgres: The settings of the PostgreSQL database: a `PostgresConfig`, or its URL.
        postgres_schema: The schema of the company's tables in the PostgreSQL database. The names that a registry gives to its schemas
            are not possible.
    """

    # An error message must not repeat the URL, which contains a password.
    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, regex_engine="python-re"
    )

    backend: Annotated[str, Field(min_length=1)] = "sqlite"
    sqlite: SQLiteConfig | None = None
    postgres: PostgresConfig | None = None
    postgres_schema: Annotated[str, Field(pattern=_SCHEMA_PATTERN)] = "company"


# Settings that another setting limits: the name, the other setting's name, and the default.
_BOUNDED = (
    ("batch_requests_max", "mailbox_requests_max", BATCH_REQUESTS_MAX),
    ("transaction_timeout_seconds", "call_timeout_seconds", TRANSACTION_TIMEOUT_SECONDS),
    ("pool_wait_timeout_seconds", "call_timeout_seconds", POOL_WAIT_TIMEOUT_SECONDS),
)


class RegistryConfig(BaseModel):
    """The settings of a `TenantRegistry`. Only `from_environment` reads environment variables.

    Several processes may have one data directory open. The limits of open tenants, callers, batches, threads and scheduled snapshots count
    in each process. The calls of all processes to a tenant wait in one mailbox, so ``mailbox_requests_max`` and the tenant's own limits count
    once for all processes.

    Attributes:
        data_dir: The data directory, which must be on a local disk because of file locks. A missing directory is created. With
            ``database``, the directory has only temporary files, and the snapshots if there is no other storage for them.
        database: The PostgreSQL database of the catalog and of new tenants: a `PostgresConfig`, or its URL
            ``postgresql://user:password@host/database``. Tenants in it have the back end ``postgres``. Without this setting, the
            catalog and new tenants are files in the data directory.
        databases: Further PostgreSQL databases for tenants, by the name of the back end: lower-case letters, digits and ``_``. In the
            environment: ``TENANTRY_DATABASES__east=postgresql://…``.
        default_backend: The back end of new tenants if ``create(…, backend=)`` names none: ``sqlite``, ``postgres``, or a name in
            ``databases``. By default ``postgres`` if there is a ``database``, else ``sqlite``.
        open_tenants_max: The largest number of open tenants. Each SQLite tenant uses ``4 + 2 * readers_per_tenant`` open files. An open
            tenant on PostgreSQL uses no connection, so the default is 10,000 if new tenants are on PostgreSQL, else 512. If the process
            may not open enough files for 512 tenants, the registry uses a smaller default and logs it.
        readers_per_tenant: The number of each tenant's read-only connections, and of each tenant's concurrent read batches.
        idle_timeout_seconds: The time without a call after which a tenant is closed.
        pool_waiters_max: The largest number of callers that wait for a place among the open tenants.
        pool_wait_timeout_seconds: The longest wait of a caller for a place among the open tenants.
        mailbox_requests_max: The largest number of a tenant's waiting writes, and also of the tenant's waiting reads.
        batch_requests_max: The largest number of calls that share a transaction.
        call_timeout_seconds: The deadline of a call to an open tenant. Opening a tenant has another timeout of the same length.
        transaction_timeout_seconds: The longest time that ``transaction()`` may occupy its tenant's writer.
        write_threads: The number of threads that open, write and close the databases of all tenants.
        read_threads: The number of threads that read the databases of all tenants.
        write_jobs_max: The largest number of tenants whose write batch is running or queued for a thread.
        read_jobs_max: The largest number of tenants whose read batch is running or queued for a thread. The tenants of a database server
            share the larger of both numbers for writes and reads, and at most one for each connection.
        durability: The time at which a write is acknowledged, see `Durability`.
        engine: What runs the statements of SQLite databases, see `Engine`. With ``native``, a registry does not open in a process that
            cannot use the engine in C.
        wal_bytes_max: The largest size of a tenant's write-ahead log. At this size, reads wait until the log is checkpointed.
        delete_grace_seconds: The grace period in which a deleted tenant can be undeleted.
        clock_hold_seconds: The time after a jump of the machine's clock during which no old data is deleted.
        idempotency_retention_seconds: The time for which a write's idempotency key is kept; callers may retry only in this time.
        snapshot_interval_seconds: The interval of each active tenant's scheduled snapshots; by default no snapshots are scheduled.
        snapshot_jitter_seconds: The random jitter of scheduled snapshots, to avoid simultaneous snapshots of all tenants.
        snapshot_jobs_max: The largest number of scheduled snapshots that are taken at the same time.
        snapshots_kept_max: The largest number of snapshots that are kept of each tenant.
        snapshot_age_seconds_max: The age after which a snapshot is deleted; a tenant's newest snapshot is always kept.
        fleet_retention_seconds: The time for which an ended fleet job is kept with its tenants' outcomes.
        catalog_poll_interval_seconds: The interval at which a process checks for changes by other processes.
        shutdown_timeout_seconds: The longest time that a closing registry waits for accepted calls.
        forwarding: Whether several processes may use the same tenants: a call to a tenant that another process has open is forwarded
            to that process. Without forwarding, such a call is refused with `TenantOwnedElsewhereError`.
        handed_over_after_calls: The number of consecutive forwarded calls after which the owner of a tenant closes the tenant, so that a
            process that uses the tenant becomes its owner. Calls of the owner itself begin the count anew.
    """

    # An error message must not repeat the URL of a database, which has a password.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    data_dir: Path
    database: PostgresConfig | None = None
    databases: Mapping[str, PostgresConfig] = {}
    default_backend: str | None = None
    open_tenants_max: Count = OPEN_TENANTS_MAX
    readers_per_tenant: Annotated[int, Field(ge=1, le=16)] = 1
    idle_timeout_seconds: Seconds = 300.0
    pool_waiters_max: Count = 1024
    pool_wait_timeout_seconds: Seconds = POOL_WAIT_TIMEOUT_SECONDS
    mailbox_requests_max: Count = 1024
    batch_requests_max: Annotated[int, Field(ge=1, le=4096)] = BATCH_REQUESTS_MAX
    call_timeout_seconds: Seconds = 30.0
    transaction_timeout_seconds: Seconds = TRANSACTION_TIMEOUT_SECONDS
    write_threads: Annotated[int, Field(ge=1, le=64)] = 4
    read_threads: Annotated[int, Field(ge=1, le=64)] = 1
    write_jobs_max: Annotated[int, Field(ge=1, le=256)] = 16
    read_jobs_max: Annotated[int, Field(ge=1, le=256)] = 16
    durability: Durability = "full"
    engine: Engine = "auto"
    wal_bytes_max: WalBytes = WAL_BYTES_MAX
    delete_grace_seconds: Annotated[float, Field(ge=0, le=_CENTURY_SECONDS, allow_inf_nan=False)] = (
        7 * 86_400.0
    )
    clock_hold_seconds: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 3_600.0
    idempotency_retention_seconds: Annotated[float, Field(gt=0, le=_YEAR_SECONDS, allow_inf_nan=False)] = (
        86_400.0
    )
    snapshot_interval_seconds: Annotated[float, Field(gt=0, le=_CENTURY_SECONDS)] | None = None
    snapshot_jitter_seconds: Annotated[float, Field(ge=0, le=86_400)] = 600.0
    snapshot_jobs_max: Annotated[int, Field(ge=1, le=64)] = 1
    snapshots_kept_max: Count = 30
    snapshot_age_seconds_max: Annotated[float, Field(gt=0, le=_CENTURY_SECONDS)] = 90 * 86_400.0
    fleet_retention_seconds: Annotated[float, Field(gt=0, le=_CENTURY_SECONDS, allow_inf_nan=False)] = (
        90 * 86_400.0
    )
    catalog_poll_interval_seconds: Annotated[float, Field(gt=0, le=1)] = 0.5
    shutdown_timeout_seconds: Seconds = 30.0
    forwarding: bool = True
    handed_over_after_calls: Count = 64

    @classmethod
    def from_environment(cls, **given: Any) -> Self:
        """Return the given settings, and read all other settings from environment variables such as ``TENANTRY_DATA_DIR``.

        An empty variable counts as not set.

        Raises:
            SettingsError: A value is not valid, or the environment has a ``TENANTRY_…`` variable with an unknown name.
        """
        read = read_settings(cls.model_fields)
        try:
            return cls(**(read | given))
        except ValidationError as error:
            found = "; ".join(_sentence(detail["loc"], detail["msg"], given) for detail in error.errors())
            raise SettingsError(f"the settings cannot be used: {found}") from error

    @property
    def catalog_backend(self) -> str:
        """The name of the back end that keeps the catalog."""
        return SQLITE if self.database is None else POSTGRES

    @property
    def new_tenants_backend(self) -> str:
        """The name of the back end that new tenants get by default."""
        return self.default_backend or self.catalog_backend

    @property
    def all_databases(self) -> dict[str, PostgresConfig]:
        """Every database, by the name of its back end."""
        own = {} if self.database is None else {POSTGRES: self.database}
        return own | dict(self.databases)

    @property
    def threads_max(self) -> int:
        """The number of threads, including the catalog's thread. Each job that takes too long adds a thread until the job ends."""
        return self.write_threads + self.read_threads + 1

    @field_validator("database", "databases", mode="before")
    @classmethod
    def _hide_urls(cls, given: object) -> object:
        """Hide each URL before it is checked, because the details of a validation error have the value."""
        if isinstance(given, str):
            return {"url": SecretStr(given)}
        if isinstance(given, Mapping) and "url" not in given:
            return {
                name: {"url": SecretStr(one)} if isinstance(one, str) else one for name, one in given.items()
            }
        return given

    @field_validator("databases")
    @classmethod
    def _check_names(cls, databases: Mapping[str, PostgresConfig]) -> Mapping[str, PostgresConfig]:
        for name in databases:
            if name in {SQLITE, POSTGRES} or _BACKEND_NAME.fullmatch(name) is None:
                raise ValueError(
                    f"{name!r} cannot be the name of a database: use up to 31 lower-case letters, digits and '_', begin with a "
                    f"letter, and do not use {SQLITE!r} or {POSTGRES!r}"
                )
        return databases

    @field_validator("data_dir", mode="before")
    @classmethod
    def _check_named(cls, path: object) -> object:
        if path == "":
            raise ValueError("the path is empty: name a directory")
        return path

    @field_validator("data_dir")
    @classmethod
    def _make_absolute(cls, path: Path) -> Path:
        # A later change of the working directory must not change where tenants are opened.
        return path.absolute()

    @model_validator(mode="before")
    @classmethod
    def _fit_defaults(cls, data: object) -> object:
        """Lower each default to the setting that limits the default: a short ``call_timeout_seconds`` is then valid alone."""
        if not isinstance(data, dict):
            return data
        fitted = dict(data)
        for name, bound, default in _BOUNDED:
            if name not in data and bound in data:
                # The field's own check refuses a value that is not a number.
                with contextlib.suppress(TypeError, ValueError):
                    fitted[name] = min(default, type(default)(data[bound]))
        on_server = fitted.get("default_backend") or (POSTGRES if fitted.get("database") else SQLITE)
        if "open_tenants_max" not in data and on_server != SQLITE:
            fitted["open_tenants_max"] = SERVER_OPEN_TENANTS_MAX
        return fitted

    @model_validator(mode="after")
    def _check_default_backend(self) -> Self:
        names = [SQLITE, *self.all_databases]
        if self.new_tenants_backend not in names:
            raise ValueError(
                f"default_backend is {self.default_backend!r}, but the settings have only {', '.join(names)}: name one of these, or "
                f"set {database_variable(self.new_tenants_backend)}"
            )
        return self

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.batch_requests_max > self.mailbox_requests_max:
            raise ValueError(
                f"batch_requests_max ({self.batch_requests_max}) is larger than mailbox_requests_max "
                f"({self.mailbox_requests_max}): lower the first or raise the second"
            )
        if self.transaction_timeout_seconds > self.call_timeout_seconds:
            raise ValueError(
                f"transaction_timeout_seconds ({self.transaction_timeout_seconds:g}) is longer than "
                f"call_timeout_seconds ({self.call_timeout_seconds:g}), so calls that wait for a transaction would all time "
                "out: lower the first or raise the second"
            )
        if self.pool_wait_timeout_seconds > self.call_timeout_seconds:
            raise ValueError(
                f"pool_wait_timeout_seconds ({self.pool_wait_timeout_seconds:g}) is longer than call_timeout_seconds "
                f"({self.call_timeout_seconds:g}), so it would have no effect: lower the first or raise the second"
            )
        return self


def database_variable(backend: str) -> str:
    """Return the environment variable that names the database of a PostgreSQL back end."""
    return variable("database") if backend == POSTGRES else variable("databases", backend)


def _sentence(place: tuple[int | str, ...], message: str, given: Mapping[str, object]) -> str:
    """Return the error message for settings, with the settings' names as the user wrote them."""
    named = list(map(str, place))
    if place and place[0] not in given:
        is_entry = place[0] == "databases" and len(place) > 1
        named = [database_variable(str(place[1])) if is_entry else variable(str(place[0]))]
        if place[0] in {"database", "databases"} and (option := url_option(str(place[-1]))) is not None:
            named.append(option)
    return ": ".join([*named, message.removeprefix("Value error, ")])
