"""Valid models for tests that need one and do not care which."""

from datetime import UTC, datetime
from typing import Any

from tenantry.company import CostRecord, Message, MessageType, Task, TaskType

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
