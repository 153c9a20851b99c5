"""A fleet job's life as a table, its options, and how far it is: decisions without I/O."""

from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from pydantic import ValidationError

from tenantry.errors import JobError
from tenantry.lifecycle import TenantState
from tenantry.tenancy.fleet.job import (
    JOB_TRANSITIONS,
    FleetJob,
    FleetWave,
    JobEvent,
    JobState,
    measure,
    next_job_state,
)
from tenantry.tenancy.fleet.options import ARGUMENTS_CHARACTERS_MAX, FleetOptions, failures_allowed

S = JobState
E = JobEvent
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)

# What its life should be, once more and in its own order: state, event, where that leads.
LIFE = {
    (S.PENDING, E.BEGIN, S.RUNNING),
    (S.RUNNING, E.FINISH, S.DONE),
    (S.RUNNING, E.STOP, S.STOPPED),
    *((state, E.PAUSE, S.PAUSED) for state in (S.PENDING, S.RUNNING)),
    *((state, E.RESUME, S.PENDING) for state in (S.PAUSED, S.STOPPED)),
    *((state, E.CANCEL, S.CANCELLED) for state in (S.PENDING, S.RUNNING, S.PAUSED, S.STOPPED)),
    (S.RUNNING, E.RESUME, S.RUNNING),
}
REPEATED = {(target, event) for _, event, target in LIFE}


def test_the_table_is_what_it_should_be():
    """Each transition leads where it should, and there is no other."""
    assert {(state, event, target) for (state, event), target in JOB_TRANSITIONS.items()} == LIFE


@pytest.mark.parametrize(("state", "event"), list(product(JobState, JobEvent)))
def test_every_pair_leads_or_is_refused(state: JobState, event: JobEvent):
    """No pair is forgotten: it leads, it is a repetition that stays, or the error names the job, the state and the event."""
    if (state, event) in JOB_TRANSITIONS:
        assert next_job_state(state, event, job_id="j") is JOB_TRANSITIONS[state, event]
    elif (state, event) in REPEATED:
        assert next_job_state(state, event, job_id="j") is state
    else:
        with pytest.raises(JobError, match=f"'j' is {state}: {event} is not possible") as caught:
            next_job_state(state, event, job_id="j")
        assert caught.value.job_id == "j"


@pytest.mark.parametrize("state", [S.CANCELLED, S.DONE])
def test_what_has_ended_stays_so(state: JobState):
    """Nothing leads out of a final state."""
    assert [key for key in JOB_TRANSITIONS if key[0] is state] == []


@pytest.mark.parametrize(
    "fields",
    [
        {"states": []},
        {"states": ["sleeping"]},
        {"id_prefix": ""},
        {"id_prefix": "a*"},
        {"id_prefix": "a\n"},
        {"below": {}},
        {"below": {"x'y": 1}},
        *({"canary": canary} for canary in (0, -1, True, 1.5, "", "5", "0%", "100.01%", "-5%", "5%%", "5 %")),
        {"concurrency": 0},
        *(
            {name: value}
            for name in ("failures_max", "canary_failures_max")
            for value in (-1, 1.0, 1.5, 0.0, float("nan"), True, "many")
        ),
        {"arguments": {"x": "x" * ARGUMENTS_CHARACTERS_MAX}},
        {"arguments": {"x": {1, 2}}},
        {"arguments": {"x": float("inf")}},
        {"colour": "red"},
    ],
    ids=str,
)
def test_options_that_are_none(fields: dict[str, Any]):
    """What makes no sense is refused before anything is written down."""
    with pytest.raises(ValidationError):
        FleetOptions(**fields)


@pytest.mark.parametrize(
    "options",
    [
        FleetOptions(),
        FleetOptions(
            states=(TenantState.SUSPENDED,),
            id_prefix="a-",
            below={"company": 2},
            canary="2.5%",
            failures_max=0.02,
            canary_failures_max=None,
            arguments={"x": [1, None]},
        ),
        FleetOptions(canary=7, failures_max=None, canary_failures_max=3),
    ],
)
def test_options_survive_the_catalog(options: FleetOptions):
    """What is read back is what was written down: a number stays a number, and a share a share."""
    again = FleetOptions.model_validate_json(options.model_dump_json())
    assert again == options
    assert type(again.failures_max) is type(options.failures_max)


@pytest.mark.parametrize(
    ("canary", "size"),
    [(None, (0, 0)), (7, (7, 0)), ("5%", (0, 500)), ("0.01%", (0, 1)), ("100%", (0, 10_000))],
)
def test_the_size_of_the_first_wave(canary: int | str | None, size: tuple[int, int]):
    """It is a number, or hundredths of a percent."""
    assert FleetOptions(canary=canary).canary_size == size


@pytest.mark.parametrize(
    ("failures_max", "allowed"), [(None, float("inf")), (0, 0), (10, 10), (0.02, 2), (0.999, 99), (0.001, 0)]
)
def test_how_many_may_fail(failures_max: float | None, allowed: float):
    """A number is that many, a share is of all and rounded down, None is any."""
    assert failures_allowed(failures_max, 100) == allowed


def job(state: JobState, **fields: Any) -> FleetJob:
    """Return a job that was begun at noon, when four tenants were finished."""
    defaults: dict[str, Any] = {
        "id": "j",
        "kind": "migrate",
        "options": FleetOptions(),
        "reason": None,
        "created_by": "ada",
        "created_at": NOON,
        "begun_at": NOON,
        "state_changed_at": NOON,
        "finished_before": 4,
        "failures_accepted": 0,
    }
    return FleetJob(state=state, **{**defaults, **fields})


WAVES = [
    FleetWave(wave=1, total=10, ok=8, skipped=1, failed=1),
    FleetWave(wave=2, total=90, ok=3, skipped=0, failed=1),
]


def test_progress_while_it_runs():
    """Counts are of all waves; the rate is that since it was last begun, and tells how long the rest takes."""
    progress = measure(job(S.RUNNING), WAVES, NOON + timedelta(seconds=5))
    assert (progress.total, progress.done, progress.failed, progress.skipped, progress.left) == (
        100,
        12,
        2,
        1,
        86,
    )
    assert (progress.wave, progress.waves) == (2, 2)
    assert (progress.rate_per_second, progress.seconds_left) == (2.0, 43.0)


def test_progress_after_it_ended():
    """The rate is that of the time until its state changed; nothing is estimated."""
    paused = job(S.PAUSED, state_changed_at=NOON + timedelta(seconds=10))
    progress = measure(paused, WAVES, NOON + timedelta(hours=5))
    assert (progress.rate_per_second, progress.seconds_left) == (1.0, None)


@pytest.mark.parametrize("fields", [{"begun_at": None}, {"finished_before": 14}, {}], ids=str)
def test_progress_before_there_is_a_rate(fields: dict[str, Any]):
    """Without a tenant, or a moment, since it was begun there is no rate to tell."""
    progress = measure(job(S.RUNNING, **fields), WAVES, NOON)
    assert (progress.rate_per_second, progress.seconds_left) == (None, None)


def test_progress_of_no_tenants():
    """A job that nobody was chosen for has one wave, and nothing left."""
    progress = measure(job(S.DONE, finished_before=0), [], NOON)
    assert (progress.wave, progress.waves, progress.total, progress.left) == (1, 0, 0, 0)
