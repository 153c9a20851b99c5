"""A tenant as the catalog knows it."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from tenantry.ids import TenantId
from tenantry.lifecycle import TenantState


class Tenant(BaseModel):
    """One tenant's entry in the catalog; a value, not a handle.

    Attributes:
        id: What callers use.
        uid: Stable for life; its database carries it too.
        directory: The name of its directory below ``tenants/<2 hex>/``; never moves.
        display_name: For people.
        state: Where it is in its life.
        reason: Why it is in that state, where someone said so.
        state_before: Of a deleted tenant, the state it had.
        created_at, state_changed_at: Instants in UTC.
        purge_after: Of a deleted tenant, the end of its grace period.
        schema_versions: The version that each schema was at when the tenant was last opened.
        last_error: What went wrong when it was last opened, None after it went well.
    """

    model_config = ConfigDict(frozen=True)

    id: TenantId
    uid: str
    directory: str
    display_name: str
    state: TenantState
    reason: str | None = None
    state_before: TenantState | None = None
    created_at: datetime
    state_changed_at: datetime
    purge_after: datetime | None = None
    schema_versions: dict[str, int] = {}
    last_error: str | None = None
