"""A tenant as a record of the catalog."""

from datetime import datetime
from typing import Final

from pydantic import BaseModel, ConfigDict

from tenantry.errors import TenantNotFoundError
from tenantry.ids import TenantId
from tenantry.lifecycle import Permission, TenantEvent, TenantState, no_such_tenant
from tenantry.limits import TenantLimits
from tenantry.storage.protocol import Place

OBJECTS_LEFT: Final = "objects_left"
"""The argument of a purge's intent that says how many objects of snapshots could not be deleted; empty if nobody knows."""


class Intent(BaseModel):
    """A lifecycle operation that was begun and has not ended: what is needed to finish it, or to take it back.

    Attributes:
        arguments: What it was called with, and what it decided before its first step.
    """

    model_config = ConfigDict(frozen=True)

    action: str
    arguments: dict[str, str | None] = {}
    begun_at: datetime


class TenantRecord(BaseModel):
    """One tenant in the catalog: a value. `TenantHandle` is the handle that reads and writes the tenant's data.

    Attributes:
        id: What callers use.
        uid: Stable for life; its database carries it too.
        backend: The name of the back end that keeps its database.
        location: Where the back end keeps it; of SQLite, the name of a directory below ``tenants/<2 hex>/``. A rename does not change it.
        display_name: For people.
        state: Where it is in its life.
        reason: Why it is in that state, where someone said so.
        state_before: Of a deleted tenant, the state it had.
        reason_before: Of a deleted tenant, the reason of `state_before`.
        created_at, state_changed_at: Instants in UTC.
        purge_after: Of a deleted tenant, the end of its grace period.
        schema_versions: The version that each schema was at when the tenant was last opened.
        last_error: What went wrong when it was last opened, None after it went well.
        revision: Raised by every change of what an operator decides on: state, id, limits and the like.
        intent: The lifecycle operation that is under way, None in between.
        previous_id: The id before the last rename.
        deletion_protected: Whether `delete` is refused.
        limits: What it may use.
        restore_point: The file that the last restore replaced, None when there is nothing to undo.
        snapshot_due_at: When the schedule next takes a snapshot.
    """

    model_config = ConfigDict(frozen=True)

    id: TenantId
    uid: str
    backend: str = "sqlite"
    location: str
    display_name: str
    state: TenantState
    reason: str | None = None
    state_before: TenantState | None = None
    reason_before: str | None = None
    created_at: datetime
    state_changed_at: datetime
    purge_after: datetime | None = None
    schema_versions: dict[str, int] = {}
    last_error: str | None = None
    revision: int = 1
    intent: Intent | None = None
    previous_id: TenantId | None = None
    deletion_protected: bool = False
    limits: TenantLimits = TenantLimits()
    restore_point: str | None = None
    snapshot_due_at: datetime | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether an operation of the tenant was begun and has not ended, in this process or another."""
        return self.intent is not None or self.state.allows(TenantEvent.PROVISION)

    @property
    def place(self) -> Place:
        """Where its database is, for the back end."""
        return Place(self.id, self.uid, self.location)


def not_found(tenant_id: TenantId, found: TenantRecord | None = None) -> TenantNotFoundError:
    """Return the error of a call on a tenant that is not there."""
    left = (
        found.intent.arguments.get(OBJECTS_LEFT) if found is not None and found.intent is not None else None
    )
    if left is not None:
        return TenantNotFoundError(
            f"tenant {tenant_id!r} is purged; {left or 'the'} objects of its snapshots remain, and the id is free when they are "
            "gone: tenantry tries again to delete them, at least once an hour",
            tenant_id=tenant_id,
        )
    if found is not None and found.intent is not None and not found.state.allows(Permission.EXIST):
        return TenantNotFoundError(
            f"tenant {tenant_id!r} is purged, but not all of its files are removed, and the id is free when they are: tenantry tries "
            "again and again, and the log says what is in the way",
            tenant_id=tenant_id,
        )
    return no_such_tenant(tenant_id)
