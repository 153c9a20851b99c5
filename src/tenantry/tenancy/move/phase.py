"""The intent of a move: where the tenant comes from, where it goes, and how far the move is."""

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Final

from tenantry.storage.protocol import Place
from tenantry.tenancy.tenant_record import SERVED, Intent, TenantRecord


class MovePhase(StrEnum):
    """How far a move is, as the tenant's intent says. A crash leaves one of these phases behind."""

    COPYING = "copying"
    """The original serves the callers. The copy and the journal may be there."""
    SWITCHING = "switching"
    """Nobody serves the callers. The catalog names the original."""
    DROPPING = "dropping"
    """The move has failed. The original serves the callers. The copy and the journal are being removed."""
    SWITCHED = "switched"
    """The catalog names the copy, which serves the callers. The original is being removed."""


ACTION: Final = "move"
"""The name of the operation, in the intent and in the audit."""

STEPS: Final = (
    *("begun", "journaled", "copied", "placed", "caught_up", "closed", "switched", "removed"),
    "finished",
)
"""The steps of a move, in order, for showing its progress."""

_NOT_SERVED: Final = MovePhase.SWITCHING


def arguments_of(tenant: TenantRecord, backend: str, location: str) -> dict[str, str | None]:
    """Return the arguments of the intent of a move from the tenant's place to another place."""
    return {
        "backend": backend,
        "location": location,
        "from_backend": tenant.backend,
        "from_location": tenant.location,
        **_phase(MovePhase.COPYING),
    }


def with_phase(tenant: TenantRecord, phase: MovePhase) -> Intent:
    """Return the tenant's intent in another phase."""
    intent = _intent_of(tenant)
    return intent.model_copy(update={"arguments": {**intent.arguments, **_phase(phase)}})


def phase_of(tenant: TenantRecord) -> MovePhase:
    """Return the phase in the tenant's intent."""
    return MovePhase(_argument(tenant, "phase"))


def target_of(tenant: TenantRecord) -> tuple[str, Place]:
    """Return the name of the back end to which the tenant moves, and the place there."""
    return _argument(tenant, "backend"), _place(tenant, "location")


def source_of(tenant: TenantRecord) -> tuple[str, Place]:
    """Return the name of the back end from which the tenant moves, and the place there."""
    return _argument(tenant, "from_backend"), _place(tenant, "from_location")


def places_of(tenant: TenantRecord) -> Iterator[tuple[str, str]]:
    """Yield the back ends and locations at which the tenant may have a database: during a move it has two."""
    yield tenant.backend, tenant.location
    if tenant.intent is not None and tenant.intent.action == ACTION:
        for name, place in (source_of(tenant), target_of(tenant)):
            yield name, place.location


def moved(tenant: TenantRecord) -> dict[str, Any]:
    """Return the changes of the record that make the copy the tenant's database. Restore points do not move."""
    backend, place = target_of(tenant)
    return {
        "backend": backend,
        "location": place.location,
        "restore_point": None,
        "intent": with_phase(tenant, MovePhase.SWITCHED),
    }


def _phase(phase: MovePhase) -> dict[str, str | None]:
    return {"phase": phase.value, SERVED: None if phase is _NOT_SERVED else "yes"}


def _place(tenant: TenantRecord, argument: str) -> Place:
    return Place(tenant.id, tenant.uid, _argument(tenant, argument))


def _argument(tenant: TenantRecord, name: str) -> str:
    value = _intent_of(tenant).arguments[name]
    assert value is not None
    return value


def _intent_of(tenant: TenantRecord) -> Intent:
    assert tenant.intent is not None
    return tenant.intent
