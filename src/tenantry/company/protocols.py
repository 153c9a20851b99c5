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
        """Insert the task, or replace the one that has its id; transitions are not checked.

        Raises:
            QueryError: The task was made without validation and cannot be stored.
        """

    async def get(self, task_id: str) -> Task | None:
        """Return the task with this id, or None.

        Raises:
            QueryError: The id is not a text.
            MalformedRowError: The stored row is not a valid task.
        """

    async def list_tasks(
        self,
        *,
        status: TaskStatus | None = None,
        assigned_to: str | None = None,
        project: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[Task]:
        """Return the tasks that pass all filters given, ordered by id.

        Args:
            status: Only tasks in this status.
            assigned_to: Only tasks of this agent.
            project: Only tasks of this project.
            limit: How many at most, from 1; None for as many as a page can hold.
            cursor: The `next_cursor` of the page before.

        Raises:
            QueryError: The limit or the cursor is refused.
            MalformedRowError: A stored row is not a valid task.
        """

    async def delete(self, task_id: str) -> bool:
        """Delete the task with this id; return whether there was one.

        Raises:
            QueryError: The id is not a text.
        """


@runtime_checkable
class CostRecordRepository(Protocol):
    """Stores cost records; append-only."""

    async def save(self, record: CostRecord) -> None:
        """Append the record.

        Raises:
            QueryError: The record was made without validation and cannot be stored.
        """

    async def save_many(self, records: Iterable[CostRecord]) -> None:
        """Append the records in one transaction: all or none.

        Raises:
            QueryError: There are more than `SAVE_MANY_ROWS_MAX`, or one was made without validation.
        """

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
        """Return the records that pass all filters given, oldest first; records of one instant in the order of insertion.

        Args:
            agent_id: Only records of this agent.
            task_id: Only records of this task.
            since: Only records from this instant on.
            until: Only records up to this instant, itself included.
            limit: How many at most, from 1; None for as many as a page can hold.
            cursor: The `next_cursor` of the page before.

        Raises:
            QueryError: The limit, the window or the cursor is not valid.
            MalformedRowError: A stored row is not a valid record.
        """

    async def aggregate(
        self,
        *,
        agent_id: str | None = None,
        task_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> float:
        """Return the sum of `cost_usd` over the records that pass all filters given; 0.0 without any such record.

        The sum is exact to the cent at a million records. Each cost is stored as the 64-bit float that was given, and
        `exact_sum`, which the store provides, rounds only once, at the end, like `math.fsum`. So the result is within half a unit
        in the last place of the true sum of the stored values. The costs themselves were rounded to floats before they were
        given, each by a relative error of at most 2⁻⁵³: for a million calls of 1,000 dollars, a ten-thousandth of a cent.

        Args:
            agent_id: Only records of this agent.
            task_id: Only records of this task.
            since: Only records from this instant on.
            until: Only records up to this instant, itself included.

        Raises:
            QueryError: The window is not valid, or the sum is larger than a float can be.
        """


@runtime_checkable
class MessageRepository(Protocol):
    """Stores messages; append-only."""

    async def save(self, message: Message) -> None:
        """Append the message.

        Raises:
            DuplicateRecordError: A message with its id exists.
            QueryError: The message was made without validation and cannot be stored.
        """

    async def save_many(self, messages: Iterable[Message]) -> None:
        """Append the messages in one transaction: all or none.

        Raises:
            DuplicateRecordError: One has the id of a stored message or of another of the messages; the database does not say
                which.
            QueryError: There are more than `SAVE_MANY_ROWS_MAX`, or one was made without validation.
        """

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
        """Return a channel's messages, newest first; of one instant, the one that was appended last comes first.

        Args:
            channel: The channel's name.
            limit: How many at most, from 1; None for as many as a page can hold.
            sender: Only messages of this sender.
            since: Only messages from this instant on.
            until: Only messages up to this instant, itself included.
            cursor: The `next_cursor` of the page before.

        Raises:
            QueryError: The channel is not a text, or the limit, the window or the cursor is refused.
            MalformedRowError: A stored row is not a valid message.
        """


@runtime_checkable
class AuditRepository(Protocol):
    """Stores audit entries; append-only."""

    async def save(self, entry: AuditEntry) -> None:
        """Append the entry.

        Raises:
            DuplicateRecordError: An entry with its id exists.
            QueryError: The entry was made without validation and cannot be stored.
        """

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
        """Return the entries that pass all filters given, newest first; of one instant, the last appended first.

        Args:
            agent_id: Only entries of this agent.
            action_type: Only entries of this type of action.
            verdict: Only entries with this verdict.
            risk_level: Only entries of this level.
            since: Only entries from this instant on.
            until: Only entries up to this instant, itself included.
            limit: How many at most, from 1; None for as many as a page can hold.
            cursor: The `next_cursor` of the page before.

        Raises:
            QueryError: The limit, the window or the cursor is refused.
            MalformedRowError: A stored row is not a valid entry.
        """


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
