"""The record of a tenant in the catalog."""

from datetime import datetime
from typing import Final

from pydantic import BaseModel, ConfigDict

from tenantry.errors import TenantNotFoundError
from tenantry.ids import TenantId
from tenantry.lifecycle import Permission, TenantEvent, TenantState, no_such_tenant
from tenantry.limits import TenantLimits
from tenantry.storage.protocol import Place

OBJECTS_LEFT: Final = "objects_left"
"""The argument of a purge with the number of snapshot objects that could not be deleted; empty if the number is unknown."""

SERVED: Final = "is_served"
"""The argument of an operation during which callers are served; None or missing if callers are refused."""


class Intent(BaseModel):
    """A lifecycle operation that has started but not ended, with the data to finish or roll back the operation.

    Attributes:
        arguments: The operation's arguments, and the decisions that it made before its first step.
    """

    model_config = ConfigDict(frozen=True)

    action: str
    arguments: dict[str, str | None] = {}
    begun_at: datetime

    @property
    def is_served(self) -> bool:
        """Whether the tenant serves its callers during the operation."""
        return self.arguments.get(SERVED) is not None


class TenantRecord(BaseModel):
    """A tenant's record in the catalog. `TenantHandle` reads and writes the tenant's data.

    Attributes:
        id: The id that callers use.
        uid: The tenant's permanent key; the tenant's database also contains this key.
        backend: The name of the back end that stores the tenant's database.
        location: The name of the tenant's directory below ``tenants/<2 hex>/`` (SQLite); unchanged by a rename.
        display_name: The name that people see.
        state: The tenant's lifecycle state.
        reason: The reason for the state, if an operator gave one.
        state_before: The state before the deletion, if the tenant is deleted.
        reason_before: The reason for `state_before`.
        created_at, state_changed_at: Instants in UTC.
        purge_after: The end of the grace period, if the tenant is deleted.
        schema_versions: The version of each schema pack when the tenant was last opened.
        last_error: The error of the last opening; None if the opening succeeded.
        revision: A number that increases with every change of state, id, limits and other settings.
        intent: The lifecycle operation that has started but not ended; None if no operation is running or unfinished.
        previous_id: The tenant's id before the last rename.
        deletion_protected: Whether `delete` is refused.
        limits: The tenant's limits.
        restore_point: The file that the last restore replaced; None if there is no restore to undo.
        snapshot_due_at: The time of the next scheduled snapshot.
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
    def is_served(self) -> bool:
        """Whether callers may open the tenant: its state allows calls, and no operation needs the database for itself."""
        return self.state.allows(Permission.READ) and (self.intent is None or self.intent.is_served)

    @property
    def is_under_way(self) -> bool:
        """Whether an operation of the tenant has started but not ended, in this or another process."""
        return self.intent is not None or self.state.allows(TenantEvent.PROVISION)

    @property
    def place(self) -> Place:
        """The place of the tenant's database, for the back end."""
        return Place(self.id, self.uid, self.location)

    def is_at_place_of(self, other: "TenantRecord") -> bool:
        """Return whether both records name the same database: the same tenant's, on the same back end, at the same location."""
        return (self.uid, self.backend, self.location) == (other.uid, other.backend, other.location)


def not_found(tenant_id: TenantId, found: TenantRecord | None = None) -> TenantNotFoundError:
    """Return the error for a call to a tenant that does not exist or is purged."""
    left = (
        found.intent.arguments.get(OBJECTS_LEFT) if found is not None and found.intent is not None else None
    )
    if left is not None:
        return TenantNotFoundError(
            f"tenant {tenant_id!r} is purged; {left or 'the'} objects of its snapshots remain, and the id is free after they are "
            "deleted: wait, tenantry retries at least once an hour",
            tenant_id=tenant_id,
        )
    if found is not None and found.intent is not None and not found.state.allows(Permission.EXIST):
        return TenantNotFoundError(
            f"tenant {tenant_id!r} is purged, but some of its files are not removed yet, and the id is free after that: tenantry "
            "retries by itself, and the log has the error",
            tenant_id=tenant_id,
        )
    return no_such_tenant(tenant_id)
