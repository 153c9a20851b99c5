"""The record, the progress and the table of state transitions of a fleet job. This module does no I/O."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from tenantry.errors import JobError
from tenantry.lifecycle import TenantState, leads_to, possible_events
from tenantry.tenancy.fleet.options import FleetOptions

OK: Final = "ok"
SKIPPED: Final = "skipped"
"""`OK` and `SKIPPED` are the outcomes of tenants that did not fail; every other outcome is an error's `outcome`."""

FIRST_WAVE: Final = 1


class JobState(StrEnum):
    """The lifecycle state of a job."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    CANCELLED = "cancelled"
    DONE = "done"


class JobEvent(StrEnum):
    """An event in the lifecycle of a job."""

    BEGIN = "begin"
    PAUSE = "pause"
    RESUME = "resume"
    STOP = "stop"
    CANCEL = "cancel"
    FINISH = "finish"


S = JobState
E = JobEvent

JOB_TRANSITIONS: Final[dict[tuple[JobState, JobEvent], JobState]] = {
    (S.PENDING, E.BEGIN): S.RUNNING,
    (S.PENDING, E.PAUSE): S.PAUSED,
    (S.PENDING, E.CANCEL): S.CANCELLED,
    (S.RUNNING, E.RESUME): S.RUNNING,
    (S.RUNNING, E.PAUSE): S.PAUSED,
    (S.RUNNING, E.STOP): S.STOPPED,
    (S.RUNNING, E.CANCEL): S.CANCELLED,
    (S.RUNNING, E.FINISH): S.DONE,
    (S.PAUSED, E.RESUME): S.PENDING,
    (S.PAUSED, E.CANCEL): S.CANCELLED,
    (S.STOPPED, E.RESUME): S.PENDING,
    (S.STOPPED, E.CANCEL): S.CANCELLED,
}
"""A pending job waits for a process that runs the job. An operator pauses a job; too many failures stop a job. The states
cancelled and done are final."""

LIVE_STATES: Final = (JobState.PENDING, JobState.RUNNING)
"""The states of a job that a process runs, or will run."""


def next_job_state(state: JobState, event: JobEvent, *, job_id: str) -> JobState:
    """Return the next state of a job after an event. A repeated event leaves the state unchanged.

    Raises:
        JobError: The event is not possible in this state.
    """
    target = JOB_TRANSITIONS.get((state, event))
    if target is not None:
        return target
    if leads_to(JOB_TRANSITIONS, event, state):
        return state
    raise JobError(
        f"fleet job {job_id!r} is {state}: {event} is not possible (possible: {possible_events(JOB_TRANSITIONS, state)})",
        job_id=job_id,
    )


class FleetJob(BaseModel):
    """The record of one job, as read from the catalog.

    Attributes:
        id: The job's id. Ids sort in the order in which jobs were started.
        kind: ``migrate``, ``check``, ``snapshot``, ``move``, or the name of a registered function.
        options: The selection of tenants, and the limits of the work.
        state: The job's lifecycle state.
        reason: The reason for the current state; None if no reason is known.
        created_by: The principal that started the job (``by=`` of `Fleet.start`).
        created_at, state_changed_at: The time when the job was started, and the time of its last change of state, in UTC.
        begun_at: The time when a process last began to run the job, in UTC.
        finished_before: The number of tenants that were finished at `begun_at`.
        failures_accepted: The number of failures before the job's last stop; after `resume`, these no longer count as failures.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    kind: str
    options: FleetOptions
    state: JobState
    reason: str | None
    created_by: str
    created_at: datetime
    begun_at: datetime | None
    state_changed_at: datetime
    finished_before: int
    failures_accepted: int


class FleetWave(BaseModel):
    """The progress of one wave."""

    model_config = ConfigDict(frozen=True)

    wave: int
    total: int
    ok: int
    skipped: int
    failed: int

    @property
    def finished(self) -> int:
        """The number of tenants with an outcome."""
        return self.ok + self.skipped + self.failed


class FleetProgress(BaseModel):
    """The progress of a job. The numbers `done`, `failed` and `skipped` never decrease.

    Attributes:
        job_id, kind, state, reason: The fields of the job, see `FleetJob`.
        wave: The number of the current wave; after the job has ended, the number of the last wave.
        waves: The number of waves.
        total: The number of tenants.
        done: The number of finished tenants that did not fail; includes the `skipped` tenants.
        failed: The number of failed tenants.
        skipped: The number of tenants in `done` that needed no work.
        left: The number of tenants without an outcome.
        rate_per_second: The number of tenants finished per second since the job last began to run; None before the first tenant.
        seconds_left: The estimated time for the remaining tenants; None unless the job is running.
    """

    model_config = ConfigDict(frozen=True)

    job_id: str
    kind: str
    state: JobState
    reason: str | None
    wave: int
    waves: int
    total: int
    done: int
    failed: int
    skipped: int
    left: int
    rate_per_second: float | None
    seconds_left: float | None


def measure(job: FleetJob, waves: Sequence[FleetWave], now: datetime) -> FleetProgress:
    """Return a job's progress, computed from the progress of its waves."""
    total, failed = sum(wave.total for wave in waves), sum(wave.failed for wave in waves)
    finished, skipped = sum(wave.finished for wave in waves), sum(wave.skipped for wave in waves)
    left = total - finished
    rate = _rate(job, finished, now)
    return FleetProgress(
        job_id=job.id,
        kind=job.kind,
        state=job.state,
        reason=job.reason,
        wave=next((wave.wave for wave in waves if wave.finished < wave.total), max(len(waves), FIRST_WAVE)),
        waves=len(waves),
        total=total,
        done=finished - failed,
        failed=failed,
        skipped=skipped,
        left=left,
        rate_per_second=rate,
        seconds_left=left / rate if rate and job.state is JobState.RUNNING else None,
    )


def _rate(job: FleetJob, finished: int, now: datetime) -> float | None:
    if job.begun_at is None:
        return None
    until = now if job.state is JobState.RUNNING else job.state_changed_at
    seconds = (until - job.begun_at).total_seconds()
    finished_since = finished - job.finished_before
    return finished_since / seconds if seconds > 0 and finished_since > 0 else None


class FleetResult(BaseModel):
    """The outcome of one tenant in a job.

    Attributes:
        tenant_uid: The tenant's stable key.
        tenant_id: The tenant's id when the job was started.
        wave: The number of the tenant's wave.
        outcome: ``ok``, ``skipped``, or the error's `outcome`; None if the tenant has no outcome yet.
        error: The error's message.
        detail: The function's result, the snapshot that was taken before the work, or the reason why the tenant was skipped.
        seconds: The duration of the work, including all attempts.
        finished_at: The end of the work, in UTC.
    """

    model_config = ConfigDict(frozen=True)

    tenant_uid: str
    tenant_id: str
    wave: int
    outcome: str | None
    error: str | None
    detail: dict[str, Any]
    seconds: float | None
    finished_at: datetime | None


class TenantMigrationStatus(BaseModel):
    """The migrations of a tenant's database, compared with the migrations in the code.

    Attributes:
        schema_versions: The version of each schema when the tenant was last opened.
        pending: The migrations that the tenant lacks, in the order in which they will be applied.
        unknown_schemas: The schema packs that tenants have but this process lacks; these packs' pending migrations are unknown.
        last_error: The error of the last failed opening, or the reason for the quarantine.
    """

    model_config = ConfigDict(frozen=True)

    tenant_id: str
    state: TenantState
    schema_versions: dict[str, int]
    pending: tuple[str, ...]
    unknown_schemas: tuple[str, ...]
    last_error: str | None

    @property
    def is_current(self) -> bool:
        """Whether no migration is pending, and this process knows every schema pack."""
        return not self.pending and not self.unknown_schemas
