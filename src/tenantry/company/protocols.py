"""The interfaces of a company's repositories, the same for every back end.

The protocols are runtime-checkable, which checks names but not signatures; the conformance suite tests the behaviour of a
repository.
"""

from collections.abc import Iterable
from datetime import datetime

# The runtime check of Python 3.11 reads every property, and those of a back end raise while it is not connected.
from typing_extensions import Protocol, runtime_checkable

from tenantry.company.enums import AuditVerdict, RiskLevel, TaskStatus
from tenantry.company.models import AuditEntry, CostRecord, Message, Task
from tenantry.pages import Page


@runtime_checkable
class TaskRepository(Protocol):
    """Stores tasks."""

    async def save(self, task: Task) -> None:
        """Insert the task, or replace the one that has its id; transitions are not checked."""

    async def get(self, task_id: str) -> Task | None:
        """Return the task with this id, or None."""

    async def list_tasks(
        self,
        *,
        status: TaskStatus | None = None,
        assigned_to: str | None = None,
        project: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[Task]:
        """Return a page of the tasks that pass all filters given, in a total order."""

    async def delete(self, task_id: str) -> bool:
        """Delete the task with this id; return whether there was one."""


@runtime_checkable
class CostRecordRepository(Protocol):
    """Stores cost records; append-only."""

    async def save(self, record: CostRecord) -> None:
        """Append the record."""

    async def save_many(self, records: Iterable[CostRecord]) -> None:
        """Append the records in one transaction: all or none."""

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
        """Return a page of the records that pass all filters given, in a total order; the window is inclusive."""

    async def aggregate(
        self,
        *,
        agent_id: str | None = None,
        task_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> float:
        """Return the sum of `cost_usd`, exact to the cent at a million records; 0.0 if none match."""


@runtime_checkable
class MessageRepository(Protocol):
    """Stores messages; append-only."""

    async def save(self, message: Message) -> None:
        """Append the message; raises `DuplicateRecordError` if its id exists."""

    async def save_many(self, messages: Iterable[Message]) -> None:
        """Append the messages in one transaction: all or none."""

    async def get_history(
        self,
        channel: str,
        *,
        limit: int | None = None,
        sender: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        cursor: str | None = None,
    ) -> Page[Message]:
        """Return a page of a channel's messages, newest first; the window is inclusive."""


@runtime_checkable
class AuditRepository(Protocol):
    """Stores audit entries; append-only."""

    async def save(self, entry: AuditEntry) -> None:
        """Append the entry; raises `DuplicateRecordError` if its id exists."""

    async def query(
        self,
        *,
        agent_id: str | None = None,
        action_type: str | None = None,
        verdict: AuditVerdict | None = None,
        risk_level: RiskLevel | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = 100,
        cursor: str | None = None,
    ) -> Page[AuditEntry]:
        """Return a page of the entries that pass all filters given, newest first; the window is inclusive."""


@runtime_checkable
class CompanyRepositories(Protocol):
    """The repositories of a company, as a back end, a tenant's handle and a transaction have them."""

    @property
    def tasks(self) -> TaskRepository:
        """The tasks."""

    @property
    def cost_records(self) -> CostRecordRepository:
        """The cost records."""

    @property
    def messages(self) -> MessageRepository:
        """The messages."""

    @property
    def audit_entries(self) -> AuditRepository:
        """The audit entries."""
