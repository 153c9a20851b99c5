"""Every command as a process, against a running service and on a directory without one, with the same outcome."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from commands import service, tenantry
from tenantry import RegistryConfig, Scope, TenantRegistry
from tenantry.cli import app
from tenants import database_path

pytestmark = pytest.mark.unmeasured

PROCESSES_AT_ONCE = 4


@dataclass(frozen=True)
class Case:
    """A command, and what its document says.

    Attributes:
        line: The command; what is in braces is from the preparation.
        says: Fields of the document; a field of each item for a list of items.
        exit_code: How it ends.
    """

    line: str
    says: dict[str, Any] = field(default_factory=dict)
    exit_code: int = 0

    @property
    def command(self) -> str:
        """The command's name."""
        return " ".join(self.line.split()[:2])


# None of them stands in the way of another: they run at the same time.
CASES = [
    Case(
        "tenant create fresh --display-name Fresh",
        {"id": "fresh", "display_name": "Fresh", "state": "active"},
    ),
    Case("tenant list --state suspended --limit 1", {"id": ["to-list"]}),
    Case("tenant list --prefix to-list", {"id": ["to-list"]}),
    Case("tenant list --all", {}),
    Case("tenant get acme", {"id": "acme", "state": "active", "display_name": "acme"}),
    Case(
        "tenant update to-update --display-name Other --protect",
        {"display_name": "Other", "deletion_protected": True},
    ),
    Case("tenant suspend to-suspend --reason unpaid", {"state": "suspended", "reason": "unpaid"}),
    Case("tenant resume to-resume", {"state": "active"}),
    Case("tenant archive to-archive --reason gone", {"state": "archived", "reason": "gone"}),
    Case("tenant unarchive to-unarchive", {"state": "active"}),
    Case("tenant delete to-delete --yes", {"state": "deleted"}),
    Case("tenant undelete to-undelete", {"state": "active"}),
    Case("tenant purge to-purge --force --yes", {"state": "purged"}),
    Case("tenant rename to-rename renamed", {"id": "renamed", "previous_id": "to-rename"}),
    Case("tenant move to-look-at --to sqlite", {"id": "to-look-at", "backend": "sqlite"}),
    Case("tenant clone acme cloned", {"id": "cloned", "state": "active"}),
    Case("tenant clone acme from-snapshot --snapshot {snapshot}", {"id": "from-snapshot"}),
    Case("tenant quarantine to-quarantine --reason odd", {"state": "quarantined", "reason": "odd"}),
    Case("tenant repair to-repair", {"state": "active"}),
    Case("tenant statistics to-look-at", {"tenant_id": "to-look-at"}),
    Case("tenant top --limit 3", {}),
    Case("tenant export to-export {directory}/exported.tar.gz", {"tenant_id": "to-export"}),
    Case(
        "tenant import imported {bundle} --display-name Imported",
        {"id": "imported", "display_name": "Imported"},
    ),
    Case("tenant replace-file to-replace {file} --yes", {"id": "to-replace", "state": "suspended"}),
    Case("snapshot create to-snapshot", {"tenant_id": "to-snapshot", "trigger": "manual"}),
    Case("snapshot list acme", {"id": ["{snapshot}"], "tenant_id": ["acme"]}),
    Case("snapshot delete to-forget {to_forget} --yes", {"tenant_id": "to-forget", "deleted": "{to_forget}"}),
    Case("snapshot restore to-restore {to_restore} --yes", {"id": "to-restore", "state": "active"}),
    Case("snapshot points acme", {}),
    Case("snapshot drop-point to-drop {point} --yes", {"tenant_id": "to-drop", "dropped": "{point}"}),
    Case("snapshot claim-storage --yes", {"taken_from": None}),
    Case("snapshot undo-restore restored --yes", {"id": "restored", "state": "active"}),
    # Of all tenants, and most have no snapshot.
    Case("snapshot drill --sample 100", {"is_ok": False}, exit_code=1),
    Case(
        "key create --scope operate --tenant acme --expires-in 1h --name nightly",
        {"name": "nightly", "tenants": ["acme"]},
    ),
    Case("schema list", {"name": ["company"]}),
    Case("key list --limit 1", {"id": ["{first_key}"]}),
    Case("key revoke {key} --yes", {"id": "{key}"}),
    Case("fleet start check --tenant to-check --wait", {"state": "done", "total": 1}),
    Case("fleet list --limit 1000", {}),
    Case("fleet progress {done_job}", {"state": "done", "total": 1}),
    Case("fleet results {done_job} --outcome ok", {"tenant_id": ["in-jobs-0"]}),
    # What leads to a state can be repeated in it; test_cli_fleet.py has jobs that run.
    Case("fleet pause {paused_job} --reason again", {"id": "{paused_job}", "state": "paused"}),
    Case("fleet resume {other_job} --wait", {"state": "done"}),
    Case("fleet cancel {cancelled_job} --reason enough", {"id": "{cancelled_job}", "state": "cancelled"}),
    Case("fleet wait {done_job}", {"state": "done", "failed": 0}),
    Case("audit list --tenant acme --limit 1", {"tenant_id": ["acme"]}),
    Case("audit verify", {"is_intact": True, "problem": None}),
]

# Only on a directory, or on none: test_doctor.py, test_serve.py, test_cli.py, test_storage_owner.py, test_catalog.py. A pack that can be
# forgotten would keep the other cases from creating tenants: test_schemas.py.
ELSEWHERE = {
    "doctor",
    "serve",
    "demo",
    "snapshot switch-storage",
    "schema forget",
    "tenant adopt",
    "catalog move",
}

IN_JOBS = [f"in-jobs-{number}" for number in range(4)]
IDS = [
    *("acme", "to-list", "to-update", "to-suspend", "to-resume", "to-archive", "to-unarchive", "to-delete"),
    *("to-undelete", "to-purge", "to-rename", "to-quarantine", "to-repair", "to-look-at", "to-export"),
    *("to-snapshot", "to-forget", "to-restore", "restored", "to-check", "to-drop", "to-replace"),
    *IN_JOBS,
]


async def prepare_jobs(registry: TenantRegistry) -> dict[str, str]:
    """Make one job that is done and three that are paused, and return their ids."""
    done = await registry.fleet.start("check", tenant_ids=IN_JOBS[:1])
    await registry.fleet.wait(done.id)
    paused = []
    for _ in range(3):
        job = await registry.fleet.start("check", tenant_ids=IN_JOBS, concurrency=1)
        paused.append(await registry.fleet.pause(job.id))
        await registry.fleet.wait(job.id)
    names = ("paused_job", "other_job", "cancelled_job")
    return {"done_job": done.id, **{name: job.id for name, job in zip(names, paused, strict=True)}}


async def prepare(data_dir: Path) -> dict[str, str]:
    """Make tenants in the states that the commands need, and return what the commands are to name."""
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        for tenant_id in IDS:
            await registry.create(tenant_id)
        snapshots = {
            name: (await registry.snapshots.create(name)).id for name in ("acme", "to-forget", "to-restore")
        }
        await registry.snapshots.restore("restored", (await registry.snapshots.create("restored")).id)
        await registry.snapshots.restore("to-drop", (await registry.snapshots.create("to-drop")).id)
        [point] = await registry.snapshots.points("to-drop")
        for tenant_id in ("to-list", "to-resume", "to-replace"):
            await registry.suspend(tenant_id)
        await registry.archive("to-unarchive")
        await registry.quarantine("to-repair", reason="odd")
        for tenant_id in ("to-undelete", "to-purge"):
            await registry.delete(tenant_id)
        file = data_dir.parent / f"{data_dir.name}.db"
        shutil.copy(database_path(data_dir, "to-replace"), file)
        bundle = data_dir.parent / f"{data_dir.name}.tar.gz"
        await registry.export("acme", bundle)
        first, token = await registry.keys.create(scopes=[Scope.ADMIN])
        revocable, _ = await registry.keys.create()
        jobs = await prepare_jobs(registry)
    return {
        "snapshot": snapshots["acme"],
        "to_forget": snapshots["to-forget"],
        "to_restore": snapshots["to-restore"],
        "bundle": str(bundle),
        "file": str(file),
        "point": point,
        "directory": str(data_dir.parent),
        "key": revocable.id,
        **jobs,
        "first_key": first.id,
        "token": token,
    }


@dataclass(frozen=True)
class Outcomes:
    """What became of all cases in one mode."""

    names: dict[str, str]
    done: dict[str, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module", params=["--url", "--data-dir"])
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    """Run all cases, against a service or on a directory."""
    data_dir = tmp_path_factory.mktemp("commands") / "data"
    names = asyncio.run(prepare(data_dir))
    with ExitStack() as stack:
        where: tuple[object, ...] = ("--data-dir", data_dir)
        env = {}
        if request.param == "--url":
            running = stack.enter_context(service(data_dir, key=names["token"]))
            where, env = ("--url", running.url), {"TENANTRY_API_KEY": running.key}

        def run(case: Case) -> subprocess.CompletedProcess[str]:
            # The same code in both modes, but for the transport: measured once.
            is_measured = request.param == "--data-dir"
            line = case.line.format_map(names).split()
            return tenantry(*line, *where, "--json", env=env, is_measured=is_measured)

        with ThreadPoolExecutor(PROCESSES_AT_ONCE) as pool:
            done = dict(zip((case.line for case in CASES), pool.map(run, CASES), strict=True))
        yield Outcomes(names, done)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.line)
def test_command_does_what_it_says(outcomes: Outcomes, case: Case):
    """Each command prints one JSON document that says what it did, and nothing else, in both modes."""
    done = outcomes.done[case.line]
    assert (done.returncode, done.stderr) == (case.exit_code, "")
    found = json.loads(done.stdout)
    for name, expected in case.says.items():
        if isinstance(expected, list) and "items" in found:
            assert [item[name] for item in found["items"]] == [
                text.format_map(outcomes.names) for text in expected
            ]
        else:
            assert found[name] == (
                expected.format_map(outcomes.names) if isinstance(expected, str) else expected
            )


def test_every_command_has_a_case():
    """No command is left out, and every case is of a command."""
    commands = set()
    for name, command in get_command(app).commands.items():
        commands |= {f"{name} {one}" for one in getattr(command, "commands", {})} or {name}
    assert commands - ELSEWHERE == {case.command for case in CASES}
