"""The repository of tasks, which are saved by upsert, and read by id or in pages ordered by id."""

from typing import ClassVar

from typing_extensions import override

from tenantry import events
from tenantry.company.enums import TaskStatus
from tenantry.company.models import Task
from tenantry.company.protocols import TaskRepository
from tenantry.company.queries import BY_ID, Listing
from tenantry.company.records import RecordRepository, RecordType, to_json
from tenantry.pages import Page
from tenantry.sql.statements import Fetch, Statement, TupleRow

_TASK = RecordType(
    entity="task",
    table="tasks",
    model=Task,
    key=("id",),
    columns=(
        "title",
        "description",
        "type",
        "priority",
        "project",
        "created_by",
        "assigned_to",
        "reviewers",
        "dependencies",
        "artifacts_expected",
        "acceptance_criteria",
        "estimated_complexity",
        "budget_limit",
        "deadline",
        "max_retries",
        "status",
        "parent_task_id",
        "delegation_chain",
        "task_structure",
        "coordination_topology",
    ),
    json=dict.fromkeys(
        ("reviewers", "dependencies", "artifacts_expected", "acceptance_criteria", "delegation_chain"), "[]"
    ),
    named={"task_id": "id"},
    malformed=events.TASK_DESERIALIZE_FAILED,
)
_UPSERT = f"{_TASK.insert} ON CONFLICT (id) DO UPDATE SET " + ", ".join(
    f'"{column}" = excluded."{column}"' for column in _TASK.columns
)
_GET = f"{_TASK.select} WHERE id = ?"
_DELETE = "DELETE FROM tasks WHERE id = ?"
_LIST = Listing(
    "tasks.list_tasks", _TASK.select, BY_ID, done=events.TASK_LISTED, failed=events.TASK_LIST_FAILED
)


class SQLTaskRepository(RecordRepository[Task], TaskRepository):
    """Tasks in SQL."""

    _record_type: ClassVar[RecordType[Task]] = _TASK

    @override
    async def save(self, task: Task) -> None:
        await self.write(
            *self._statements("tasks.save", _UPSERT, _parameters, (task,), failed=events.TASK_SAVE_FAILED),
            done=events.TASK_SAVED,
            failed=events.TASK_SAVE_FAILED,
            task_id=task.id,
        )

    @override
    async def get(self, task_id: str) -> Task | None:
        self._check_key(failed=events.TASK_FETCH_FAILED, task_id=task_id)
        row: TupleRow | None = await self.read(
            Statement("tasks.get", _GET, (task_id,), Fetch.ONE),
            failed=events.TASK_FETCH_FAILED,
            task_id=task_id,
        )
        task = None if row is None else self._decode(row, task_id=task_id)
        self._log.debug(events.TASK_FETCHED, task_id=task_id, found=task is not None)
        return task

    @override
    async def list_tasks(
        self,
        *,
        status: TaskStatus | None = None,
        assigned_to: str | None = None,
        project: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[Task]:
        filters = {"assigned_to": assigned_to, "project": project, "status": status}
        return await self._page(_LIST, filters, limit=limit, cursor=cursor)

    @override
    async def delete(self, task_id: str) -> bool:
        self._check_key(failed=events.TASK_DELETE_FAILED, task_id=task_id)
        (count,) = await self.write(
            Statement("tasks.delete", _DELETE, (task_id,), Fetch.ROWCOUNT),
            done=None,
            failed=events.TASK_DELETE_FAILED,
            task_id=task_id,
        )
        if count:
            self._log.debug(events.TASK_DELETED, task_id=task_id)
        return bool(count)


def _parameters(task: Task) -> tuple[object, ...]:
    return (
        task.id,
        task.title,
        task.description,
        task.type.value,
        task.priority.value,
        task.project,
        task.created_by,
        task.assigned_to,
        to_json(task.reviewers),
        to_json(task.dependencies),
        to_json(task.artifacts_expected),
        to_json(task.acceptance_criteria),
        task.estimated_complexity.value,
        task.budget_limit,
        task.deadline,
        task.max_retries,
        task.status.value,
        task.parent_task_id,
        to_json(task.delegation_chain),
        None if task.task_structure is None else task.task_structure.value,
        task.coordination_topology.value,
    )
