"""Makes valid records with default values for the fields that a check does not set."""

from datetime import UTC, datetime, timedelta
from typing import Any

from tenantry.company import (
    AuditEntry,
    AuditVerdict,
    CostRecord,
    Message,
    MessageType,
    RiskLevel,
    Task,
    TaskType,
    ToolCategory,
)

_NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def at_minute(minutes: float) -> datetime:
    """Return the time this many minutes after noon on a fixed day."""
    return _NOON + timedelta(minutes=minutes)


def make_task(task_id: str = "task", **fields: Any) -> Task:
    """Return a task."""
    others = {
        "title": "Write it",
        "description": "All of it",
        "type": TaskType.DEVELOPMENT,
        "project": "apollo",
        "created_by": "ada",
    }
    return Task(id=task_id, **{**others, **fields})


def make_cost_record(cost_usd: float = 1.0, **fields: Any) -> CostRecord:
    """Return a cost record."""
    others = {
        "agent_id": "ada",
        "task_id": "task",
        "provider": "acme",
        "model": "small",
        "input_tokens": 10,
        "output_tokens": 1,
        "timestamp": _NOON,
    }
    return CostRecord(cost_usd=cost_usd, **{**others, **fields})


def make_message(content: str = "hello", **fields: Any) -> Message:
    """Return a message."""
    others = {
        "timestamp": _NOON,
        "sender": "ada",
        "to": "bob",
        "channel": "general",
        "type": MessageType.ANNOUNCEMENT,
    }
    return Message(content=content, **{**others, **fields})


def make_audit_entry(entry_id: str = "entry", **fields: Any) -> AuditEntry:
    """Return an audit entry."""
    others = {
        "timestamp": _NOON,
        "tool_name": "read_file",
        "tool_category": ToolCategory.FILE_SYSTEM,
        "action_type": "read",
        "arguments_hash": "0" * 64,
        "verdict": AuditVerdict.ALLOW,
        "risk_level": RiskLevel.LOW,
        "reason": "allowed by rule",
        "evaluation_duration_ms": 0.5,
    }
    return AuditEntry(id=entry_id, **{**others, **fields})
