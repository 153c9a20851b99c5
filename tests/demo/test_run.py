"""The demo's run: companies that do not fit the pool evict each other, and nothing is lost."""

from dataclasses import replace
from pathlib import Path

from open_file_limits import open_files_limited_to
from tenantry.demo import DemoSettings, run_demo


def _settings(data_dir: Path) -> DemoSettings:
    return DemoSettings(data_dir, seconds=0.3, callers=2, quiet_companies=12)


async def test_more_companies_than_places(data_dir: Path):
    """Companies without a place evict others, and every acknowledged record is in its own company afterwards."""
    result = await run_demo(replace(_settings(data_dir), open_tenants_max=4), lambda _: None)
    assert (result.pool.open_tenants_peak, result.pool.evictions > 0) == (4, True)
    assert result.check.checked > 0
    assert result.is_whole


async def test_the_engine_is_named(data_dir: Path):
    """The result names the engine that was asked for."""
    result = await run_demo(replace(_settings(data_dir), engine="python"), lambda _: None)
    assert (result.backend, result.engine) == ("sqlite", "python")


async def test_a_process_that_may_open_few_files(data_dir: Path):
    """The demo runs where its pool would need more files than the process may open; its pool is then smaller."""
    with open_files_limited_to(200):
        result = await run_demo(_settings(data_dir), lambda _: None)
    assert result.pool.open_tenants_max == 22
    assert result.is_whole
