"""A fleet job: what it is to do, how far it is, and its life as a table. No I/O."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from tenantry.errors import JobError
from tenantry.lifecycle import TenantState
from tenantry.tenancy.fleet.options import FleetOptions

OK: Final = "ok"
SKIPPED: Final = "skipped"
"""The outcomes of tenants that did not fail; any other is an error's."""

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
"""Pending waits for a process that runs it; paused by an operator, stopped by failures; cancelled and done are final."""

LIVE_STATES: Final = (JobState.PENDING, JobState.RUNNING)
"""Those in which some process runs the job, or is to."""


def next_job_state(state: JobState, event: JobEvent, *, job_id: str) -> JobState:
    """Return where `event` leads from `state`; a state that the event led to stays, so calls can be repeated.

    Raises:
        JobError: There is no such transition; it names the state and the event.
    """
    target = JOB_TRANSITIONS.get((state, event))
    if target is not None:
        return target
    if any(leads_to is state for (_, e), leads_to in JOB_TRANSITIONS.items() if e is event):
        return state
    allowed = ", ".join(e for s, e in JOB_TRANSITIONS if s is state) or "nothing"
    raise JobError(
        f"fleet job {job_id!r} is {state}: {event} is not possible (possible: {allowed})", job_id=job_id
    )


class FleetJob(BaseModel):
    """One job; a value, not a handle.

    Attributes:
        id: Given to every call about it; ids are in the order in which jobs were made.
        kind: ``migrate``, ``check``, ``snapshot``, or the name of a registered function.
        options: Which tenants, and how.
        state: Where it is in its life.
        reason: Why it is in that state, where there is something to say.
        created_by: Who made it, see `tenantry.tenancy.catalog.audit.acting_as`.
        created_at, state_changed_at: Instants in UTC.
        begun_at: When a process last began to run it.
        finished_before: How many tenants were finished then.
        failures_accepted: How many had failed when it was resumed after a stop: they do not count any more.
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
    """How far one wave is.

    Attributes:
        wave: Its number, from 1.
        total: Its tenants.
        ok, skipped, failed: Those that are finished.
    """

    model_config = ConfigDict(frozen=True)

    wave: int
    total: int
    ok: int
    skipped: int
    failed: int

    @property
    def finished(self) -> int:
        """How many have an outcome."""
        return self.ok + self.skipped + self.failed


class FleetProgress(BaseModel):
    """How far a job is. `done`, `failed` and `skipped` never shrink.

    Attributes:
        job_id, kind, state, reason: The job's.
        wave: The number of the wave that is under way; the last one after it has ended.
        waves: How many there are.
        total: Its tenants.
        done: Those that are finished and did not fail: `skipped` included.
        failed: Those that failed.
        skipped: Those among `done` for which there was nothing to do.
        left: Those that are still to be done.
        rate_per_second: How many were finished in a second since the job was last begun; None before the first.
        seconds_left: What is left at that rate; None unless it runs.
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
    """Return how far a job with these waves is at this moment."""
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
    """What became of one tenant in a job.

    Attributes:
        tenant_uid: Its stable key.
        tenant_id: Its id when the job was made.
        wave: The wave that it is in.
        outcome: ``ok``, ``skipped``, or the error's `outcome`; None while it is still to be done.
        error: What went wrong.
        detail: What the work says of it: its function's result, the snapshot that was taken before, why it was skipped.
        seconds: How long the work took, with all attempts.
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
    """Where a tenant's database is, against the code.

    Attributes:
        tenant_id: The tenant.
        state: Where it is in its life.
        schema_versions: The version that each schema was at when it was last opened.
        pending: The migrations that it lacks, in the order in which they will be applied.
        last_error: Why it could not be opened the last time, or why it was quarantined.
    """

    model_config = ConfigDict(frozen=True)

    tenant_id: str
    state: TenantState
    schema_versions: dict[str, int]
    pending: tuple[str, ...]
    last_error: str | None

    @property
    def is_current(self) -> bool:
        """Whether nothing is pending."""
        return not self.pending
