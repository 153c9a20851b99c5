"""``tenantry demo``: runs a workload on real files, and then checks that no record was lost or mixed up."""

from tenantry.demo.aiosqlite_load import run_on_aiosqlite
from tenantry.demo.load import DemoSettings, LoadResult
from tenantry.demo.run import DemoResult, run_demo

__all__ = ["DemoResult", "DemoSettings", "LoadResult", "run_demo", "run_on_aiosqlite"]
