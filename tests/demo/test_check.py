"""The demo's check must be able to fail: what it looks for is taken away and put in the wrong place."""

from samples import a_cost_record, a_message, a_task
from tenantry import TenantRegistry
from tenantry.company import TaskStatus
from tenantry.demo.check import CheckResult, check_company
from tenantry.demo.company import Company, Timings


async def _company(registry: TenantRegistry) -> Company:
    await registry.create("acme")
    return Company(registry.tenant("acme"), Timings(), seed=1)


async def test_a_missing_write_is_found(registry: TenantRegistry):
    """An acknowledged message, cost and task that are not there are each missing."""
    company = await _company(registry)
    company.ledger.messages.add(a_message().id)
    company.ledger.costs.add("acme/1")
    company.ledger.tasks["acme/2"] = TaskStatus.CREATED
    assert await check_company(company, company.handle) == CheckResult(checked=3, missing=3, foreign=0)


async def test_a_stale_task_is_found(registry: TenantRegistry):
    """A task that is not in its last acknowledged state counts as lost."""
    company = await _company(registry)
    await company.handle.tasks.save(a_task(id="acme/1"))
    company.ledger.tasks["acme/1"] = TaskStatus.ASSIGNED
    assert await check_company(company, company.handle) == CheckResult(checked=1, missing=1, foreign=0)


async def test_a_foreign_record_is_found(registry: TenantRegistry):
    """Another company's records in this one's file are found, whatever their kind."""
    company = await _company(registry)
    await company.handle.messages.save(a_message(content="globex: mine"))
    await company.handle.cost_records.save(a_cost_record(provider="initech/1"))
    found = await check_company(company, company.handle)
    assert found == CheckResult(checked=0, missing=0, foreign=2)


async def test_what_the_company_did_is_whole(registry: TenantRegistry):
    """After real work the check finds everything, and nothing else."""
    company = await _company(registry)
    for _ in range(40):
        await company.work("ada")
    found = await check_company(company, company.handle)
    assert found.checked > 0
    assert (found.missing, found.foreign) == (0, 0)
