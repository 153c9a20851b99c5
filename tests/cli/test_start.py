"""What a command loads before it does its work: a module that it does not need makes every command slower."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from commands import environment
from measuring import MEASURED
from tenantry import TenantLimits, TenantRegistry
from tenantry.cli.commands.tenant import LIMITS

PROGRAM = """
import json, sys
import tenantry_command
sys.argv = ["tenantry", *sys.argv[1:]]
try:
    tenantry_command.main()
except SystemExit as end:
    assert not end.code, end.code
finally:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""
OF_THE_SERVICE = {"fastapi", "httpx", "obstore", "prometheus_client", "starlette", "uvicorn"}
# Without pydantic, with which typer checks the values of options.
OF_A_REGISTRY = {"aiosqlite", "anyio", "asyncio", "sqlite3", "structlog", "tenantry.config"}


def modules_loaded_by(*arguments: object) -> set[str]:
    """Run a command in a process of its own, and return the names of the modules that it has loaded."""
    # Measuring coverage loads modules too, such as sqlite3.
    unmeasured = {name: value for name, value in environment().items() if name not in MEASURED}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        env=unmeasured,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stderr))


@pytest.mark.parametrize("arguments", [["--help"], ["fleet", "start", "--help"]], ids=" ".join)
def test_help_loads_nothing_but_the_command_line(arguments: list[str]):
    """Help needs no registry, no models and no event loop."""
    assert modules_loaded_by(*arguments) & (OF_THE_SERVICE | OF_A_REGISTRY) == set()


def test_a_list_of_tenants_loads_no_web_framework(tmp_path: Path):
    """The registry itself answers the most frequent command on a data directory."""

    async def prepare() -> None:
        async with TenantRegistry(tmp_path / "data"):
            pass

    asyncio.run(prepare())
    loaded = modules_loaded_by("tenant", "list", "--data-dir", tmp_path / "data")
    assert loaded & OF_THE_SERVICE == set()
    assert loaded >= {"sqlite3", "tenantry.tenancy.registry"}


def test_the_names_of_limits_are_those_of_the_model():
    """The help of ``tenant update`` names every limit, though it does not load their model."""
    assert tuple(TenantLimits.model_fields) == LIMITS
