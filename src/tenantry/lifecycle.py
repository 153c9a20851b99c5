"""The life of a tenant as two tables: where each event leads, and what each state allows. No I/O.

No other module decides by comparing states: it asks `TenantState.allows`. A new state is a line in the enumeration, a row in
`STATES`, and its rows in `TRANSITIONS`.

The diagram in ``docs/design.md`` is printed from the table: ``python -m tenantry.lifecycle``.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

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

    def allows(self, what: "Permission | TenantEvent") -> bool:
        """Return whether a tenant in this state allows something, or whether an event can happen to it."""
        if isinstance(what, TenantEvent):
            return (self, what) in TRANSITIONS
        return what in STATES[self].allows


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


class Permission(StrEnum):
    """What a state of a tenant may allow.

    Attributes:
        EXIST: It is found by its id, and the id is taken.
        READ: Repository calls that read, and with them all that opens the tenant for its callers.
        WRITE: Repository calls that write. A state that allows this allows `READ`.
        STAY_OPEN: It may stay open in a process.
        MIGRATE: A fleet job may migrate it.
        COPY: Its data can be copied: snapshots, clones and bundles; it has a database and may have snapshots.
        CHECK: A fleet job may check its database; without `SERVE`, on the closed file.
        RESTORE: Its database can be exchanged: restore, undo-restore and replace-file.
        CHANGE: An operator may change its id, name, protection and limits.
    """

    EXIST = "exist"
    READ = "read"
    WRITE = "write"
    STAY_OPEN = "stay_open"
    MIGRATE = "migrate"
    COPY = "copy"
    CHECK = "check"
    RESTORE = "restore"
    CHANGE = "change"


class StateRules(NamedTuple):
    """What a state allows, and how it refuses repository calls.

    Attributes:
        allows: What it allows, beside the events of `TRANSITIONS`.
        refusal: The error of what is refused; None for a state whose callers are told that the tenant does not exist.
        advice: What a caller that is refused is to do.
    """

    allows: frozenset[Permission]
    refusal: type[TenantStateError] | None = None
    advice: str = ""


S = TenantState
E = TenantEvent
P = Permission

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

_WITH_DATA: Final = frozenset({P.EXIST, P.COPY, P.CHECK, P.RESTORE, P.CHANGE})

STATES: Final[Mapping[TenantState, StateRules]] = {
    S.PROVISIONING: StateRules(frozenset({P.EXIST, P.STAY_OPEN})),
    S.ACTIVE: StateRules(_WITH_DATA | {P.READ, P.WRITE, P.STAY_OPEN, P.MIGRATE}),
    S.SUSPENDED: StateRules(_WITH_DATA, TenantSuspendedError, "resume it first; its data is kept"),
    S.ARCHIVED: StateRules(_WITH_DATA, TenantStateError, "unarchive it first; its data is kept"),
    S.QUARANTINED: StateRules(
        _WITH_DATA, TenantQuarantinedError, "repair or restore it; its files were left as they are"
    ),
    S.DELETED: StateRules(
        frozenset({P.EXIST, P.COPY, P.CHANGE}), TenantDeletedError, "undelete it within its grace period"
    ),
    S.PURGED: StateRules(frozenset()),
}

_INTERNAL: Final = frozenset({P.STAY_OPEN, E.PROVISION, E.ABORT})
"""What no operator asks for."""


def states_that_allow(what: Permission | TenantEvent) -> tuple[TenantState, ...]:
    """Return the states that allow something, or from which an event leads on, in the order of a tenant's life."""
    return tuple(state for state in TenantState if state.allows(what))


def operator_choices(state: TenantState) -> tuple[str, ...]:
    """Return what an operator may ask of a tenant in this state: permissions, then events."""
    return tuple(
        what.value for what in (*Permission, *TenantEvent) if what not in _INTERNAL and state.allows(what)
    )


def has_happened(state: TenantState, event: TenantEvent) -> bool:
    """Return whether the event leads to this state, so that a repeated request changes nothing."""
    if any(leads_to is state for (_, e), leads_to in TRANSITIONS.items() if e is event):
        return True
    # Undelete leads back to one of the states that can be deleted; which of them, the table does not know.
    return event is E.UNDELETE and state.allows(E.DELETE)


def next_state(
    state: TenantState, event: TenantEvent, *, tenant_id: str, before_delete: TenantState | None = None
) -> TenantState:
    """Return where `event` leads from `state`; a state that the event already led to stays, so requests can be repeated.

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
    if has_happened(state, event):
        return state
    allowed = ", ".join(e for s, e in TRANSITIONS if s is state) or "nothing"
    error_type = STATES[state].refusal or TenantStateError
    raise error_type(
        f"tenant {tenant_id!r} is {state}: {event} is not possible (possible: {allowed})",
        tenant_id=tenant_id,
        state=state,
        event=event,
    )


def no_such_tenant(tenant_id: str) -> TenantNotFoundError:
    """Return the error of a call on a tenant that was never created, or is purged."""
    return TenantNotFoundError(
        f"tenant {tenant_id!r} does not exist: check the id in the list of tenants", tenant_id=tenant_id
    )


def check_allows(
    state: TenantState, permission: Permission, *, tenant_id: str, reason: str | None = None
) -> None:
    """Raise unless a tenant in this state allows what a caller asks for.

    Args:
        state: Where the tenant is.
        permission: What the caller asks for.
        tenant_id: Named in the error.
        reason: Why the tenant is in that state, where an operator said so.

    Raises:
        TenantSuspendedError: Suspended.
        TenantDeletedError: Deleted, in its grace period.
        TenantQuarantinedError: Quarantined.
        TenantNotFoundError: Not created yet, or purged.
        TenantStateError: Archived.
    """
    if state.allows(permission):
        return
    rules = STATES[state]
    if rules.refusal is None:
        raise no_such_tenant(tenant_id)
    because = f" ({reason})" if reason else ""
    raise rules.refusal(
        f"tenant {tenant_id!r} is {state}{because}: {rules.advice}",
        tenant_id=tenant_id,
        state=state,
        reason=reason,
    )


def diagram() -> str:
    """Return the table as a Mermaid state diagram."""
    notes = {E.UNDELETE: " (to the state before)"}
    lines = [
        f"    {source} --> {target}: {event}{notes.get(event, '')}"
        for (source, event), target in TRANSITIONS.items()
    ]
    return "\n".join(["stateDiagram-v2", f"    [*] --> {S.PROVISIONING}", *lines, f"    {S.PURGED} --> [*]"])


if __name__ == "__main__":
    print(diagram())  # noqa: T201  # its output is what this is run for
