"""The repository of audit entries, which are append-only and read in pages, newest first."""

from datetime import datetime
from typing import ClassVar

from typing_extensions import override

from tenantry import events
from tenantry.company.enums import AuditVerdict, RiskLevel
from tenantry.company.models import AuditEntry
from tenantry.company.protocols import AuditRepository
from tenantry.company.queries import NEWEST_FIRST, Listing, Window
from tenantry.company.records import RecordRepository, RecordType, to_json
from tenantry.company.types import format_timestamp
from tenantry.pages import Page

AUDIT_PAGE_ROWS = 100
_AUDIT_ENTRY = RecordType(
    entity="audit_entry",
    table="audit_entries",
    model=AuditEntry,
    key=("timestamp", "seq"),
    columns=(
        "id",
        "agent_id",
        "task_id",
        "tool_name",
        "tool_category",
        "action_type",
        "arguments_hash",
        "verdict",
        "risk_level",
        "reason",
        "matched_rules",
        "evaluation_duration_ms",
        "approval_id",
    ),
    json={"matched_rules": "[]"},
    named={"entry_id": "id"},
    malformed=events.AUDIT_ENTRY_DESERIALIZE_FAILED,
)
_INSERT = _AUDIT_ENTRY.insert
_QUERY = Listing(
    "audit_entries.query",
    _AUDIT_ENTRY.select,
    NEWEST_FIRST,
    done=events.AUDIT_ENTRY_QUERIED,
    failed=events.AUDIT_ENTRY_QUERY_FAILED,
)


class SQLAuditRepository(RecordRepository[AuditEntry], AuditRepository):
    """Audit entries in SQL."""

    _record_type: ClassVar[RecordType[AuditEntry]] = _AUDIT_ENTRY

    @override
    async def save(self, entry: AuditEntry) -> None:
        await self.write(
            *self._statements(
                "audit_entries.save", _INSERT, _parameters, (entry,), failed=events.AUDIT_ENTRY_SAVE_FAILED
            ),
            done=events.AUDIT_ENTRY_SAVED,
            failed=events.AUDIT_ENTRY_SAVE_FAILED,
            entry_id=entry.id,
        )

    @override
    async def query(
        self,
        *,
        agent_id: str | None = None,
        action_type: str | None = None,
        verdict: AuditVerdict | None = None,
        risk_level: RiskLevel | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = AUDIT_PAGE_ROWS,
        cursor: str | None = None,
    ) -> Page[AuditEntry]:
        filters = {
            "agent_id": agent_id,
            "action_type": action_type,
            "verdict": verdict,
            "risk_level": risk_level,
        }
        return await self._page(_QUERY, filters, window=Window(since, until), limit=limit, cursor=cursor)


def _parameters(entry: AuditEntry) -> tuple[object, ...]:
    return (
        format_timestamp(entry.timestamp),
        entry.id,
        entry.agent_id,
        entry.task_id,
        entry.tool_name,
        entry.tool_category.value,
        entry.action_type,
        entry.arguments_hash,
        entry.verdict.value,
        entry.risk_level.value,
        entry.reason,
        to_json(entry.matched_rules),
        entry.evaluation_duration_ms,
        entry.approval_id,
    )
