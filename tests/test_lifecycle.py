"""The life of a tenant: every state and every event either leads somewhere or is refused, naming both."""

import ast
import runpy
from itertools import product
from pathlib import Path

import pytest

import tenantry
from tenantry.errors import (
    TenantDeletedError,
    TenantNotFoundError,
    TenantQuarantinedError,
    TenantStateError,
    TenantSuspendedError,
)
from tenantry.lifecycle import (
    STATES,
    TRANSITIONS,
    Permission,
    TenantEvent,
    TenantState,
    check_allows,
    diagram,
    has_happened,
    next_state,
    operator_choices,
    states_that_allow,
)

S = TenantState
E = TenantEvent
P = Permission

# What DESIGN says, once more and in its own order: state, event, where that leads.
LIFE = [
    (S.PROVISIONING, E.PROVISION, S.ACTIVE),
    (S.PROVISIONING, E.ABORT, S.PURGED),
    (S.ACTIVE, E.SUSPEND, S.SUSPENDED),
    (S.SUSPENDED, E.RESUME, S.ACTIVE),
    (S.ACTIVE, E.ARCHIVE, S.ARCHIVED),
    (S.SUSPENDED, E.ARCHIVE, S.ARCHIVED),
    (S.ARCHIVED, E.UNARCHIVE, S.ACTIVE),
    (S.ACTIVE, E.DELETE, S.DELETED),
    (S.SUSPENDED, E.DELETE, S.DELETED),
    (S.ARCHIVED, E.DELETE, S.DELETED),
    (S.QUARANTINED, E.DELETE, S.DELETED),
    (S.DELETED, E.PURGE, S.PURGED),
    (S.ACTIVE, E.QUARANTINE, S.QUARANTINED),
    (S.QUARANTINED, E.REPAIR, S.ACTIVE),
]
DELETABLE = [S.ACTIVE, S.SUSPENDED, S.ARCHIVED, S.QUARANTINED]
# An event that led here already: the call is repeated, nothing changes.
REPEATED = {(target, event) for _, event, target in LIFE} | {(state, E.UNDELETE) for state in DELETABLE}


@pytest.mark.parametrize(("state", "event", "target"), LIFE)
def test_leads(state: TenantState, event: TenantEvent, target: TenantState):
    """Each transition of the design leads where it says."""
    assert next_state(state, event, tenant_id="acme") is target


def test_the_table_has_nothing_else():
    """The table is the design's, with undelete."""
    assert {(s, e): t for s, e, t in LIFE} | {(S.DELETED, E.UNDELETE): S.ACTIVE} == TRANSITIONS


@pytest.mark.parametrize(("state", "event"), list(product(TenantState, TenantEvent)))
def test_every_pair_leads_or_is_refused(state: TenantState, event: TenantEvent):
    """No pair is forgotten: it leads, it is a repetition that stays, or the error names both and what is possible."""
    if (state, event) in TRANSITIONS:
        assert next_state(state, event, tenant_id="acme") is TRANSITIONS[state, event]
    elif (state, event) in REPEATED:
        assert next_state(state, event, tenant_id="acme") is state
    else:
        with pytest.raises(TenantStateError, match=f"'acme' is {state}: {event} is not possible") as caught:
            next_state(state, event, tenant_id="acme")
        assert (caught.value.state, caught.value.event, caught.value.tenant_id) == (state, event, "acme")
        possible = [str(e) for s, e in TRANSITIONS if s is state]
        assert f"(possible: {', '.join(possible) or 'nothing'})" in str(caught.value)


@pytest.mark.parametrize("before", DELETABLE)
def test_undelete_leads_back(before: TenantState):
    """A deleted tenant comes back as what it was, and asking for that twice is no mistake."""
    deleted = next_state(before, E.DELETE, tenant_id="acme")
    back = next_state(deleted, E.UNDELETE, tenant_id="acme", before_delete=before)
    assert back is before
    assert next_state(back, E.UNDELETE, tenant_id="acme") is before


@pytest.mark.parametrize(("state", "event"), list(TRANSITIONS))
def test_every_event_can_be_repeated(state: TenantState, event: TenantEvent):
    """An operator who got no answer may call again: the second time the same event leads to the same state."""
    once = next_state(state, event, tenant_id="acme")
    assert next_state(once, event, tenant_id="acme") is once


def test_every_state_can_be_reached_and_only_purged_is_final():
    """A life begins in provisioning, can go everywhere, and ends purged."""
    reached = {S.PROVISIONING}
    for _ in S:
        reached |= {target for (source, _), target in TRANSITIONS.items() if source in reached}
    assert reached == set(S)
    assert {state for state in S if not any(source is state for source, _ in TRANSITIONS)} == {S.PURGED}


@pytest.mark.parametrize(
    ("state", "error", "advice"),
    [
        (S.SUSPENDED, TenantSuspendedError, "resume it first"),
        (S.DELETED, TenantDeletedError, "undelete it within its grace period"),
        (S.QUARANTINED, TenantQuarantinedError, "repair or restore it"),
        (S.ARCHIVED, TenantStateError, "unarchive it first"),
    ],
)
def test_states_that_do_not_serve(state: TenantState, error: type[TenantStateError], advice: str):
    """Each refusal has a type of its own, says why and what to do."""
    with pytest.raises(error, match=rf"'acme' is {state} \(unpaid\): {advice}") as caught:
        check_allows(state, Permission.READ, tenant_id="acme", reason="unpaid")
    assert (type(caught.value), caught.value.state, caught.value.reason) == (error, state, "unpaid")
    with pytest.raises(error, match=f"'acme' is {state}: "):
        check_allows(state, Permission.READ, tenant_id="acme")


@pytest.mark.parametrize("state", [S.PROVISIONING, S.PURGED])
def test_states_of_a_tenant_that_is_not_there(state: TenantState):
    """Not there yet and not there any more are the same to a caller."""
    with pytest.raises(
        TenantNotFoundError, match="'acme' does not exist: check the id in the list of tenants"
    ):
        check_allows(state, Permission.READ, tenant_id="acme")


def test_an_active_tenant_serves():
    """Only an active tenant serves calls."""
    check_allows(S.ACTIVE, Permission.READ, tenant_id="acme")


# What the design says of each state, once more.
ALLOWED = {
    S.PROVISIONING: {P.EXIST, P.STAY_OPEN},
    S.ACTIVE: {*P},
    S.SUSPENDED: {P.EXIST, P.COPY, P.CHECK, P.RESTORE, P.MOVE, P.CHANGE},
    S.ARCHIVED: {P.EXIST, P.COPY, P.CHECK, P.RESTORE, P.MOVE, P.CHANGE},
    S.QUARANTINED: {P.EXIST, P.COPY, P.CHECK, P.RESTORE, P.CHANGE},
    S.DELETED: {P.EXIST, P.COPY, P.CHANGE},
    S.PURGED: set(),
}


@pytest.mark.parametrize("state", S)
def test_every_state_has_a_row(state: TenantState):
    """What a state allows is one row of a table, and no state is without one."""
    assert STATES[state].allows == ALLOWED[state]
    assert {what for what in P if state.allows(what)} == ALLOWED[state]
    assert {event for event in E if state.allows(event)} == {e for s, e in TRANSITIONS if s is state}


@pytest.mark.parametrize("what", [*P, *E])
def test_the_states_that_allow_something(what: Permission | TenantEvent):
    """The table can be read by its columns too: every permission and event is allowed by some state."""
    found = states_that_allow(what)
    assert set(found) == {state for state in S if state.allows(what)} != set()


def test_an_operator_is_offered_what_the_state_allows():
    """What the API says of a state are permissions and events, without those that nobody can ask for."""
    assert operator_choices(S.PROVISIONING) == ("exist",)
    assert operator_choices(S.PURGED) == ()
    assert operator_choices(S.DELETED) == ("exist", "copy", "change", "undelete", "purge")
    assert {"read", "write", "suspend", "migrate"} <= set(operator_choices(S.ACTIVE))


@pytest.mark.parametrize(("state", "event"), list(product(TenantState, TenantEvent)))
def test_what_has_happened(state: TenantState, event: TenantEvent):
    """An event has happened in the states that it leads to, and in no other."""
    assert has_happened(state, event) is ((state, event) in REPEATED)


# Where a state is named outside of the tables: the first state of a new record, and defaults that a caller can change.
NAMED = {
    ("admin/routes/jobs.py", "ACTIVE"),
    ("admin/schemas.py", "SUSPENDED"),
    ("tenancy/fleet/fleet.py", "ACTIVE"),
    ("tenancy/fleet/options.py", "ACTIVE"),
    ("tenancy/operations/create.py", "PROVISIONING"),
}


def test_no_other_module_decides_by_the_name_of_a_state():
    """A new state is a matter of one module: everybody else asks the tables and names no state."""
    source = Path(tenantry.__file__).parent
    found = {
        (str(path.relative_to(source)), node.attr)
        for path in source.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "TenantState"
    }
    assert found == NAMED


def test_the_diagram_is_the_table(capsys: pytest.CaptureFixture[str]):
    """The diagram in the docs is printed from the table, one line for each transition, by running the module."""
    lines = diagram().splitlines()
    assert lines[:2] == ["stateDiagram-v2", "    [*] --> provisioning"]
    assert lines[-1] == "    purged --> [*]"
    written = [f"    {s} --> {t}: {e}" for (s, e), t in TRANSITIONS.items()]
    assert [line.removesuffix(" (to the state before)") for line in lines[2:-1]] == written
    assert "    deleted --> active: undelete (to the state before)" in lines
    with pytest.warns(RuntimeWarning, match="found in sys.modules"):
        runpy.run_module("tenantry.lifecycle", run_name="__main__")
    assert capsys.readouterr().out.splitlines() == lines
