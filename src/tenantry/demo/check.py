"""Checks, after all tenants were reopened, that each acknowledged record of the demo is in its own company's file."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TypeVar

from tenantry.demo.company import CHANNELS, Company, CompanyHandle
from tenantry.pages import Page

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of the check, in numbers.

    Attributes:
        checked: The number of acknowledged records.
        missing: The number of acknowledged records that are missing, or not in their last acknowledged state.
        foreign: The number of companies whose records are in another company's file.
    """

    checked: int
    missing: int
    foreign: int

    def __add__(self, other: "CheckResult") -> "CheckResult":
        return CheckResult(
            self.checked + other.checked, self.missing + other.missing, self.foreign + other.foreign
        )


async def check_company(company: Company, handle: CompanyHandle) -> CheckResult:
    """Compare a company's ledger with the content of the company's file."""
    ledger = company.ledger
    messages, contents = set(), set()
    for channel in CHANNELS:
        async for message in _all(lambda cursor, c=channel: handle.messages.get_history(c, cursor=cursor)):  # type: ignore[misc]
            messages.add(message.id)
            contents.add(message.content.partition(":")[0])
    costs = {
        record.provider async for record in _all(lambda cursor: handle.cost_records.query(cursor=cursor))
    }
    tasks = {
        task.id: task.status async for task in _all(lambda cursor: handle.tasks.list_tasks(cursor=cursor))
    }
    missing = len(ledger.messages - messages) + len(ledger.costs - costs)
    missing += sum(tasks.get(task_id) is not status for task_id, status in ledger.tasks.items())
    owners = {*contents, *(key.partition("/")[0] for key in (*costs, *tasks))}
    foreign = len(owners - {handle.id})
    return CheckResult(len(ledger.messages) + len(ledger.costs) + len(ledger.tasks), missing, foreign)


async def check_companies(
    companies: Sequence[Company],
    opened: Callable[[str], AbstractAsyncContextManager[CompanyHandle]],
    show: Callable[[float], None],
) -> CheckResult:
    """Check all companies, one after the other.

    Args:
        companies: The companies, which have stopped working.
        opened: Opens a company again by its id.
        show: Is told the checked fraction.
    """
    found = CheckResult(0, 0, 0)
    for number, company in enumerate(companies, start=1):
        async with opened(company.handle.id) as handle:
            found += await check_company(company, handle)
        show(number / len(companies))
        await asyncio.sleep(0)
    return found


async def _all(page_after: Callable[[str | None], Awaitable[Page[T]]]) -> AsyncIterator[T]:
    cursor: str | None = None
    while True:
        page = await page_after(cursor)
        for record in page:
            yield record
        cursor = page.next_cursor
        if cursor is None:
            return
