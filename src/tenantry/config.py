"""Settings: frozen, checked together, with units in their names."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tenantry.environment import read_settings, variable
from tenantry.errors import SettingsError
from tenantry.schemas.connect_hook import ConnectHook

Durability: TypeAlias = Literal["full", "normal"]
"""``full``: an acknowledged write survives a loss of power. ``normal``: it survives the end of the process, and a loss of
power may take the last moments' writes. SQLite's ``synchronous``
(https://www.sqlite.org/pragma.html#pragma_synchronous)."""

MEMORY_PATH = ":memory:"
JOURNAL_SIZE_LIMIT_BYTES = 64 * 1024 * 1024
WAL_BYTES_MAX = 2 * JOURNAL_SIZE_LIMIT_BYTES
BATCH_REQUESTS_MAX = 64
TRANSACTION_TIMEOUT_SECONDS = 10.0
POOL_WAIT_TIMEOUT_SECONDS = 10.0
_YEAR_SECONDS = 366 * 86_400
_CENTURY_SECONDS = 100 * 365 * 86_400  # what a date can still be computed with

Seconds: TypeAlias = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
WalBytes: TypeAlias = Annotated[int, Field(ge=64 * 1024, le=2**40)]
Count: TypeAlias = Annotated[int, Field(ge=1, le=1_000_000)]


class SQLiteConfig(BaseModel):
    """Where a SQLite database lies and how it is opened.

    Attributes:
        path: The file, or ``:memory:`` for a database that ends with its connection.
        wal_mode: Write-ahead log, so that reads go on beside a write; otherwise a rollback journal.
        journal_size_limit: What the write-ahead log is cut back to, in bytes.
        wal_bytes_max: How long the write-ahead log may become. Then reads wait until it is written into the database.
        on_connect: They add functions and collations to each connection; those of the schema packs run first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    wal_mode: bool = True
    journal_size_limit: int = Field(default=JOURNAL_SIZE_LIMIT_BYTES, ge=0, le=2**40)
    wal_bytes_max: WalBytes = WAL_BYTES_MAX
    on_connect: tuple[ConnectHook, ...] = ()

    @field_validator("path", mode="before")
    @classmethod
    def _check_path(cls, value: object) -> object:
        text = str(value) if isinstance(value, Path) else value
        if not isinstance(text, str):
            return text
        if not text.strip() or "\0" in text:
            raise ValueError("path must name a file, or be ':memory:'")
        if text.startswith("file:"):
            raise ValueError("path is a plain path: a 'file:' URI could change how the database is opened")
        if ".." in Path(text).parts:
            raise ValueError("path must not contain '..': give the absolute path")
        return text


class PersistenceConfig(BaseModel):
    """Which back end one company's persistence uses when there is no registry around it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: Annotated[str, Field(min_length=1)] = "sqlite"
    sqlite: SQLiteConfig | None = None


# A setting, the one that bounds it, and its default.
_BOUNDED = (
    ("batch_requests_max", "mailbox_requests_max", BATCH_REQUESTS_MAX),
    ("transaction_timeout_seconds", "call_timeout_seconds", TRANSACTION_TIMEOUT_SECONDS),
    ("pool_wait_timeout_seconds", "call_timeout_seconds", POOL_WAIT_TIMEOUT_SECONDS),
)


class RegistryConfig(BaseModel):
    """How a `TenantRegistry` keeps its tenants.

    `from_environment` reads what is not given from the environment; nothing else here does.

    Attributes:
        data_dir: Where everything lies; made if it is missing. On a local disk: the locks need one.
        open_tenants_max: How many tenants are open at once; each costs ``4 + 2 * readers_per_tenant`` open files.
        readers_per_tenant: Read-only connections, and so read batches, of one tenant at a time.
        idle_timeout_seconds: A tenant that nobody used for so long is closed.
        pool_waiters_max: How many callers may wait for a place among the open tenants.
        pool_wait_timeout_seconds: How long each of them waits.
        mailbox_requests_max: How many calls of one tenant may wait, for each of writing and reading.
        batch_requests_max: How many of them share one transaction.
        call_timeout_seconds: A call's deadline, from its open tenant's mailbox to its answer; opening a tenant has the
            same again.
        transaction_timeout_seconds: How long ``transaction()`` may hold its tenant's writer.
        write_threads: How many threads open, write and close, for all tenants together.
        read_threads: How many threads read, for all tenants together.
        write_jobs_max: How many tenants' write batches are with those threads at the same moment, running or next.
        read_jobs_max: How many tenants' read batches are.
        durability: When a write is acknowledged, see `Durability`.
        wal_bytes_max: How long the write-ahead log of a tenant may become. Then its reads wait until the log is written into the
            database.
        delete_grace_seconds: How long a deleted tenant can be brought back.
        clock_hold_seconds: After the machine's clock leapt, how long nothing is deleted because of its age.
        idempotency_retention_seconds: How long a write's idempotency key is kept; longer than anyone repeats the write.
        snapshot_interval_seconds: How often each active tenant's snapshot is taken; never by itself if left out.
        snapshot_jitter_seconds: By how much each of these moments is moved at random, so that a fleet does not start at once.
        snapshot_jobs_max: How many scheduled snapshots are taken at once.
        snapshots_kept_max: How many snapshots are kept of each tenant.
        snapshot_age_seconds_max: How long; but the newest is always kept.
        fleet_retention_seconds: How long a fleet job that has ended is kept, with its tenants' outcomes.
        catalog_poll_interval_seconds: How soon an open tenant notices what another process did to it.
        shutdown_timeout_seconds: How long closing waits for calls that were taken in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Path
    open_tenants_max: Count = 128
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
    write_jobs_max: Annotated[int, Field(ge=1, le=256)] = 8
    read_jobs_max: Annotated[int, Field(ge=1, le=256)] = 8
    durability: Durability = "full"
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

    @classmethod
    def from_environment(cls, **given: Any) -> Self:
        """Return settings, and read those that are not given from the environment: ``TENANTRY_`` and the name in capitals.

        An empty variable counts as not set.

        Raises:
            SettingsError: A value cannot be used, or the environment has a ``TENANTRY_…`` variable with an unknown name.
        """
        read = read_settings(cls.model_fields)
        try:
            return cls(**(read | given))
        except ValidationError as error:
            found = "; ".join(_sentence(detail["loc"], detail["msg"], given) for detail in error.errors())
            raise SettingsError(f"the settings cannot be used: {found}") from error

    @property
    def threads_max(self) -> int:
        """How many threads there are, with the catalog's one; each job that takes too long adds one while it lasts."""
        return self.write_threads + self.read_threads + 1

    @field_validator("data_dir", mode="before")
    @classmethod
    def _check_named(cls, path: object) -> object:
        if path == "":
            raise ValueError("the path is empty: name a directory")
        return path

    @field_validator("data_dir")
    @classmethod
    def _make_absolute(cls, path: Path) -> Path:
        # Once: a tenant that is opened after the process changed its directory must not be looked for elsewhere.
        return path.absolute()

    @model_validator(mode="before")
    @classmethod
    def _fit_defaults(cls, data: object) -> object:
        """Lower the defaults that a given limit bounds: a single short ``call_timeout_seconds`` contradicts nothing."""
        if not isinstance(data, dict):
            return data
        fitted = dict(data)
        for name, bound, default in _BOUNDED:
            if name not in data and bound in data:
                # What is no number is refused by its own field.
                with contextlib.suppress(TypeError, ValueError):
                    fitted[name] = min(default, type(default)(data[bound]))
        return fitted

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.batch_requests_max > self.mailbox_requests_max:
            raise ValueError(
                f"batch_requests_max ({self.batch_requests_max}) is more than a mailbox holds: lower it to "
                f"mailbox_requests_max ({self.mailbox_requests_max}) or raise that"
            )
        if self.transaction_timeout_seconds > self.call_timeout_seconds:
            raise ValueError(
                f"transaction_timeout_seconds ({self.transaction_timeout_seconds:g}) is longer than "
                f"call_timeout_seconds ({self.call_timeout_seconds:g}), so the calls waiting behind one transaction would "
                "all time out: lower the first or raise the second"
            )
        if self.pool_wait_timeout_seconds > self.call_timeout_seconds:
            raise ValueError(
                f"pool_wait_timeout_seconds ({self.pool_wait_timeout_seconds:g}) is longer than call_timeout_seconds "
                f"({self.call_timeout_seconds:g}), so it could never pass: lower the first or raise the second"
            )
        return self


def _sentence(place: tuple[int | str, ...], message: str, given: Mapping[str, object]) -> str:
    """Return what is wrong with a setting, named as its user wrote it, or with several settings together."""
    named = [str(part) if part in given else variable(str(part)) for part in place]
    return ": ".join([*named, message.removeprefix("Value error, ")])
