"""What works with the core of the dependencies, and what is said where an extra is missing."""

import subprocess
import sys
from pathlib import Path

CLI = ("click", "httpx", "rich", "typer")
SERVICE = ("fastapi", "starlette", "uvicorn")
POSTGRES = ("psycopg", "psycopg_binary")
COMMAND = "import tenantry_command; sys.argv = ['tenantry', *sys.argv[1:]]; tenantry_command.main()"
PROGRAM = """
import asyncio
from prometheus_client import CollectorRegistry
from tenantry import TenantRegistry
from tenantry.observability import export_metrics

async def main():
    async with TenantRegistry(sys.argv[1]) as registry:
        export_metrics(registry, CollectorRegistry())
        await registry.create("acme")
        print(await registry.tenant("acme").tasks.list_tasks(limit=1))

asyncio.run(main())
"""


def run_without(
    packages: tuple[str, ...], program: str, *arguments: object
) -> subprocess.CompletedProcess[str]:
    """Run a program in a process in which these packages cannot be imported, as if they were not installed."""
    missing = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""
    return subprocess.run(
        [sys.executable, "-c", missing + program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_registry_needs_no_extra(tmp_path: Path):
    """A program with a registry, the built-in pack and metrics runs where only the core is installed."""
    done = run_without((*CLI, *SERVICE, *POSTGRES), PROGRAM, tmp_path / "data")
    assert (done.returncode, done.stdout, done.stderr) == (0, "()\n", "")


def test_the_command_says_which_extra_it_needs():
    """Without the extra ``cli``, the command ends with one sentence that says what to install."""
    done = run_without(CLI, COMMAND, "tenant", "list")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("tenantry: the command line needs the package ")
    assert done.stderr.endswith(": pip install 'tenantry[service]'\n")
    assert done.stderr.count("\n") == 1


def test_serve_says_which_extra_it_needs(tmp_path: Path):
    """With the extra ``cli`` alone there is help, and the service says what to install."""
    assert run_without(SERVICE, COMMAND, "serve", "--help").returncode == 0
    done = run_without(SERVICE, COMMAND, "serve", "--data-dir", tmp_path / "data")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(": pip install 'tenantry[service]'\n")


def test_a_database_says_which_extra_it_needs(tmp_path: Path):
    """Only a registry with a PostgreSQL database needs the driver, and says what to install, without the password."""
    program = """
from tenantry import RegistryConfig, SettingsError, TenantRegistry

config = RegistryConfig(data_dir=sys.argv[1], databases={"east": "postgresql://app:hunter2@db/tenants"})
try:
    TenantRegistry(config)
except SettingsError as error:
    print(error)
"""
    done = run_without(POSTGRES, program, tmp_path / "data")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("needs the driver psycopg: pip install 'tenantry[postgres]'\n")
    assert "hunter2" not in done.stdout
