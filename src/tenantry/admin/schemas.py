"""The models of request and response bodies that several routes share."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StringConstraints

from tenantry import texts
from tenantry.ids import ID_PREFIX_PATTERN, TENANT_ID_CHARACTERS_MAX
from tenantry.lifecycle import TenantState, operator_choices
from tenantry.limits import Number, TenantLimits
from tenantry.storage.backends import AskedBackend
from tenantry.storage.protocol import EngineChoice
from tenantry.tenancy.catalog.audit import AdminAuditEntry
from tenantry.tenancy.snapshots.drill import DrillResult
from tenantry.tenancy.snapshots.snapshot import Snapshot
from tenantry.tenancy.tenant_record import TenantRecord

LIST_ITEMS_MAX = 1_000
SNAPSHOT_ID = "20261123t120000000000z-00ff00ff"
"""An example of a snapshot's id."""

TenantIdText = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,46}[a-z0-9])?$", max_length=48),
    Field(
        examples=["acme"],
        description="1 to 48 of the characters a-z, 0-9 and '-', beginning with a letter and not ending with '-'.",
    ),
]
IdPrefix = Annotated[
    str,
    StringConstraints(pattern=ID_PREFIX_PATTERN, max_length=TENANT_ID_CHARACTERS_MAX),
    Field(examples=["acme-"], description="A prefix of tenant ids."),
]
BackendName = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=31),
    Field(
        examples=["sqlite"],
        description="The back end that keeps the tenant's database: `sqlite` (the data directory), `postgres`, or another database of "
        "the service's settings.",
    ),
]
DisplayName = Annotated[texts.DisplayName, Field(examples=["Acme Ltd."])]
Reason = Annotated[texts.Reason, Field(examples=["unpaid since May"])]


class Body(BaseModel):
    """A request body that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid")


class TenantOut(BaseModel):
    """A tenant's record in the catalog."""

    id: str = Field(examples=["acme"])
    uid: str = Field(examples=["0f8fad5bd9cb469fa16570867728950e"], description="The tenant's stable key.")
    display_name: str = Field(examples=["Acme Ltd."])
    backend: str = Field(
        examples=["sqlite"],
        description="The back end that keeps the tenant's database: `sqlite` (the data directory), `postgres`, or another database of "
        "the service's settings.",
    )
    state: TenantState
    allows: list[str] = Field(
        description="The state's permissions, such as `read` and `write`, and the transitions that a request can ask for.",
        examples=[list(operator_choices(TenantState.SUSPENDED))],
    )
    reason: str | None = Field(description="The reason for this state, if a reason was given.")
    busy_with: str | None = Field(description="The running operation on the tenant.")
    created_at: datetime
    state_changed_at: datetime
    purge_after: datetime | None
    schema_versions: dict[str, int] = Field(examples=[{"company": 1}])
    last_error: str | None
    deletion_protected: bool
    limits: TenantLimits
    previous_id: str | None
    snapshot_due_at: datetime | None
    revision: int = Field(examples=[1], description="The ETag, as a number.")

    @classmethod
    def of(cls, tenant: TenantRecord) -> Self:
        """Return the model of a tenant."""
        values = {
            name: getattr(tenant, name) for name in cls.model_fields if name not in {"allows", "busy_with"}
        }
        return cls(
            allows=list(operator_choices(tenant.state)),
            busy_with=tenant.intent.action if tenant.intent is not None else None,
            **values,
        )


class OwnerOut(BaseModel):
    """The process that has a tenant open."""

    pid: int = Field(examples=[4711])
    host: str = Field(examples=["web-1"], description="The name of the process's host, or of its container.")


class OneTenantOut(TenantOut):
    """A tenant's record in the catalog, with the process that has the tenant open."""

    owner: OwnerOut | None = Field(
        default=None,
        description="The process that has the tenant open; null while the tenant is closed, and on PostgreSQL, where several processes "
        "may have a tenant open.",
    )


class TenantPage(BaseModel):
    """A page of tenants, ordered by id."""

    items: Sequence[TenantOut]
    next_cursor: str | None = Field(
        description="The `cursor` parameter of the next page; null on the last page."
    )


class CreateTenantRequest(Body):
    """A tenant to create."""

    id: TenantIdText
    display_name: DisplayName | None = None
    backend: BackendName | None = None
    if_not_exists: StrictBool = Field(
        default=False,
        description="Whether to respond with 200 and the existing tenant if the tenant exists and is not deleted.",
    )


class UpdateTenantRequest(Body):
    """Settings to change; omitted settings stay unchanged."""

    display_name: DisplayName | None = None
    deletion_protected: StrictBool | None = None
    limits: TenantLimits | None = Field(
        default=None,
        examples=[{"calls_per_second_max": 100, "calls_burst_max": 200}],
        description="The tenant's new limits, which replace all limits. An omitted limit is removed.",
    )


class ReasonRequest(Body):
    """An operator's reason for an action, such as suspending a tenant or pausing a job."""

    reason: Reason | None = None


def reason_of(body: ReasonRequest | None) -> str | None:
    """Return the reason in an optional body."""
    return None if body is None else body.reason


class PurgeRequest(Body):
    """The options of a purge."""

    force: StrictBool = Field(default=False, description="Whether to purge even during the grace period.")


class RenameRequest(Body):
    """A tenant's new id."""

    new_id: TenantIdText


class MoveRequest(Body):
    """The back end to which a tenant moves."""

    to: BackendName


class CloneRequest(Body):
    """A tenant to create with a copy of this tenant's data."""

    new_id: TenantIdText
    snapshot_id: str | None = Field(
        default=None,
        max_length=80,
        examples=[SNAPSHOT_ID],
        description="The snapshot to clone; by default the tenant's current data.",
    )
    display_name: DisplayName | None = None
    backend: BackendName | None = None


class SnapshotPage(BaseModel):
    """A tenant's snapshots, newest first."""

    items: Sequence[Snapshot]
    damaged: Sequence[str] = Field(
        default=(), description="The ids of snapshots whose manifests are damaged. Delete these snapshots."
    )


class RestorePoint(Body):
    """A database that a restore replaced."""

    id: str = Field(
        description="The id to pass to a restore.",
        examples=["before-20261126t120000000000z-9f86d081"],
    )


class RestorePointList(Body):
    """The databases that restores have replaced and kept, oldest first."""

    items: Sequence[RestorePoint]


class StorageClaimed(Body):
    """A snapshot storage that this service's data directory now owns."""

    location: str = Field(examples=["s3://backups/tenantry"])
    taken_from: str | None = Field(
        description="The former owner, a data directory, with the start of its ownership; null for an unowned storage.",
        examples=["the data directory /srv/tenantry on db1 (since 2026-11-26 12:00 UTC)"],
    )


class DrillRequest(Body):
    """The options of a drill, which restores snapshots for a test."""

    sample: Annotated[int, Number] = Field(
        default=10, ge=1, le=1_000, description="The number of active tenants, chosen at random."
    )


class DrillOut(BaseModel):
    """The result of a drill."""

    is_ok: bool = Field(description="Whether every chosen tenant's snapshot could be restored.")
    results: Sequence[DrillResult]


class ChannelLoad(BaseModel):
    """The counters of a tenant's reads or writes since the tenant was opened."""

    waiting_requests: int = Field(validation_alias="mailbox_requests")
    running_requests: int
    calls: int
    batches: int
    refused: int
    timed_out: int


class TenantStatisticsOut(BaseModel):
    """A tenant's load and size."""

    tenant_id: str
    is_open: bool = Field(
        description="Whether the tenant is open, in any process. The counters of a tenant that is closed, or whose process does not answer, "
        "are null."
    )
    database_bytes: int = Field(description="The size of the database with its write-ahead log.")
    write: ChannelLoad | None
    read: ChannelLoad | None


class StatisticsList(BaseModel):
    """Several tenants' load and size, in the order of the request."""

    items: Sequence[TenantStatisticsOut]


class TenantLoad(BaseModel):
    """One tenant's rate of calls."""

    tenant_id: str
    calls_per_second: float = Field(description="The tenant's calls in this process over the last minute.")


class TopTenantsOut(BaseModel):
    """The tenants with the most calls, busiest first."""

    items: Sequence[TenantLoad]


class AuditEntryOut(AdminAuditEntry):
    """One row of the audit."""


class AuditPage(BaseModel):
    """A page of the audit, newest first."""

    items: Sequence[AuditEntryOut]
    next_cursor: str | None


class AuditVerificationOut(BaseModel):
    """The result of verifying the audit's hash chain."""

    is_intact: bool
    rows: int
    hash: str
    problem: str | None


class BackendOut(BaseModel):
    """A back end, which keeps tenants' databases."""

    name: str = Field(
        examples=["sqlite"], description="The name in the settings and in `backend` of a tenant."
    )
    dialect: str = Field(examples=["sqlite"], description="The database engine: `sqlite` or `postgres`.")
    version: str = Field(
        examples=["3.45.1"], description="The engine's version; empty if the server cannot be asked."
    )
    details: dict[str, str] = Field(
        examples=[{}], description="Further facts, such as the server's address, without secrets."
    )
    problem: str | None = Field(default=None, description="The reason why the server cannot be asked.")

    @classmethod
    def of(cls, asked: AskedBackend) -> Self:
        """Return the model of a back end."""
        report = asked.report
        return cls(
            name=asked.name,
            dialect=asked.dialect,
            version="" if report is None else report.version,
            details={} if report is None else dict(report.details),
            problem=None if asked.error is None else str(asked.error),
        )


class EngineOut(BaseModel):
    """The engine that runs the statements of SQLite databases in the process that answers."""

    name: Literal["native", "python"] = Field(
        description="`native`: the engine in C, without the interpreter's lock. `python`: Python's sqlite3."
    )
    reason: str | None = Field(
        examples=[None], description="Why the engine is not `native`, and what to do about it."
    )
    sqlite_version: str = Field(examples=["3.45.1"], description="The version of the SQLite library.")

    @classmethod
    def of(cls, choice: EngineChoice) -> Self:
        """Return the model of an engine."""
        return cls(name=choice.name, reason=choice.reason, sqlite_version=choice.sqlite_version)


class VersionOut(BaseModel):
    """The versions and settings of the service."""

    tenantry: str
    backend: str = Field(description="The database engine of new tenants.")
    backend_version: str
    backends: list[BackendOut] = Field(
        description="The back ends; the first one is the default of new tenants."
    )
    catalog_backend: str = Field(
        examples=["sqlite"], description="The name of the back end that keeps the catalog."
    )
    engine: EngineOut
    settings: dict[str, Any] = Field(description="The `RegistryConfig`; a setting's name contains its unit.")
    states: dict[TenantState, list[str]] = Field(
        description="The lifecycle states in order, each with its permissions and transitions; see `allows` of a tenant."
    )


def states_out() -> dict[TenantState, list[str]]:
    """Return every lifecycle state with its permissions and transitions."""
    return {state: list(operator_choices(state)) for state in TenantState}
