"""The benchmarks' limit in C: it writes a tenant as tenantry does, so the tenant opens afterwards, and it refuses what is not at rest."""

import subprocess
from pathlib import Path

import pytest

from benchmarks.engines import PYTHON_ENGINE
from benchmarks.fleet import Fleet
from benchmarks.harness import BenchmarkError, Load
from benchmarks.limit_program import build_limit
from benchmarks.many_calls import fleet_of, own_picks
from benchmarks.peers.limit import fleet_limit, get_limit, save_limit
from needs import needed_program
from tenantry import RegistryConfig, TenantRegistry

SOURCES = Path(__file__).parents[2] / "benchmarks" / "limits"


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """A short load."""
    needed_program("cc", package="gcc libsqlite3-dev")
    return Load(tmp_path, rounds=1, seconds=0.2)


@pytest.fixture
def fleet(load: Load) -> Fleet:
    """Tenants at rest."""
    return fleet_of(20, load)


def test_the_compiler_finds_nothing_to_complain_about(tmp_path: Path):
    """Neither the warnings nor the static analysis of gcc find anything in the program."""
    gcc = needed_program("gcc", package="gcc libsqlite3-dev")
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", "-fanalyzer", "-pthread"]
    command = [gcc, *flags, "-o", tmp_path / "limit", *SOURCES.glob("*.c"), "-lsqlite3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_one_tenant(load: Load, tmp_path: Path):
    """Saves are durable and counted by the side itself; gets find their tasks."""
    for number, side in enumerate([*save_limit(load), *get_limit(50, load)]):
        directory = tmp_path / str(number)
        directory.mkdir()
        sample = side.run(directory)
        assert sample.calls > 0
        assert sample.durability == {"journal_mode": "wal", "synchronous": 2}


async def test_tenantry_opens_the_tenants_afterwards(load: Load, fleet: Fleet):
    """Threads that open and close tenants through a small pool lose no row, and leave tenants that tenantry opens and writes."""
    (side,) = fleet_limit(fleet, lambda: own_picks(fleet), load, reads=0.5, pool=8)
    assert side.run(fleet.data_dir).details["opened"] > 20
    async with TenantRegistry(RegistryConfig(data_dir=fleet.data_dir, engine=PYTHON_ENGINE)) as registry:
        for tenant in fleet.tenants:
            await registry.tenant(tenant).execute("DELETE FROM messages")


async def test_a_tenant_that_is_open_is_refused(load: Load, fleet: Fleet):
    """The program says which tenant another process has open, and changes nothing."""
    (side,) = fleet_limit(fleet, lambda: own_picks(fleet), load, reads=0.5, pool=8)
    async with TenantRegistry(RegistryConfig(data_dir=fleet.data_dir)) as registry:
        await registry.tenant(fleet.tenants[0]).execute("DELETE FROM messages")
        with pytest.raises(BenchmarkError, match=r"lock: cannot be locked"):
            side.run(fleet.data_dir)


def test_a_plan_that_ends_too_early(load: Load):
    """A plan that is cut off is an error, not a read beyond its end."""
    program = load.once("the limit", build_limit)
    done = subprocess.run([program, "save"], input=b"INSERT\0SELECT", capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (1, b"limit: plan: ends too early\n")
