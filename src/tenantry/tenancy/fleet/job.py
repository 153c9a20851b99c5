"""A fleet job: its record, its progress, and its states and transitions as a table. No I/O."""

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
"""The outcomes of tenants that did not fail; any other outcome is an error's."""

FIRST_WAVE: Final = 1


class JobState(StrEnum):
    """Where a job is in its life."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    CANCELLED = "cancelled"
    DONE = "done"


class JobEvent(StrEnum):
    """What can happen to a job."""

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
"""A pending job waits for a process that runs it. An operator paused a paused job, failures stopped a stopped one. Cancelled and
done are final."""

LIVE_STATES: Final = (JobState.PENDING, JobState.RUNNING)
"""The states in which a process runs the job, or will."""


def next_job_state(state: JobState, event: JobEvent, *, job_id: str) -> JobState:
    """Return the state that `event` leads to from `state`. In the state that it leads to, the event can be repeated.

    Raises:
        JobError: There is no such transition. The message names the state and the event.
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
    """One job; a value, not a handle.

    Attributes:
        id: Names the job in calls. Ids sort in the order in which jobs were started.
        kind: ``migrate``, ``check``, ``snapshot``, or the name of a registered function.
        options: Which tenants, and how.
        state: Where it is in its life.
        reason: Why it is in that state, if a reason is known.
        created_by: The principal that started it, the ``by=`` of `Fleet.start`.
        created_at, state_changed_at: Instants in UTC.
        begun_at: When a process last began to run it.
        finished_before: How many tenants were finished at that time.
        failures_accepted: How many tenants had failed when it was resumed after a stop. They do not count any more.
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
        """How many tenants have an outcome."""
        return self.ok + self.skipped + self.failed


class FleetProgress(BaseModel):
    """The progress of a job. `done`, `failed` and `skipped` never shrink.

    Attributes:
        job_id, kind, state, reason: The job's.
        wave: The number of the present wave; that of the last one after the job has ended.
        waves: How many waves there are.
        total: How many tenants the job has.
        done: How many are finished and did not fail, `skipped` included.
        failed: How many failed.
        skipped: How many of `done` needed no work.
        left: How many have no outcome yet.
        rate_per_second: How many tenants were finished per second since the job last began to run; None before the first.
        seconds_left: How long the rest takes at that rate; None unless the job runs.
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
    """Return the progress of a job with these waves."""
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
        tenant_uid: Its stable key.
        tenant_id: Its id when the job was started.
        wave: The number of its wave.
        outcome: ``ok``, ``skipped``, or the error's `outcome`; None while it has no outcome yet.
        error: The error's message.
        detail: The function's result, the snapshot that was taken before the work, or why the tenant was skipped.
        seconds: How long the work took, all attempts included.
        finished_at: An instant in UTC.
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
    """The migrations of a tenant's database, compared with those that the code has.

    Attributes:
        schema_versions: The version that each schema was at when it was last opened.
        pending: The migrations that it lacks, in the order in which they will be applied.
        unknown_schemas: Schema packs that tenants of the data directory have and this process was not given: what the tenant lacks of
            them is unknown here.
        last_error: Why it could not be opened the last time, or why it was quarantined.
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
        """Whether nothing is pending, as far as every pack is known here."""
        return not self.pending and not self.unknown_schemas
