"""Valid models for tests that need one and do not care which."""

from datetime import UTC, datetime
from typing import Any

from tenantry.company import CostRecord, Message, MessageType, Task, TaskType
from tenantry.storage.archive.manifest import Manifest

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def a_message(**fields: Any) -> Message:
    """Return a message; its id is a new one unless given."""
    defaults = {"timestamp": NOON, "sender": "ada", "to": "bob", "channel": "general", "content": "Hello."}
    return Message(**{**defaults, "type": MessageType.QUESTION, **fields})


def a_task(**fields: Any) -> Task:
    """Return a task."""
    defaults = {
        "id": "task-1",
        "title": "Do it",
        "description": "All of it.",
        "project": "demo",
        "created_by": "ada",
    }
    return Task(**{**defaults, "type": TaskType.RESEARCH, **fields})


def a_cost_record(**fields: Any) -> CostRecord:
    """Return a cost record."""
    defaults = {"agent_id": "ada", "task_id": "task-1", "provider": "p", "model": "m", "timestamp": NOON}
    return CostRecord(**{**defaults, "input_tokens": 10, "output_tokens": 5, "cost_usd": 0.25, **fields})


def a_manifest(**fields: Any) -> Manifest:
    """Return a snapshot's manifest."""
    defaults = {
        "kind": "snapshot",
        "snapshot_id": "20261123t120000000000z-00ff",
        "tenant_id": "acme",
        "tenant_uid": "4f2a9c0d4f2a9c0d4f2a9c0d4f2a9c0d",
        "display_name": "Acme, Inc.",
        "created_at": NOON,
        "trigger": "manual",
        "schema_versions": {"company": 1},
        "row_counts": {"messages": 2, "tasks": 0},
        "database_bytes": 4096,
        "database_sha256": "ab" * 32,
        "stored_bytes": 512,
        "stored_sha256": "cd" * 32,
        "tenantry_version": "0.1.0",
        "sqlite_version": "3.51.3",
    }
    return Manifest(**{**defaults, **fields})
