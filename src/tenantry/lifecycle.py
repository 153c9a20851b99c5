"""The states of a tenant as two tables: which state each event leads to, and what each state allows. No I/O.

Other modules never compare states; they call `TenantState.allows`. A new state must be added to the enumeration, to `STATES` and
to `TRANSITIONS`.

``python -m tenantry.lifecycle`` prints the diagram in ``docs/design.md`` from the tables.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple, TypeVar

from tenantry.errors import (
    TenantDeletedError,
    TenantNotFoundError,
    TenantQuarantinedError,
    TenantStateError,
    TenantSuspendedError,
)

StateT = TypeVar("StateT", bound=StrEnum)
EventT = TypeVar("EventT", bound=StrEnum)


class TenantState(StrEnum):
    """The state of a tenant in its life cycle."""

    PROVISIONING = "provisioning"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    ARCHIVED = "archived"
    QUARANTINED = "quarantined"
    DELETED = "deleted"
    PURGED = "purged"

    def allows(self, what: "Permission | TenantEvent") -> bool:
        """Return whether this state grants the permission, or whether the event is possible in this state."""
        if isinstance(what, TenantEvent):
            return (self, what) in TRANSITIONS
        return what in STATES[self].allows


class TenantEvent(StrEnum):
    """An event that changes the state of a tenant."""

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
    """A permission that a state of a tenant can grant.

    Attributes:
        EXIST: The tenant is found by its id, and no other tenant can have the id.
        READ: Repository calls can read, and the tenant can be opened for repository calls.
        WRITE: Repository calls can write. A state that allows `WRITE` also allows `READ`.
        STAY_OPEN: The tenant may stay open in a process.
        MIGRATE: A fleet job may migrate the tenant.
        COPY: The tenant's data can be copied into snapshots, clones and bundles.
        CHECK: A fleet job may check the tenant's database, which is closed for the check if the state does not allow `READ`.
        RESTORE: The tenant's database can be replaced: restore, undo-restore and replace-file.
        MOVE: The tenant can be moved to another back end.
        CHANGE: An operator may change the tenant's id, name, protection and limits.
    """

    EXIST = "exist"
    READ = "read"
    WRITE = "write"
    STAY_OPEN = "stay_open"
    MIGRATE = "migrate"
    COPY = "copy"
    CHECK = "check"
    RESTORE = "restore"
    MOVE = "move"
    CHANGE = "change"


class StateRules(NamedTuple):
    """The permissions of a state, and the error for calls that the state refuses.

    Attributes:
        allows: The permissions of the state. `TRANSITIONS` has the possible events.
        refusal: The class of the error for refused calls; None if such a call gets `TenantNotFoundError`.
        advice: The end of the error's message, which tells the caller what to do.
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
    # Undelete leads back to the state before the deletion, which callers pass to `next_state`.
    (S.DELETED, E.UNDELETE): S.ACTIVE,
    (S.DELETED, E.PURGE): S.PURGED,
}

_WITH_DATA: Final = frozenset({P.EXIST, P.COPY, P.CHECK, P.RESTORE, P.CHANGE})

STATES: Final[Mapping[TenantState, StateRules]] = {
    S.PROVISIONING: StateRules(frozenset({P.EXIST, P.STAY_OPEN})),
    S.ACTIVE: StateRules(_WITH_DATA | {P.READ, P.WRITE, P.STAY_OPEN, P.MIGRATE, P.MOVE}),
    S.SUSPENDED: StateRules(_WITH_DATA | {P.MOVE}, TenantSuspendedError, "resume it first; its data is kept"),
    S.ARCHIVED: StateRules(_WITH_DATA | {P.MOVE}, TenantStateError, "unarchive it first; its data is kept"),
    S.QUARANTINED: StateRules(
        _WITH_DATA, TenantQuarantinedError, "repair or restore it; its files were left as they are"
    ),
    S.DELETED: StateRules(
        frozenset({P.EXIST, P.COPY, P.CHANGE}), TenantDeletedError, "undelete it within its grace period"
    ),
    S.PURGED: StateRules(frozenset()),
}

_INTERNAL: Final = frozenset({P.STAY_OPEN, E.PROVISION, E.ABORT})
"""The permissions and events that operators cannot request."""


def states_that_allow(what: Permission | TenantEvent) -> tuple[TenantState, ...]:
    """Return the states that grant the permission, or in which the event is possible, in the order of a tenant's life cycle."""
    return tuple(state for state in TenantState if state.allows(what))


def operator_choices(state: TenantState) -> tuple[str, ...]:
    """Return what an operator may do to a tenant in this state: first the permissions, then the events."""
    return tuple(
        what.value for what in (*Permission, *TenantEvent) if what not in _INTERNAL and state.allows(what)
    )


def leads_to(transitions: Mapping[tuple[StateT, EventT], StateT], event: EventT, state: StateT) -> bool:
    """Return whether a table has a transition by which the event leads to this state."""
    return any(target is state for (_, possible), target in transitions.items() if possible is event)


def possible_events(transitions: Mapping[tuple[StateT, EventT], StateT], state: StateT) -> str:
    """Return the possible events of this state as a string for messages."""
    return ", ".join(event for source, event in transitions if source is state) or "nothing"


def has_happened(state: TenantState, event: TenantEvent) -> bool:
    """Return whether the event leads to this state: if so, a repeated request changes nothing."""
    # Undelete leads back to the state before the deletion, which can be any state that allows DELETE.
    return leads_to(TRANSITIONS, event, state) or (event is E.UNDELETE and state.allows(E.DELETE))


def next_state(
    state: TenantState, event: TenantEvent, *, tenant_id: str, before_delete: TenantState | None = None
) -> TenantState:
    """Return the state that `event` leads to from `state`, or `state` itself if the event has already happened.

    Args:
        state: The current state of the tenant.
        event: The event.
        tenant_id: The tenant's id, for the error's message.
        before_delete: The state of a deleted tenant before its deletion, to which undelete leads back.

    Raises:
        TenantStateError: The event is not possible in this state.
    """
    target = TRANSITIONS.get((state, event))
    if target is not None:
        return before_delete or target if event is E.UNDELETE else target
    if has_happened(state, event):
        return state
    error_type = STATES[state].refusal or TenantStateError
    raise error_type(
        f"tenant {tenant_id!r} is {state}: {event} is not possible (possible: {possible_events(TRANSITIONS, state)})",
        tenant_id=tenant_id,
        state=state,
        event=event,
    )


def no_such_tenant(tenant_id: str) -> TenantNotFoundError:
    """Return the error for a call to a tenant that was never created or is purged."""
    return TenantNotFoundError(
        f"tenant {tenant_id!r} does not exist: check the id in the list of tenants", tenant_id=tenant_id
    )


def check_allows(
    state: TenantState, permission: Permission, *, tenant_id: str, reason: str | None = None
) -> None:
    """Raise an error if the state does not grant the permission.

    Args:
        state: The current state of the tenant.
        permission: The permission that the caller needs.
        tenant_id: The tenant's id, for the error's message.
        reason: The reason for the state, if an operator gave one.

    Raises:
        TenantSuspendedError: The tenant is suspended.
        TenantDeletedError: The tenant is deleted and in its grace period.
        TenantQuarantinedError: The tenant is quarantined.
        TenantNotFoundError: The tenant is not created yet, or is purged.
        TenantStateError: The tenant is archived.
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
    """Return `TRANSITIONS` as a Mermaid state diagram."""
    notes = {E.UNDELETE: " (to the state before)"}
    lines = [
        f"    {source} --> {target}: {event}{notes.get(event, '')}"
        for (source, event), target in TRANSITIONS.items()
    ]
    return "\n".join(["stateDiagram-v2", f"    [*] --> {S.PROVISIONING}", *lines, f"    {S.PURGED} --> [*]"])


if __name__ == "__main__":
    print(diagram())  # noqa: T201  # the purpose of the script is its output
