"""The table of fleet jobs in the catalog. Every decision about a job is first written to the catalog.

Several processes may have the catalog open. A job's state is changed by compare-and-set, so concurrent changes take effect one
after the other.
"""

import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from tenantry.clock import Clock, as_text
from tenantry.errors import JobNotFoundError, TenantryError
from tenantry.ids import TenantId
from tenantry.pages import Page, decode_cursor, encode_cursor, page_rows
from tenantry.sql.statements import Fetch, Statement, TupleRow
from tenantry.tenancy.catalog import audit
from tenantry.tenancy.catalog.catalog import Catalog
from tenantry.tenancy.catalog.rows import decode_row
from tenantry.tenancy.fleet.job import (
    LIVE_STATES,
    FleetJob,
    FleetProgress,
    JobEvent,
    JobState,
    measure,
    next_job_state,
)
from tenantry.tenancy.fleet.limits import FleetLimits
from tenantry.tenancy.fleet.options import FleetOptions
from tenantry.tenancy.fleet.results import FleetResults
from tenantry.tenancy.fleet.selection import select_tenants

JOB_ROWS_DEFAULT: Final = 100
_CURSOR: Final = "fleet"

_JOB_COLUMNS: Final = tuple(FleetJob.model_fields)
_SELECT_JOB: Final = f"SELECT {', '.join(_JOB_COLUMNS)} FROM fleet_jobs"  # noqa: S608  # our names
_INSERT_JOB: Final = """
INSERT INTO fleet_jobs (id, kind, options, state, created_by, created_at, state_changed_at) VALUES (?, ?, ?, ?, ?, ?, ?)
"""
_INSERT_WAVES: Final = """
INSERT INTO fleet_waves (job_id, wave, total)
SELECT job_id, wave, count(*) FROM fleet_results WHERE job_id = ? GROUP BY job_id, wave
"""
_FINISHED_SQL: Final = "(SELECT coalesce(sum(ok + skipped + failed), 0) FROM fleet_waves WHERE job_id = id)"
_FAILED_SQL: Final = "(SELECT coalesce(sum(failed), 0) FROM fleet_waves WHERE job_id = id)"
_BEGIN: Final = f"""
UPDATE fleet_jobs
SET state = 'running', reason = NULL, begun_at = ?,
    state_changed_at = CASE WHEN state = 'running' THEN state_changed_at ELSE ? END,
    finished_before = {_FINISHED_SQL}
WHERE id = ? AND state IN ('pending', 'running')
"""  # noqa: S608  # our own
_APPLY: Final = f"""
UPDATE fleet_jobs
SET state = ?, reason = ?, state_changed_at = ?, options = ?,
    failures_accepted = CASE WHEN state = 'stopped' THEN {_FAILED_SQL} ELSE failures_accepted END
WHERE id = ? AND state = ?
"""  # noqa: S608  # our own
_IS_AS_READ: Final = "EXISTS (SELECT 1 FROM fleet_jobs WHERE id = ? AND state = ?)"
_EXPIRED: Final = """
SELECT id FROM fleet_jobs WHERE state IN ('done', 'cancelled') AND state_changed_at < ? ORDER BY id LIMIT 1
"""
_DELETE_RESULTS: Final = """
DELETE FROM fleet_results WHERE job_id = ? AND (wave, position) IN (
    SELECT wave, position FROM fleet_results WHERE job_id = ? LIMIT ?
)
"""


class FleetTable:
    """Reads and writes fleet jobs in the catalog."""

    def __init__(self, catalog: Catalog, clock: Clock, limits: FleetLimits) -> None:
        self._catalog = catalog
        self._limits = limits
        self._clock = clock
        self.results = FleetResults(catalog, clock)
        """The results of the jobs."""

    def new_id(self) -> str:
        """Return an id for a new job, which sorts after the ids of earlier jobs."""
        return f"{self._clock.now():%Y%m%d-%H%M%S-%f}-{secrets.token_hex(4)}"

    async def insert(
        self, job_id: str, kind: str, options: FleetOptions, tenant_ids: Sequence[TenantId] | None, *, by: str
    ) -> FleetJob:
        """Insert a new job with its tenants in one transaction, and return the job."""
        now = as_text(self._clock.now())
        row = (job_id, kind, options.model_dump_json(), JobState.PENDING, by, now, now)
        # Do not audit the work's arguments, which may be secret.
        detail = options.model_dump(mode="json", exclude_defaults=True, exclude={"arguments"})
        await self._catalog.write(
            Statement("fleet.insert", _INSERT_JOB, row),
            select_tenants(job_id, options, tenant_ids),
            Statement("fleet.insert", _INSERT_WAVES, (job_id,)),
            self.audited("start", job_id, "ok", by, kind=kind, **detail),
        )
        return await self.get(job_id)

    async def get(self, job_id: str) -> FleetJob:
        """Return a job."""
        statement = Statement("fleet.get", f"{_SELECT_JOB} WHERE id = ?", (job_id,), Fetch.ONE)
        row = await self._catalog.read(statement)
        if row is None:
            raise JobNotFoundError(
                f"there is no fleet job {job_id!r}: list the jobs to find its id", job_id=job_id
            )
        return _to_job(row)

    async def list(self, state: JobState | None, limit: int | None, cursor: str | None) -> Page[FleetJob]:
        """Return a page of jobs, newest first."""
        rows_max = page_rows(JOB_ROWS_DEFAULT if limit is None else limit)
        conditions, parameters = ["state = ?"] * (state is not None), [state] * (state is not None)
        if cursor is not None:
            conditions.append("id < ?")
            parameters += decode_cursor(_CURSOR, cursor, str)  # type: ignore[arg-type]  # text, like a state
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        sql = f"{_SELECT_JOB} {where} ORDER BY id DESC LIMIT ?"
        rows = await self._catalog.read(Statement("fleet.list", sql, (*parameters, rows_max + 1), Fetch.ALL))
        jobs = [_to_job(row) for row in rows[:rows_max]]
        return Page(jobs, encode_cursor(_CURSOR, jobs[-1].id) if len(rows) > rows_max else None)

    async def live(self) -> Sequence[str]:
        """Return the ids of the jobs that are running or waiting for a process."""
        sql = "SELECT id FROM fleet_jobs WHERE state IN (?, ?) ORDER BY id"
        rows = await self._catalog.read(Statement("fleet.live", sql, LIVE_STATES, Fetch.ALL))
        return [job_id for (job_id,) in rows]

    async def delete_expired(self, before: datetime) -> None:
        """Delete the jobs that ended (done or cancelled) before the time `before`, oldest first."""
        parameters = (as_text(before),)
        while row := await self._catalog.read(Statement("fleet.expired", _EXPIRED, parameters, Fetch.ONE)):
            (job_id,) = row
            values = (job_id, job_id, self._limits.deleted_rows_max)
            results = Statement("fleet.forget", _DELETE_RESULTS, values, Fetch.ROWCOUNT)
            while (await self._catalog.write(results))[0]:
                pass
            await self._catalog.write(
                Statement("fleet.forget", "DELETE FROM fleet_waves WHERE job_id = ?", (job_id,)),
                Statement("fleet.forget", "DELETE FROM fleet_jobs WHERE id = ?", (job_id,)),
            )

    async def begin(self, job_id: str) -> FleetJob | None:
        """Record that this process begins to run the job, and return the job; None if the job is neither pending nor running."""
        now = as_text(self._clock.now())
        statement = Statement("fleet.begin", _BEGIN, (now, now, job_id), Fetch.ROWCOUNT)
        (count,) = await self._catalog.write(statement)
        return await self.get(job_id) if count else None

    async def apply(
        self,
        job_id: str,
        event: JobEvent,
        *,
        reason: str | None = None,
        by: str | None = None,
        **changes: Any,
    ) -> FleetJob:
        """Apply an event to the job, and return the changed job. A repeated event is a no-op.

        The audit records the event as a call of the principal `by`, unless `by` is None. `changes` are new values of job options.

        Raises:
            JobNotFoundError: The job does not exist.
            JobError: The job's state does not allow the event.
        """
        while True:
            job = await self.get(job_id)
            target = next_job_state(job.state, event, job_id=job_id)
            options = job.options.model_copy(update=changes)
            now = as_text(self._clock.now())
            parameters = (target, reason, now, options.model_dump_json(), job_id, job.state)
            is_change = target is not job.state or bool(changes)
            unit = [Statement("fleet.apply", _APPLY, parameters, Fetch.ROWCOUNT)] if is_change else []
            if by is not None:
                record = self.audited(event, job_id, "ok", by, reason=reason, **changes)
                unit.insert(
                    0, audit.append_if(_IS_AS_READ, (job_id, job.state), record) if is_change else record
                )
            results = await self._catalog.write(*unit) if unit else [None]
            if results[-1] != 0:
                return await self.get(job_id)

    async def refuse(self, action: str, job_id: str | None, error: TenantryError, by: str) -> None:
        """Record a refused call in the audit."""
        await self._catalog.write(self.audited(action, job_id, error.outcome, by, error=str(error)))

    def audited(self, action: str, job_id: str | None, outcome: str, by: str, **detail: Any) -> Statement:
        """Return the statement that records a call in the audit; see `tenantry.tenancy.catalog.audit.append`."""
        return audit.append(
            self._clock,
            f"fleet.{action}",
            tenant_id=None,
            tenant_uid=None,
            outcome=outcome,
            detail={"job_id": job_id, **detail},
            by=by,
        )

    async def progress(self, job_id: str) -> FleetProgress:
        """Return the progress of the job."""
        job = await self.get(job_id)
        return measure(job, await self.results.waves(job_id), self._clock.now())


def _to_job(row: TupleRow) -> FleetJob:
    return decode_row(FleetJob, _JOB_COLUMNS, row, entity="fleet_job", json_columns=("options",))
