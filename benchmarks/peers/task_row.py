"""A task, and its row: every side serializes and validates it with the same code; see `message_row`."""

from collections.abc import Callable, Sequence
from itertools import cycle
from random import Random

from tenantry.company import Complexity, Priority, Task, TaskStatus, TaskType

# Private to tenantry, and used all the same: a peer with decoding of its own would be compared by that.
from tenantry.company.tasks import _GET as GET
from tenantry.company.tasks import _TASK
from tenantry.company.tasks import _UPSERT as UPSERT
from tenantry.company.tasks import _parameters as task_row

__all__ = ["GET", "TASK_COLUMNS", "UPSERT", "build_tasks", "decode_task", "task_id_picker", "task_row"]

TASK_COLUMNS = _TASK.inserted
decode_task = _TASK.decode
_SEED = 20_261_123
_PICKED = 4096


def build_tasks(count: int) -> list[Task]:
    """Return so many ordinary tasks."""
    return [_build(number) for number in range(count)]


def task_id_picker(tasks: Sequence[Task]) -> Callable[[], str]:
    """Return what gives the id of a task at random; the same ids in the same order for every side."""
    # Drawn before, so that drawing is no part of what is measured.
    picked = cycle(Random(_SEED).choices([task.id for task in tasks], k=_PICKED))
    return picked.__next__


def _build(number: int) -> Task:
    return Task(
        id=f"task-{number:06}",
        title="Review the storage layer",
        description="Read the write path and the read path, and write down what would lose an acknowledged write.",
        type=TaskType.DEVELOPMENT,
        priority=Priority.HIGH,
        project=f"project-{number % 16:02}",
        created_by="grace",
        assigned_to="ada",
        reviewers=("alan", "barbara"),
        dependencies=(),
        estimated_complexity=Complexity.COMPLEX,
        budget_limit=12.5,
        status=TaskStatus.ASSIGNED,
    )
