"""The results of fleet jobs in the catalog: the tenants of each wave, and the outcome of each tenant.

Each outcome is written once. Only the process that holds a job's lock writes the job's results.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tenantry.clock import Clock, as_text
from tenantry.pages import Page, decode_cursor, encode_cursor, page_rows
from tenantry.sql.statements import Fetch, Statement, TupleRow
from tenantry.tenancy.catalog.rows import decode_row
from tenantry.tenancy.catalog.session import CatalogSession
from tenantry.tenancy.fleet.job import OK, SKIPPED, FleetResult, FleetWave
from tenantry.tenancy.fleet.options import as_json

RESULT_ROWS_DEFAULT: Final = 100
_CURSOR: Final = "fleet"

_RESULT_COLUMNS: Final = tuple(FleetResult.model_fields)
_PENDING: Final = """
SELECT wave, position, tenant_uid, tenant_id, detail FROM fleet_results
WHERE job_id = ? AND wave = ? AND position > ? AND outcome IS NULL ORDER BY position LIMIT ?
"""
_FINISH: Final = """
UPDATE fleet_results SET outcome = ?, error = ?, detail = ?, seconds = ?, finished_at = ?
WHERE job_id = ? AND wave = ? AND position = ? AND outcome IS NULL
"""
_NOTE: Final = "UPDATE fleet_results SET detail = ? WHERE job_id = ? AND wave = ? AND position = ?"


@dataclass(slots=True)
class PendingTenant:
    """A tenant of a job that has no outcome yet.

    Attributes:
        wave, position: The key of the tenant's row.
        tenant_uid: The tenant's stable key.
        tenant_id: The tenant's id when the job was created.
        detail: The job's notes about the tenant, written with the outcome or with `FleetResults.note`.
    """

    wave: int
    position: int
    tenant_uid: str
    tenant_id: str
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a job's work on a tenant."""

    outcome: str
    error: str | None = None

    @property
    def is_failure(self) -> bool:
        """Whether the job counts the tenant as failed."""
        return self.outcome not in {OK, SKIPPED}


class FleetResults:
    """Reads and writes the results of jobs."""

    def __init__(self, catalog: CatalogSession, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock

    async def waves(self, job_id: str) -> Sequence[FleetWave]:
        """Return the progress of the job's waves, in order."""
        columns = tuple(FleetWave.model_fields)
        sql = f"SELECT {', '.join(columns)} FROM fleet_waves WHERE job_id = ? ORDER BY wave"  # noqa: S608  # our names
        rows = await self._catalog.read(Statement("fleet.waves", sql, (job_id,), Fetch.ALL))
        return [decode_row(FleetWave, columns, row, entity="fleet_wave") for row in rows]

    async def pending(self, job_id: str, wave: int, after: int, limit: int) -> Sequence[PendingTenant]:
        """Return the wave's next tenants without an outcome, in order, beginning after the position `after`."""
        statement = Statement("fleet.pending", _PENDING, (job_id, wave, after, limit), Fetch.ALL)
        rows = await self._catalog.read(statement)
        return [PendingTenant(*row, json.loads(detail)) for *row, detail in rows]  # type: ignore[call-arg]

    async def note(self, job_id: str, item: PendingTenant) -> None:
        """Write the job's notes about a tenant that has no outcome yet."""
        parameters = (as_json(item.detail), job_id, item.wave, item.position)
        await self._catalog.write(Statement("fleet.note", _NOTE, parameters))

    async def finish(self, job_id: str, item: PendingTenant, outcome: Outcome, seconds: float) -> None:
        """Write a tenant's outcome, unless the tenant has an outcome already."""
        parameters = (
            outcome.outcome,
            outcome.error,
            as_json(item.detail),
            seconds,
            as_text(self._clock.now()),
            job_id,
            item.wave,
            item.position,
        )
        await self._catalog.write(Statement("fleet.finish", _FINISH, parameters))

    async def list(
        self, job_id: str, outcome: str | None, limit: int | None, cursor: str | None
    ) -> Page[FleetResult]:
        """Return a page of the job's results; see `Fleet.results`."""
        rows_max = page_rows(RESULT_ROWS_DEFAULT if limit is None else limit)
        after = (0, -1) if cursor is None else decode_cursor(_CURSOR, cursor, int, int)
        condition, parameters = _outcome_filter(outcome)
        sql = f"""
            SELECT position, {", ".join(_RESULT_COLUMNS)} FROM fleet_results
            WHERE job_id = ? AND (wave, position) > (?, ?) AND {condition} ORDER BY wave, position LIMIT ?
        """  # noqa: S608  # our names
        values = (job_id, *after, *parameters, rows_max + 1)
        rows = await self._catalog.read(Statement("fleet.results", sql, values, Fetch.ALL))
        results = [_to_result(row[1:]) for row in rows[:rows_max]]
        has_more = len(rows) > rows_max
        last = encode_cursor(_CURSOR, results[-1].wave, rows[rows_max - 1][0]) if has_more else None
        return Page(results, last)


def _outcome_filter(outcome: str | None) -> tuple[str, tuple[str, ...]]:
    failed = "outcome NOT IN ('ok', 'skipped')"
    match outcome:
        case None:
            return "outcome IS NOT NULL", ()
        case "left":
            return "outcome IS NULL", ()
        case "failed":
            return failed, ()
        case "ok" | "skipped":
            return "outcome = ?", (outcome,)
        case _:
            return f"{failed} AND outcome = ?", (outcome,)


def _to_result(row: TupleRow) -> FleetResult:
    return decode_row(FleetResult, _RESULT_COLUMNS, row, entity="fleet_result", json_columns=("detail",))
