"""The conformance suite of the company's repositories: the checks of `REPOSITORY_CHECKS`, each on a new database."""

import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta, timezone
from typing import Any, Final, TypeAlias, TypeVar
from uuid import UUID

from tenantry.company import (
    SAVE_MANY_ROWS_MAX,
    AcceptanceCriterion,
    ArtifactType,
    Attachment,
    AttachmentType,
    AuditRepository,
    AuditVerdict,
    CompanyRepositories,
    Complexity,
    CoordinationTopology,
    CostRecordRepository,
    ExpectedArtifact,
    LLMCallCategory,
    MessageMetadata,
    MessagePriority,
    MessageRepository,
    Priority,
    RiskLevel,
    TaskRepository,
    TaskStatus,
    TaskStructure,
)
from tenantry.errors import DuplicateRecordError, QueryError
from tenantry.pages import PAGE_ROWS_MAX, Page
from tenantry.testing.conformance.expectations import Checks, expect, expect_raised
from tenantry.testing.conformance.samples import (
    at_minute,
    make_audit_entry,
    make_cost_record,
    make_message,
    make_task,
)

T = TypeVar("T")


OpenRepositories: TypeAlias = Callable[[], AbstractAsyncContextManager[CompanyRepositories]]
"""Opens repositories on an empty, migrated database that no other process uses."""

RepositoryCheck: TypeAlias = Callable[[CompanyRepositories], Awaitable[None]]
_ReadPage: TypeAlias = Callable[..., Awaitable[Page[T]]]

_ROWS: Final = 7
_BAD_LIMITS: Final = (0, -1, PAGE_ROWS_MAX + 1)
_AUDIT_PAGE_ROWS: Final = 100

_checks: Final = Checks[RepositoryCheck]()


async def check_repositories(open_repositories: OpenRepositories) -> None:
    """Run all checks, each on new repositories; the first failure raises."""
    for check in REPOSITORY_CHECKS:
        async with open_repositories() as repositories:
            await check(repositories)


async def _walk(read_page: _ReadPage[T], *, limit: int, **filters: Any) -> list[T]:
    """Return the rows of all pages; assert that all pages but the last are full, and that no further page is empty."""
    page = await read_page(limit=limit, **filters)
    rows = list(page)
    while page.next_cursor is not None:
        expect(len(page), limit)
        page = await read_page(limit=limit, cursor=page.next_cursor, **filters)
        assert page, "next_cursor led to an empty page"
        rows += page
    return rows


async def _check_walks(read_page: _ReadPage[T], expected: list[T], **filters: Any) -> None:
    """Assert that pages of any size contain every row once and in order."""
    for limit in (1, 2, len(expected) or 1, len(expected) + 1):
        expect(await _walk(read_page, limit=limit, **filters), expected)
    expect(await read_page(limit=None, **filters), tuple(expected))


async def _check_refuses(read_page: Callable[..., Awaitable[Any]], **arguments: Any) -> None:
    with expect_raised(QueryError) as raised:
        await read_page(**arguments)
    expect(raised[0].is_retryable, False)


async def _check_refuses_paging(read_page: Callable[..., Awaitable[Any]], other_cursor: str) -> None:
    for limit in _BAD_LIMITS:
        await _check_refuses(read_page, limit=limit)
    for cursor in ("", "nonsense", other_cursor):
        await _check_refuses(read_page, cursor=cursor)


async def _check_refuses_windows(read: Callable[..., Awaitable[Any]]) -> None:
    await _check_refuses(read, since=at_minute(1), until=at_minute(0))
    for name in ("since", "until"):
        await _check_refuses(read, **{name: datetime(2026, 1, 31)})  # noqa: DTZ001  # naive on purpose
        await _check_refuses(read, **{name: "2026-01-31"})


def _expect_sum(actual: float, values: list[float]) -> None:
    """Assert that a sum is exact to one unit in the last place: a back end may add the values as decimal numbers."""
    exact = math.fsum(values)
    assert abs(actual - exact) <= math.ulp(exact), f"expected {exact!r}, not {actual!r}"


async def _check_windows(
    read: Callable[..., Awaitable[tuple[T, ...]]], by_minute: Callable[[int, int], list[T]]
) -> None:
    """Assert that a window includes both ends, in any time zone, and that an omitted end is open."""
    last = _ROWS - 1
    east = timezone(timedelta(hours=5, minutes=45))
    cases = [
        (0, last),
        (2, 4),
        (3, 3),
    ]
    for first, end in cases:
        window = {"since": at_minute(first).astimezone(east), "until": at_minute(end)}
        expect(await read(**window), tuple(by_minute(first, end)))
    expect(await read(since=at_minute(3)), tuple(by_minute(3, last)))
    expect(await read(until=at_minute(3)), tuple(by_minute(0, 3)))
    expect(await read(since=at_minute(last + 1)), ())
    expect(await read(until=at_minute(-1)), ())
    between = {"since": at_minute(2.1), "until": at_minute(2.9)}
    expect(await read(**between), ())


@_checks.add
async def check_repositories_have_their_names(repositories: CompanyRepositories) -> None:
    """Each repository has the methods of its protocol."""
    assert isinstance(repositories.tasks, TaskRepository)
    assert isinstance(repositories.cost_records, CostRecordRepository)
    assert isinstance(repositories.messages, MessageRepository)
    assert isinstance(repositories.audit_entries, AuditRepository)


@_checks.add
async def check_empty_database_has_nothing(repositories: CompanyRepositories) -> None:
    """On an empty database, every read method works without optional arguments, and returns nothing."""
    expect(await repositories.tasks.get("task"), None)
    expect(await repositories.tasks.list_tasks(), ())
    expect(await repositories.tasks.delete("task"), False)
    expect(await repositories.cost_records.query(), ())
    total = await repositories.cost_records.aggregate()
    expect((total, type(total)), (0.0, float))
    expect(await repositories.messages.get_history("general"), ())
    expect(await repositories.audit_entries.query(), ())


@_checks.add
async def check_task_comes_back_equal(repositories: CompanyRepositories) -> None:
    """A saved task is returned unchanged, with default values as well as with every field set."""
    plain = make_task("plain")
    full = make_task(
        "full",
        priority=Priority.CRITICAL,
        assigned_to="bob",
        reviewers=("cyd", "dan"),
        dependencies=("plain",),
        artifacts_expected=(ExpectedArtifact(type=ArtifactType.CODE, path="src/a b.py"),),
        acceptance_criteria=(AcceptanceCriterion(description="works ✓", met=True),),
        estimated_complexity=Complexity.EPIC,
        budget_limit=0.1,
        deadline="2026-02-01",
        max_retries=2**63 - 1,
        status=TaskStatus.IN_PROGRESS,
        parent_task_id="plain",
        delegation_chain=("ada",),
        task_structure=TaskStructure.MIXED,
        coordination_topology=CoordinationTopology.CENTRALIZED,
    )
    for task in (plain, full):
        expect(await repositories.tasks.save(task), None)  # type: ignore[func-returns-value]
        expect(await repositories.tasks.get(task.id), task)


@_checks.add
async def check_task_save_is_an_upsert(repositories: CompanyRepositories) -> None:
    """Saving a task with an existing id replaces the whole stored task, whatever its status."""
    await repositories.tasks.save(
        make_task("a", status=TaskStatus.COMPLETED, assigned_to="bob", reviewers=("x",))
    )
    replaced = make_task("a", title="Anew", project="zeus")
    await repositories.tasks.save(replaced)
    expect(await repositories.tasks.list_tasks(), (replaced,))
    expect(await repositories.tasks.list_tasks(assigned_to="bob"), ())
    expect(await repositories.tasks.list_tasks(project="apollo"), ())


@_checks.add
async def check_task_delete_says_whether_it_did(repositories: CompanyRepositories) -> None:
    """`delete` returns True if the task existed and False otherwise, and keeps other tasks."""
    kept = make_task("kept")
    await repositories.tasks.save(make_task("gone"))
    await repositories.tasks.save(kept)
    expect(await repositories.tasks.delete("gone"), True)
    expect(await repositories.tasks.delete("gone"), False)
    expect(await repositories.tasks.list_tasks(), (kept,))


@_checks.add
async def check_tasks_are_filtered_and_paged(repositories: CompanyRepositories) -> None:
    """Filters are combined with AND, in every combination, and pages of tasks are ordered by id."""
    tasks = [
        make_task(f"{agent or '-'}/{project}/{n}", assigned_to=agent, project=project, status=status)
        for n in range(2)
        for project in ("apollo", "zeus")
        for agent, status in [
            ("ada", TaskStatus.ASSIGNED),
            ("ada", TaskStatus.BLOCKED),
            ("bob", TaskStatus.ASSIGNED),
            (None, TaskStatus.BLOCKED),
        ]
    ]
    tasks = [task.model_copy(update={"id": f"{task.id}/{task.status}"}) for task in tasks]
    for task in reversed(tasks):
        await repositories.tasks.save(task)
    for status in (None, TaskStatus.ASSIGNED, TaskStatus.BLOCKED):
        for agent in (None, "ada", "bob"):
            for project in (None, "apollo", "zeus"):
                filters = {"status": status, "assigned_to": agent, "project": project}
                expected = [
                    task
                    for task in sorted(tasks, key=lambda task: task.id)
                    if all(value in (None, getattr(task, name)) for name, value in filters.items())
                ]
                await _check_walks(repositories.tasks.list_tasks, expected, **filters)
    expect(await repositories.tasks.list_tasks(project="nobody's"), ())


@_checks.add
async def check_tasks_refuse_bad_pages(repositories: CompanyRepositories) -> None:
    """A limit that is too small or too large, and a cursor that is not valid, raise `QueryError`."""
    for n in range(2):
        await repositories.audit_entries.save(make_audit_entry(str(n)))
    other = (await repositories.audit_entries.query(limit=1)).next_cursor
    assert other is not None
    await _check_refuses_paging(repositories.tasks.list_tasks, other)


@_checks.add
async def check_cost_records_are_appended(repositories: CompanyRepositories) -> None:
    """Cost records are returned unchanged, oldest first, with duplicates; equal timestamps are in insertion order."""
    late = make_cost_record(0.1, timestamp=at_minute(1), call_category=LLMCallCategory.SYSTEM)
    early = make_cost_record(0.0, input_tokens=0, output_tokens=0)
    twin = make_cost_record(5e-324, output_tokens=2**63 - 1)
    for record in (late, early, twin):
        await repositories.cost_records.save(record)
    await repositories.cost_records.save_many(iter([twin, early]))
    await _check_walks(repositories.cost_records.query, [early, twin, twin, early, late])


@_checks.add
async def check_cost_records_are_filtered_and_summed(repositories: CompanyRepositories) -> None:
    """Queries and sums of cost records combine filters and window with AND."""
    records = [
        make_cost_record(0.1 * (n + 1), agent_id=agent, task_id=task, timestamp=at_minute(n))
        for n in range(_ROWS)
        for agent in ("ada", "bob")
        for task in ("one", "two")
    ]
    await repositories.cost_records.save_many(reversed(records))
    windows: list[dict[str, Any]] = [
        {},
        {"since": at_minute(2)},
        {"until": at_minute(4)},
        {"since": at_minute(2), "until": at_minute(4)},
    ]
    for agent in (None, "ada", "bob", "nobody"):
        for task in (None, "one", "two"):
            for window in windows:
                expected = [
                    record
                    for record in records
                    if agent in (None, record.agent_id)
                    and task in (None, record.task_id)
                    and window.get("since", record.timestamp) <= record.timestamp
                    and record.timestamp <= window.get("until", record.timestamp)
                ]
                asked = {"agent_id": agent, "task_id": task, **window}
                found = await repositories.cost_records.query(**asked)
                expect(sorted(found, key=repr), sorted(expected, key=repr))
                expect([r.timestamp for r in found], sorted(r.timestamp for r in expected))
                total = await repositories.cost_records.aggregate(**asked)
                _expect_sum(total, [record.cost_usd for record in expected])


@_checks.add
async def check_cost_record_windows(repositories: CompanyRepositories) -> None:
    """A window includes both ends, and all pages stay within the window."""
    records = [make_cost_record(n, timestamp=at_minute(n)) for n in range(_ROWS)]
    await repositories.cost_records.save_many(records)
    await _check_windows(repositories.cost_records.query, lambda first, end: records[first : end + 1])
    await _check_walks(repositories.cost_records.query, records[2:5], since=at_minute(2), until=at_minute(4))


@_checks.add
async def check_sums_carry_no_error(repositories: CompanyRepositories) -> None:
    """A sum is rounded only once, at the end, so it includes amounts that a running sum would lose."""
    costs = [1e16, 1.0, 1.0, 0.1, 0.2, 0.3, 1e-9] * _ROWS
    await repositories.cost_records.save_many(make_cost_record(cost) for cost in costs)
    _expect_sum(await repositories.cost_records.aggregate(), costs)


@_checks.add
async def check_cost_records_refuse_bad_calls(repositories: CompanyRepositories) -> None:
    """Limits, cursors and windows that are not valid raise `QueryError`, and so do more records than `save_many` accepts."""
    for n in range(2):
        await repositories.messages.save(make_message(str(n)))
    other = (await repositories.messages.get_history("general", limit=1)).next_cursor
    assert other is not None
    await _check_refuses_paging(repositories.cost_records.query, other)
    await _check_refuses_windows(repositories.cost_records.query)
    await _check_refuses_windows(repositories.cost_records.aggregate)
    record = make_cost_record()
    with expect_raised(QueryError):
        await repositories.cost_records.save_many([record] * (SAVE_MANY_ROWS_MAX + 1))
    await repositories.cost_records.save_many([])
    expect(await repositories.cost_records.query(), ())


@_checks.add
async def check_message_comes_back_equal(repositories: CompanyRepositories) -> None:
    """A saved message is returned unchanged, with default values as well as with every field set."""
    plain = make_message()
    full = make_message(
        "\N{SNOWMAN}\n" * 100,
        timestamp=at_minute(1),
        priority=MessagePriority.URGENT,
        attachments=(Attachment(type=AttachmentType.LINK, ref="https://example.org"),),
        metadata=MessageMetadata(
            task_id="task", project_id="apollo", tokens_used=0, cost_usd=0.1, extra=(("b", ""), ("a", '"'))
        ),
    )
    await repositories.messages.save(plain)
    await repositories.messages.save_many([full])
    expect(await repositories.messages.get_history("general"), (full, plain))


@_checks.add
async def check_history_is_of_one_channel(repositories: CompanyRepositories) -> None:
    """A history contains one channel's messages, filtered by sender; equal timestamps are in reverse insertion order."""
    messages = [
        make_message(
            f"{channel} {n}", channel=channel, sender=("ada", "bob")[n % 2], timestamp=at_minute(n // 3)
        )
        for n in range(_ROWS)
        for channel in ("general", "other")
    ]
    await repositories.messages.save_many(messages)
    for channel in ("general", "other"):
        for sender in (None, "ada", "bob"):
            expected = [m for m in reversed(messages) if m.channel == channel and sender in (None, m.sender)]

            async def read_page(channel: str = channel, **arguments: Any) -> Page[Any]:
                return await repositories.messages.get_history(channel, **arguments)

            await _check_walks(read_page, expected, sender=sender)
    expect(await repositories.messages.get_history("nobody's"), ())


@_checks.add
async def check_history_windows(repositories: CompanyRepositories) -> None:
    """A window includes both ends, and all pages stay within the window."""
    messages = [make_message(str(n), timestamp=at_minute(n)) for n in range(_ROWS)]
    await repositories.messages.save_many(messages)

    async def read_page(**arguments: Any) -> Page[Any]:
        return await repositories.messages.get_history("general", **arguments)

    await _check_windows(read_page, lambda first, end: messages[first : end + 1][::-1])
    await _check_walks(read_page, messages[2:5][::-1], since=at_minute(2), until=at_minute(4))


@_checks.add
async def check_pages_hold_while_rows_arrive(repositories: CompanyRepositories) -> None:
    """A row that is inserted between two page reads neither repeats nor hides other rows."""
    first = [make_message(str(n), timestamp=at_minute(n)) for n in range(_ROWS)]
    await repositories.messages.save_many(first)
    page = await repositories.messages.get_history("general", limit=3)
    await repositories.messages.save(make_message("newer", timestamp=at_minute(_ROWS)))
    rest = await repositories.messages.get_history("general", cursor=page.next_cursor)
    expect([*page, *rest], first[::-1])


@_checks.add
async def check_message_ids_are_unique(repositories: CompanyRepositories) -> None:
    """A second message with the same id raises an error with that id, and the first message stays unchanged."""
    message = make_message(id=UUID(int=7))
    await repositories.messages.save(message)
    with expect_raised(DuplicateRecordError) as raised:
        await repositories.messages.save(make_message("another", id=message.id, channel="other"))
    expect(raised[0].record_id, str(message.id))
    expect(raised[0].is_retryable, False)
    expect(await repositories.messages.get_history("general"), (message,))
    expect(await repositories.messages.get_history("other"), ())


@_checks.add
async def check_save_many_messages_is_all_or_none(repositories: CompanyRepositories) -> None:
    """If one of many messages is a duplicate of a stored message or of another new message, no message is saved."""
    stored, fresh = make_message("stored"), make_message("fresh")
    await repositories.messages.save(stored)
    for messages in ([fresh, stored], [stored, fresh], [fresh, make_message(), fresh]):
        with expect_raised(DuplicateRecordError):
            await repositories.messages.save_many(messages)
        expect(await repositories.messages.get_history("general"), (stored,))
    await repositories.messages.save_many([])
    await repositories.messages.save_many(iter([fresh]))
    expect(await repositories.messages.get_history("general"), (fresh, stored))


@_checks.add
async def check_messages_refuse_bad_calls(repositories: CompanyRepositories) -> None:
    """Limits, cursors and windows that are not valid raise `QueryError`, and so do more messages than `save_many` accepts."""
    await repositories.cost_records.save_many([make_cost_record()] * 2)
    other = (await repositories.cost_records.query(limit=1)).next_cursor
    assert other is not None

    async def read_page(**arguments: Any) -> Page[Any]:
        return await repositories.messages.get_history("general", **arguments)

    await _check_refuses_paging(read_page, other)
    await _check_refuses_windows(read_page)
    with expect_raised(QueryError):
        await repositories.messages.save_many([make_message()] * (SAVE_MANY_ROWS_MAX + 1))
    expect(await read_page(), ())


@_checks.add
async def check_audit_entry_comes_back_equal(repositories: CompanyRepositories) -> None:
    """A saved audit entry is returned unchanged, with default values as well as with every field set."""
    plain = make_audit_entry("plain")
    full = make_audit_entry(
        "full",
        timestamp=at_minute(1),
        agent_id="ada",
        task_id="task",
        arguments_hash="0123456789abcdef" * 4,
        matched_rules=("no-secrets", "no, really"),
        evaluation_duration_ms=0.1,
        approval_id="approval",
    )
    await repositories.audit_entries.save(plain)
    await repositories.audit_entries.save(full)
    expect(await repositories.audit_entries.query(), (full, plain))


@_checks.add
async def check_audit_entries_are_filtered_and_paged(repositories: CompanyRepositories) -> None:
    """Filters are combined with AND, in every combination; equal timestamps are in reverse insertion order."""
    entries = [
        make_audit_entry(
            f"{agent} {action} {verdict} {risk}",
            agent_id=agent,
            action_type=action,
            verdict=verdict,
            risk_level=risk,
            timestamp=at_minute(n % 3),
        )
        for n, (agent, action, verdict, risk) in enumerate(
            (agent, action, verdict, risk)
            for agent in (None, "ada")
            for action in ("read", "write")
            for verdict in (AuditVerdict.ALLOW, AuditVerdict.DENY)
            for risk in (RiskLevel.LOW, RiskLevel.CRITICAL)
        )
    ]
    for entry in entries:
        await repositories.audit_entries.save(entry)
    newest_first = sorted(entries, key=lambda entry: entry.timestamp)[::-1]
    for agent in (None, "ada"):
        for action in (None, "write"):
            for verdict in (None, AuditVerdict.DENY):
                for risk in (None, RiskLevel.LOW):
                    filters = {
                        "agent_id": agent,
                        "action_type": action,
                        "verdict": verdict,
                        "risk_level": risk,
                    }
                    expected = [
                        entry
                        for entry in newest_first
                        if all(value in (None, getattr(entry, name)) for name, value in filters.items())
                    ]
                    await _check_walks(repositories.audit_entries.query, expected, **filters)


@_checks.add
async def check_audit_windows(repositories: CompanyRepositories) -> None:
    """A window includes both ends, and all pages stay within the window."""
    entries = [make_audit_entry(str(n), timestamp=at_minute(n)) for n in range(_ROWS)]
    for entry in entries:
        await repositories.audit_entries.save(entry)
    await _check_windows(repositories.audit_entries.query, lambda first, end: entries[first : end + 1][::-1])
    await _check_walks(
        repositories.audit_entries.query, entries[2:5][::-1], since=at_minute(2), until=at_minute(4)
    )


@_checks.add
async def check_audit_pages_hold_a_hundred(repositories: CompanyRepositories) -> None:
    """The default limit of a page of audit entries is 100."""
    for n in range(_AUDIT_PAGE_ROWS + 1):
        await repositories.audit_entries.save(make_audit_entry(str(n), timestamp=at_minute(n)))
    page = await repositories.audit_entries.query()
    expect((len(page), page[0].id), (_AUDIT_PAGE_ROWS, str(_AUDIT_PAGE_ROWS)))
    rest = await repositories.audit_entries.query(cursor=page.next_cursor)
    expect(([entry.id for entry in rest], rest.next_cursor), (["0"], None))


@_checks.add
async def check_audit_ids_are_unique(repositories: CompanyRepositories) -> None:
    """A second entry with the same id raises an error with that id, and the first entry stays unchanged."""
    entry = make_audit_entry("once")
    await repositories.audit_entries.save(entry)
    with expect_raised(DuplicateRecordError) as raised:
        await repositories.audit_entries.save(make_audit_entry("once", reason="another"))
    expect(raised[0].record_id, "once")
    expect(await repositories.audit_entries.query(), (entry,))


@_checks.add
async def check_audit_refuses_bad_calls(repositories: CompanyRepositories) -> None:
    """Limits, cursors and windows that are not valid raise `QueryError`."""
    for n in range(2):
        await repositories.tasks.save(make_task(str(n)))
    other = (await repositories.tasks.list_tasks(limit=1)).next_cursor
    assert other is not None
    await _check_refuses_paging(repositories.audit_entries.query, other)
    await _check_refuses_windows(repositories.audit_entries.query)


@_checks.add
async def check_any_text_is_data(repositories: CompanyRepositories) -> None:
    """Quotes, wildcards, SQL and white space in a key have no special meaning."""
    for text in ("' OR 1=1 --", "%", "_", ' "', "\N{ZERO WIDTH SPACE}", "A", "a", "\U0001f600"):
        task = make_task(text, project=text)
        await repositories.tasks.save(task)
        expect(await repositories.tasks.list_tasks(project=text), (task,))
        await repositories.messages.save(make_message(channel=text, sender=text))
        expect(len(await repositories.messages.get_history(text, sender=text)), 1)
        expect(await repositories.tasks.delete(text), True)
    expect(await repositories.tasks.list_tasks(), ())


REPOSITORY_CHECKS: Final = tuple(_checks)
"""All checks, in reading order."""
