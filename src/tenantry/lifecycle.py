"""The life of a tenant as a table: states, events, and where each event leads. No I/O.

The diagram in ``docs/architecture.md`` is printed from this table: ``python -m tenantry.lifecycle``.
"""

from enum import StrEnum
from typing import Final

from tenantry.errors import (
    TenantDeletedError,
    TenantNotFoundError,
    TenantQuarantinedError,
    TenantStateError,
    TenantSuspendedError,
)


class TenantState(StrEnum):
    """Where a tenant is in its life."""

    PROVISIONING = "provisioning"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    ARCHIVED = "archived"
    QUARANTINED = "quarantined"
    DELETED = "deleted"
    PURGED = "purged"


class TenantEvent(StrEnum):
    """What can happen to a tenant."""

    PROVISION = "provision"
    ABORT = "abort"
    SUSPEND = "suspend"
    RESUME = "resume"
    ARCHIVE = "archive"
    UNARCHIVE = "unarchive"
    QUARANTINE = "quarantine"
    REPAIR = "repair"
    DELETE = "delete"
    UNDELETE = "undelete"
    PURGE = "purge"


S = TenantState
E = TenantEvent

TRANSITIONS: Final[dict[tuple[TenantState, TenantEvent], TenantState]] = {
    (S.PROVISIONING, E.PROVISION): S.ACTIVE,
    (S.PROVISIONING, E.ABORT): S.PURGED,
    (S.ACTIVE, E.SUSPEND): S.SUSPENDED,
    (S.ACTIVE, E.ARCHIVE): S.ARCHIVED,
    (S.ACTIVE, E.QUARANTINE): S.QUARANTINED,
    (S.ACTIVE, E.DELETE): S.DELETED,
    (S.SUSPENDED, E.RESUME): S.ACTIVE,
    (S.SUSPENDED, E.ARCHIVE): S.ARCHIVED,
    (S.SUSPENDED, E.DELETE): S.DELETED,
    (S.ARCHIVED, E.UNARCHIVE): S.ACTIVE,
    (S.ARCHIVED, E.DELETE): S.DELETED,
    (S.QUARANTINED, E.REPAIR): S.ACTIVE,
    (S.QUARANTINED, E.DELETE): S.DELETED,
    # Undelete leads back to the state before; `next_state` is told which that was.
    (S.DELETED, E.UNDELETE): S.ACTIVE,
    (S.DELETED, E.PURGE): S.PURGED,
}


def next_state(
    state: TenantState, event: TenantEvent, *, tenant_id: str, before_delete: TenantState | None = None
) -> TenantState:
    """Return where `event` leads from `state`; a state that the event already led to stays, so calls can be repeated.

    Args:
        state: Where the tenant is.
        event: What happens.
        tenant_id: Named in the error.
        before_delete: Where a deleted tenant was before; undelete leads back there.

    Raises:
        TenantStateError: There is no such transition; it names the state and the event.
    """
    target = TRANSITIONS.get((state, event))
    if target is not None:
        return before_delete or target if event is E.UNDELETE else target
    if any(leads_to is state for (_, e), leads_to in TRANSITIONS.items() if e is event):
        return state
    # Undelete led back to one of the states that can be deleted: to which of them, no table knows.
    if event is E.UNDELETE and (state, E.DELETE) in TRANSITIONS:
        return state
    allowed = ", ".join(e for s, e in TRANSITIONS if s is state) or "nothing"
    error_type = _REFUSALS[state][0] if state in _REFUSALS else TenantStateError
    raise error_type(
        f"tenant {tenant_id!r} is {state}: {event} is not possible (possible: {allowed})",
        tenant_id=tenant_id,
        state=state,
        event=event,
    )


def check_serves(state: TenantState, *, tenant_id: str, reason: str | None = None) -> None:
    """Raise unless a tenant in this state serves repository calls.

    Raises:
        TenantSuspendedError: Suspended.
        TenantDeletedError: Deleted, in its grace period.
        TenantQuarantinedError: Quarantined.
        TenantNotFoundError: Not there yet, or purged.
        TenantStateError: Archived.
    """
    if state is S.ACTIVE:
        return
    if state in {S.PROVISIONING, S.PURGED}:
        raise TenantNotFoundError(
            f"tenant {tenant_id!r} does not exist: create it first", tenant_id=tenant_id
        )
    error_type, advice = _REFUSALS[state]
    because = f" ({reason})" if reason else ""
    raise error_type(
        f"tenant {tenant_id!r} is {state}{because}: {advice}", tenant_id=tenant_id, state=state, reason=reason
    )


_REFUSALS: Final[dict[TenantState, tuple[type[TenantStateError], str]]] = {
    S.SUSPENDED: (TenantSuspendedError, "resume it first; its data is kept"),
    S.DELETED: (TenantDeletedError, "undelete it within its grace period"),
    S.QUARANTINED: (TenantQuarantinedError, "repair or restore it; its files were left as they are"),
    S.ARCHIVED: (TenantStateError, "unarchive it first; its data is kept"),
}


def diagram() -> str:
    """Return the table as a Mermaid state diagram."""
    lines = [f"    {source} --> {target}: {event}" for (source, event), target in TRANSITIONS.items()]
    return "\n".join(["stateDiagram-v2", f"    [*] --> {S.PROVISIONING}", *lines, f"    {S.PURGED} --> [*]"])


if __name__ == "__main__":
    print(diagram())  # noqa: T201  # its output is what this is run for
