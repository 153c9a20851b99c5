"""The allowed transitions of a task. `Task.with_transition` checks a transition; a repository stores any valid task."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from tenantry.company.enums import TaskStatus

S = TaskStatus

TASK_TRANSITIONS: Final[Mapping[TaskStatus, frozenset[TaskStatus]]] = MappingProxyType(
    {
        S.CREATED: frozenset({S.ASSIGNED}),
        S.ASSIGNED: frozenset({S.IN_PROGRESS, S.BLOCKED, S.CANCELLED, S.FAILED, S.INTERRUPTED}),
        S.IN_PROGRESS: frozenset({S.IN_REVIEW, S.BLOCKED, S.CANCELLED, S.FAILED, S.INTERRUPTED}),
        S.IN_REVIEW: frozenset({S.COMPLETED, S.IN_PROGRESS, S.BLOCKED, S.CANCELLED}),
        S.BLOCKED: frozenset({S.ASSIGNED}),
        S.FAILED: frozenset({S.ASSIGNED}),
        S.INTERRUPTED: frozenset({S.ASSIGNED}),
        S.COMPLETED: frozenset(),
        S.CANCELLED: frozenset(),
    }
)
"""The statuses that can follow each status; nothing follows a final status."""

STATUSES_WITHOUT_ASSIGNEE: Final = frozenset({S.CREATED})
STATUSES_WITH_ASSIGNEE: Final = frozenset({S.ASSIGNED, S.IN_PROGRESS, S.IN_REVIEW, S.COMPLETED})
"""The statuses that require an assignee; all statuses outside both sets allow a task with or without an assignee."""


def check_transition(current: TaskStatus, target: TaskStatus) -> None:
    """Raise ValueError unless a task may go from `current` to `target`; the message lists the allowed statuses."""
    allowed = TASK_TRANSITIONS[current]
    if target not in allowed:
        ways = ", ".join(sorted(allowed)) or "no status, because it is final"
        raise ValueError(f"a task cannot go from {current} to {target}; {current} allows {ways}")
