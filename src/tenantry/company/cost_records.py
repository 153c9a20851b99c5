"""The repository of cost records, which are append-only, read in pages, oldest first, and summed."""

import math
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from tenantry import events
from tenantry.company.models import CostRecord
from tenantry.company.protocols import CostRecordRepository
from tenantry.company.queries import OLDEST_FIRST, Listing, Window, aggregate
from tenantry.company.records import RecordRepository, RecordType
from tenantry.company.types import format_timestamp
from tenantry.errors import QueryError
from tenantry.pages import Page
from tenantry.sql.statements import Sql

if TYPE_CHECKING:
    from tenantry.sql.statements import TupleRow

_COST_RECORD = RecordType(
    entity="cost_record",
    table="cost_records",
    model=CostRecord,
    key=("timestamp", "seq"),
    columns=(
        "agent_id",
        "task_id",
        "provider",
        "model",
        "input_tokens",
        "output_tokens",
        "cost_usd",
        "call_category",
    ),
    json={},
    named={"agent_id": "agent_id", "task_id": "task_id"},
    malformed=events.COST_RECORD_QUERY_FAILED,
)
_INSERT = _COST_RECORD.insert
# `exact_sum` of no rows is NULL, because CPython's sqlite3 creates the aggregate object only at the first row. PostgreSQL adds the
# costs as decimal numbers, each with the digits that identify the float, and its cast refuses a number above the largest float. The
# two sums differ by at most one unit in the last place.
_SUM = Sql(
    {
        "sqlite": "SELECT COALESCE(exact_sum(cost_usd), 0.0) FROM cost_records",
        "postgres": "SELECT CASE WHEN sum(cost_usd::text::numeric) > 1.7976931348623158e308 THEN 'Infinity' "
        "ELSE COALESCE(sum(cost_usd::text::numeric)::float8, 0.0) END FROM cost_records",
    }
)
_QUERY = Listing(
    "cost_records.query",
    _COST_RECORD.select,
    OLDEST_FIRST,
    done=events.COST_RECORD_QUERIED,
    failed=events.COST_RECORD_QUERY_FAILED,
)


class SQLCostRecordRepository(RecordRepository[CostRecord], CostRecordRepository):
    """Cost records in SQL."""

    _record_type: ClassVar[RecordType[CostRecord]] = _COST_RECORD

    @override
    async def save(self, record: CostRecord) -> None:
        await self.write(
            *self._statements(
                "cost_records.save", _INSERT, _parameters, (record,), failed=events.COST_RECORD_SAVE_FAILED
            ),
            done=events.COST_RECORD_SAVED,
            failed=events.COST_RECORD_SAVE_FAILED,
            agent_id=record.agent_id,
            task_id=record.task_id,
        )

    @override
    async def save_many(self, records: Iterable[CostRecord]) -> None:
        records = tuple(records)
        self._check_count(records, failed=events.COST_RECORD_SAVE_FAILED)
        if not records:
            return
        await self.write(
            *self._statements(
                "cost_records.save_many", _INSERT, _parameters, records, failed=events.COST_RECORD_SAVE_FAILED
            ),
            done=events.COST_RECORD_SAVED,
            failed=events.COST_RECORD_SAVE_FAILED,
            count=len(records),
        )

    @override
    async def query(
        self,
        *,
        agent_id: str | None = None,
        task_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[CostRecord]:
        filters = {"task_id": task_id, "agent_id": agent_id}
        return await self._page(_QUERY, filters, window=Window(since, until), limit=limit, cursor=cursor)

    @override
    async def aggregate(
        self,
        *,
        agent_id: str | None = None,
        task_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> float:
        filters = {"task_id": task_id, "agent_id": agent_id}
        window = Window(since, until)
        asked = {**filters, **window._asdict()}
        failed = events.COST_RECORD_AGGREGATE_FAILED
        try:
            statement = aggregate("cost_records.aggregate", _SUM, filters, window)
        except QueryError as error:
            self._log.failure(failed, error, **asked)
            raise
        row: TupleRow = await self.read(statement, failed=failed, **asked)
        total = float(row[0])
        if math.isinf(total):
            overflow = QueryError(
                "the sum of the costs exceeds the largest 64-bit float: narrow the filters or the window"
            )
            self._log.failure(failed, overflow, **asked)
            raise overflow
        self._log.debug(events.COST_RECORD_AGGREGATED, **asked)
        return total


def _parameters(record: CostRecord) -> tuple[object, ...]:
    category = record.call_category
    return (
        format_timestamp(record.timestamp),
        record.agent_id,
        record.task_id,
        record.provider,
        record.model,
        record.input_tokens,
        record.output_tokens,
        record.cost_usd,
        None if category is None else category.value,
    )
