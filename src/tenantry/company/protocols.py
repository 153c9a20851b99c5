"""The interfaces of a company's repositories, which every back end implements.

`isinstance` checks only that a repository has the methods' names; the conformance suite tests a repository's behaviour.
"""

from collections.abc import Iterable
from datetime import datetime

# With `typing.Protocol` of Python 3.11, `isinstance` reads every property, and a disconnected back end's properties raise.
from typing_extensions import Protocol, runtime_checkable

from tenantry.company.enums import AuditVerdict, RiskLevel, TaskStatus
from tenantry.company.models import AuditEntry, CostRecord, Message, Task
from tenantry.pages import Page


@runtime_checkable
class TaskRepository(Protocol):
    """Stores tasks."""

    async def save(self, task: Task) -> None:
        """Insert the task, or replace the stored task with the same id; the transition is not checked.

        Raises:
            QueryError: The task was made without validation and cannot be stored.
        """

    async def get(self, task_id: str) -> Task | None:
        """Return the task with this id; None if no such task exists.

        Raises:
            QueryError: The id is not a string.
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
        """Return the tasks that match all given filters, ordered by id.

        Args:
            status: The status to filter by.
            assigned_to: The agent to filter by.
            project: The project to filter by.
            limit: The maximum number of tasks, at least 1; None for a full page.
            cursor: The `next_cursor` of the previous page.

        Raises:
            QueryError: The limit or the cursor is not valid.
            MalformedRowError: A stored row is not a valid task.
        """

    async def delete(self, task_id: str) -> bool:
        """Delete the task with this id, and return whether the task existed.

        Raises:
            QueryError: The id is not a string.
        """


@runtime_checkable
class CostRecordRepository(Protocol):
    """Stores cost records, which are append-only."""

    async def save(self, record: CostRecord) -> None:
        """Append the record.

        Raises:
            QueryError: The record was made without validation and cannot be stored.
        """

    async def save_many(self, records: Iterable[CostRecord]) -> None:
        """Append all records in one transaction.

        Raises:
            QueryError: There are more than `SAVE_MANY_ROWS_MAX` records, or a record was made without validation.
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
        """Return the records that match all given filters, oldest first; equal timestamps are in insertion order.

        Args:
            agent_id: The agent to filter by.
            task_id: The task to filter by.
            since: The earliest timestamp, inclusive.
            until: The latest timestamp, inclusive.
            limit: The maximum number of records, at least 1; None for a full page.
            cursor: The `next_cursor` of the previous page.

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
        """Return the sum of `cost_usd` over the records that match all given filters, or 0.0 if no record matches.

        The sum of a million records is exact to the cent. The store keeps each cost as the given 64-bit float, and the
        store's function `exact_sum` rounds only once, at the end, like `math.fsum`. The result is within half a unit in the last
        place of the true sum of the stored floats. Each stored float has a relative error of at most 2⁻⁵³. For a million
        calls of 1,000 dollars, these errors add up to at most a ten-thousandth of a cent.

        Args:
            agent_id: The agent to filter by.
            task_id: The task to filter by.
            since: The earliest timestamp, inclusive.
            until: The latest timestamp, inclusive.

        Raises:
            QueryError: The window is not valid, or the sum exceeds the largest float.
        """


@runtime_checkable
class MessageRepository(Protocol):
    """Stores messages, which are append-only."""

    async def save(self, message: Message) -> None:
        """Append the message.

        Raises:
            DuplicateRecordError: A message with this id exists.
            QueryError: The message was made without validation and cannot be stored.
        """

    async def save_many(self, messages: Iterable[Message]) -> None:
        """Append all messages in one transaction.

        Raises:
            DuplicateRecordError: A message has the id of a stored message, or two of the messages have the same id.
            QueryError: There are more than `SAVE_MANY_ROWS_MAX` messages, or a message was made without validation.
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
        """Return a channel's messages, newest first; equal timestamps are in reverse insertion order.

        Args:
            channel: The channel's name.
            limit: The maximum number of messages, at least 1; None for a full page.
            sender: The sender to filter by.
            since: The earliest timestamp, inclusive.
            until: The latest timestamp, inclusive.
            cursor: The `next_cursor` of the previous page.

        Raises:
            QueryError: The channel is not a string, or the limit, the window or the cursor is not valid.
            MalformedRowError: A stored row is not a valid message.
        """


@runtime_checkable
class AuditRepository(Protocol):
    """Stores audit entries, which are append-only."""

    async def save(self, entry: AuditEntry) -> None:
        """Append the entry.

        Raises:
            DuplicateRecordError: An entry with this id exists.
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
        """Return the entries that match all given filters, newest first; equal timestamps are in reverse insertion order.

        Args:
            agent_id: The agent to filter by.
            action_type: The type of action to filter by.
            verdict: The verdict to filter by.
            risk_level: The risk level to filter by.
            since: The earliest timestamp, inclusive.
            until: The latest timestamp, inclusive.
            limit: The maximum number of entries, at least 1; None for a full page.
            cursor: The `next_cursor` of the previous page.

        Raises:
            QueryError: The limit, the window or the cursor is not valid.
            MalformedRowError: A stored row is not a valid entry.
        """


@runtime_checkable
class CompanyRepositories(Protocol):
    """The repositories of a company, as attributes of a back end, a tenant's handle or a transaction."""

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
