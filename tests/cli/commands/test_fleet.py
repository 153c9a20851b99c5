"""Fleet jobs from the command line: each command as a process, against a service and on a directory without one."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from commands import WHERE, service, tenantry
from tenantry import RegistryConfig, Scope, TenantRegistry
from tenantry.cli import app
from tenants import database_path

SOUND = [f"sound-{number}" for number in range(3)]
DAMAGED = ["damaged-0", "damaged-1"]


class Fleet:
    """Runs the commands in one mode.

    Args:
        where: The options that say where.
        key: To the service.
    """

    def __init__(self, where: tuple[object, ...], key: str) -> None:
        self._where = where
        self._key = key

    def __call__(self, line: str) -> subprocess.CompletedProcess[str]:
        """Run a command."""
        command = ("fleet", *line.split(), *self._where, "--json")
        return tenantry(*command, env={"TENANTRY_API_KEY": self._key})

    def says(self, line: str, exit_code: int = 0) -> Any:
        """Run a command and return its document."""
        done = self(line)
        assert (done.returncode, done.stderr) == (exit_code, "")
        return json.loads(done.stdout)


async def prepare(data_dir: Path) -> str:
    """Make tenants, some of which are damaged, and return a key."""
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        for tenant_id in (*SOUND, *DAMAGED):
            await registry.create(tenant_id)
        key = (await registry.keys.create(scopes=[Scope.ADMIN])).token
    for tenant_id in DAMAGED:
        database_path(data_dir, tenant_id).write_bytes(b"x" * 8192)
    return key


@pytest.fixture(params=["--url", "--data-dir"])
async def fleet(request: pytest.FixtureRequest, data_dir: Path) -> Iterator[Fleet]:
    """The commands, against a service or on a directory."""
    key = await prepare(data_dir)
    with ExitStack() as stack:
        where: tuple[object, ...] = ("--data-dir", data_dir)
        if request.param == "--url":
            where = ("--url", stack.enter_context(service(data_dir, key=key)).url)
        yield Fleet(where, key)


async def test_a_job_from_its_start_to_its_end(fleet: Fleet):
    """A job is started, waited for and looked at; what has ended cannot be paused."""
    job = fleet.says(
        'start check --prefix sound- --canary 1 --failures-max 0.5 --arguments {"thorough":true}'
    )
    assert (job["kind"], job["options"]["canary"], job["options"]["arguments"]) == (
        "check",
        1,
        {"thorough": True},
    )
    found = fleet.says(f"wait {job['id']}")
    assert (found["state"], found["done"], found["failed"], found["waves"]) == ("done", len(SOUND), 0, 2)
    assert fleet.says(f"progress {job['id']}") == found
    results = fleet.says(f"results {job['id']} --outcome ok --all")["items"]
    assert sorted(result["tenant_id"] for result in results) == SOUND
    assert [item["id"] for item in fleet.says("list --limit 1")["items"]] == [job["id"]]
    done = fleet(f"pause {job['id']} --reason late")
    assert (done.returncode, done.stdout) == (1, "")
    assert "pause is not possible" in json.loads(done.stderr)["detail"]


async def test_a_job_that_stops(fleet: Fleet):
    """A job stops at its first failure, goes on when it is told to, and is cancelled at the next."""
    tenants = " ".join(f"--tenant {tenant_id}" for tenant_id in (*SOUND, *DAMAGED))
    job = fleet.says(f"start check {tenants} --failures-max 0 --concurrency 1")["id"]
    found = fleet.says(f"wait {job}", exit_code=1)
    assert (found["state"], found["failed"], found["left"]) == ("stopped", 1, 4)
    assert fleet.says(f"resume {job}")["state"] in {"pending", "running"}
    found = fleet.says(f"wait {job}", exit_code=1)
    assert (found["state"], found["failed"], found["left"]) == ("stopped", 2, 3)
    assert fleet.says(f"cancel {job} --reason enough")["state"] == "cancelled"
    assert fleet.says(f"progress {job}")["reason"] == "enough"


async def test_a_job_that_is_waited_for_at_once(fleet: Fleet):
    """``--wait`` says what became of the job, and its exit code too."""
    assert fleet.says("start check --prefix sound- --wait")["done"] == len(SOUND)
    found = fleet.says("start check --prefix damaged- --failures-max 0 --concurrency 1 --wait", exit_code=1)
    assert (found["state"], found["left"]) == ("stopped", 1)
    assert fleet.says(f"resume {found['job_id']} --wait", exit_code=1)["failed"] == 2


def test_a_job_that_nobody_runs_yet(data_dir: Path):
    """On a directory people are told what will run a job that they do not wait for; programs, and those who wait, are not."""
    env = {**dict.fromkeys(WHERE, ""), "TENANTRY_DATA_DIR": str(data_dir)}

    def started(*options: str) -> str:
        done = CliRunner().invoke(app, ["fleet", "start", "check", *options], env=env)
        assert done.exit_code == 0
        return done.stderr

    assert CliRunner().invoke(app, ["tenant", "create", "acme"], env=env).exit_code == 0
    assert "that has this directory open runs it, or else 'tenantry fleet wait " in started()
    assert started("--json") == started("--wait") == ""
