"""The models of request and response bodies that several routes share."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StringConstraints

from tenantry import texts
from tenantry.ids import ID_PREFIX_PATTERN, TENANT_ID_CHARACTERS_MAX
from tenantry.lifecycle import TenantState, operator_choices
from tenantry.limits import Number, TenantLimits
from tenantry.tenancy.catalog.audit import AdminAuditEntry
from tenantry.tenancy.snapshots.drill import DrillResult
from tenantry.tenancy.snapshots.snapshot import Snapshot
from tenantry.tenancy.tenant_record import TenantRecord

LIST_ITEMS_MAX = 1_000
SNAPSHOT_ID = "20261123t120000000000z-00ff00ff"
"""An example."""

TenantIdText = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,46}[a-z0-9])?$", max_length=48),
    Field(
        examples=["acme"],
        description="1 to 48 characters of a-z, 0-9 and inner '-', beginning with a letter.",
    ),
]
IdPrefix = Annotated[
    str,
    StringConstraints(pattern=ID_PREFIX_PATTERN, max_length=TENANT_ID_CHARACTERS_MAX),
    Field(examples=["acme-"], description="The beginning of tenants' ids."),
]
DisplayName = Annotated[texts.DisplayName, Field(examples=["Acme Ltd."])]
Reason = Annotated[texts.Reason, Field(examples=["unpaid since May"])]


class Body(BaseModel):
    """A request body; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class TenantOut(BaseModel):
    """A tenant's record in the catalog."""

    id: str = Field(examples=["acme"])
    uid: str = Field(examples=["0f8fad5bd9cb469fa16570867728950e"], description="Stable: it never changes.")
    display_name: str = Field(examples=["Acme Ltd."])
    state: TenantState
    allows: list[str] = Field(
        description="What this state allows: permissions, such as `read` and `write` for calls, and the transitions that can be asked for. Empty if the tenant was purged.",
        examples=[list(operator_choices(TenantState.SUSPENDED))],
    )
    reason: str | None = Field(description="Why the tenant is in this state, if a reason was given.")
    busy_with: str | None = Field(description="The operation on the tenant that is under way.")
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
        """Return what callers see of a tenant."""
        values = {
            name: getattr(tenant, name) for name in cls.model_fields if name not in {"allows", "busy_with"}
        }
        return cls(
            allows=list(operator_choices(tenant.state)),
            busy_with=tenant.intent.action if tenant.intent is not None else None,
            **values,
        )


class TenantPage(BaseModel):
    """A page of tenants, ordered by id."""

    items: Sequence[TenantOut]
    next_cursor: str | None = Field(
        description="Pass it as `cursor` for the next page; null on the last page."
    )


class CreateTenantRequest(Body):
    """A tenant to create."""

    id: TenantIdText
    display_name: DisplayName | None = None
    if_not_exists: StrictBool = Field(
        default=False,
        description="Respond with the tenant as it is, and 200, if it exists and is not deleted.",
    )


class UpdateTenantRequest(Body):
    """Settings to change; omitted settings stay as they are."""

    display_name: DisplayName | None = None
    deletion_protected: StrictBool | None = None
    limits: TenantLimits | None = Field(
        default=None,
        examples=[{"calls_per_second_max": 100, "calls_burst_max": 200}],
        description="Replaces all limits: an omitted limit is removed.",
    )


class ReasonRequest(Body):
    """Why an operator does something: suspends a tenant, pauses a job."""

    reason: Reason | None = None


def reason_of(body: ReasonRequest | None) -> str | None:
    """Return the reason in a body that may be left out."""
    return None if body is None else body.reason


class PurgeRequest(Body):
    """How to purge a tenant."""

    force: StrictBool = Field(default=False, description="Purge even within the grace period.")


class RenameRequest(Body):
    """A tenant's new id."""

    new_id: TenantIdText


class CloneRequest(Body):
    """A tenant to create with this tenant's data."""

    new_id: TenantIdText
    snapshot_id: str | None = Field(
        default=None,
        max_length=80,
        examples=[SNAPSHOT_ID],
        description="The snapshot to clone; the present data if left out.",
    )
    display_name: DisplayName | None = None


class SnapshotPage(BaseModel):
    """A tenant's snapshots, newest first."""

    items: Sequence[Snapshot]
    damaged: Sequence[str] = Field(
        default=(), description="The ids of snapshots whose manifest is damaged: delete them."
    )


class RestorePoint(Body):
    """A database that a restore replaced."""

    id: str = Field(
        description="Can be restored like a snapshot.", examples=["before-20261126t120000000000z-9f86d081"]
    )


class RestorePointList(Body):
    """The databases that restores replaced and that are still kept, oldest first."""

    items: Sequence[RestorePoint]


class StorageClaimed(Body):
    """A snapshot storage that this service's data directory now owns."""

    location: str = Field(examples=["s3://backups/tenantry"])
    taken_from: str | None = Field(
        description="The former owner, a data directory, and since when; null if there was none.",
        examples=["the data directory /srv/tenantry on db1 (since 2026-11-26 12:00 UTC)"],
    )


class DrillRequest(Body):
    """How many tenants' snapshots to try out."""

    sample: Annotated[int, Number] = Field(
        default=10, ge=1, le=1_000, description="How many active tenants, chosen at random."
    )


class DrillOut(BaseModel):
    """The result of a drill."""

    is_ok: bool = Field(description="Whether the snapshot of every chosen tenant could be restored.")
    results: Sequence[DrillResult]


class ChannelLoad(BaseModel):
    """The counters of a tenant's reads or writes since it was opened."""

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
        description="Whether the tenant is open in this process; if not, its counters are null."
    )
    database_bytes: int = Field(description="Including the write-ahead log.")
    write: ChannelLoad | None
    read: ChannelLoad | None


class StatisticsList(BaseModel):
    """Several tenants' load and size, in the order of the request."""

    items: Sequence[TenantStatisticsOut]


class TenantLoad(BaseModel):
    """One tenant's calls."""

    tenant_id: str
    calls_per_second: float = Field(description="Over the last minute, in this process.")


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


class VersionOut(BaseModel):
    """The versions and settings of the service."""

    tenantry: str
    backend: str = Field(description="The back end of the tenants' databases.")
    backend_version: str
    settings: dict[str, Any] = Field(description="Its `RegistryConfig`; the unit is in a setting's name.")
    states: dict[TenantState, list[str]] = Field(
        description="Every state of a tenant, in the order of its life, and what it allows; see `allows` of a tenant."
    )


def states_out() -> dict[TenantState, list[str]]:
    """Return every state of a tenant with what it allows."""
    return {state: list(operator_choices(state)) for state in TenantState}
