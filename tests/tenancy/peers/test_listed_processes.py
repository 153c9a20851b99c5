"""What `tenantry doctor` says about the processes that have a directory open, and about the owners of tenants."""

import asyncio
import errno
import json
import os
import shutil
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import pytest

from commands import document, tenantry
from needs import need
from others import Other, other_process
from registries import config
from tenantry import TenantRegistry
from tenantry.doctor import Finding, Level, Process, ProcessState, Report, examine
from tenantry.errors import TenantOwnedElsewhereError
from tenants import python, read_json

_USER = 4711

# Opens the directory after it has run its first argument, opens the tenants that are named, and waits.
_CHANGED_PROCESS = """
import asyncio, json, os, sys
exec(sys.argv[1])
from tenantry import RegistryConfig, TenantRegistry

async def main(data_dir, *tenant_ids):
    async with TenantRegistry(RegistryConfig(data_dir=data_dir, open_tenants_max=4)) as registry:
        for tenant_id in tenant_ids:
            await registry.tenant(tenant_id).tasks.list_tasks()
        print(os.getpid(), flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main(*sys.argv[2:]))
"""


@pytest.fixture
async def made(data_dir: Path) -> Path:
    """A directory with three tenants, which no process has open."""
    async with TenantRegistry(config(data_dir)) as registry:
        for tenant_id in ("acme", "globex", "initech"):
            await registry.create(tenant_id)
    return data_dir


@pytest.fixture
def other(made: Path) -> Iterator[Other]:
    """A process that has the tenant ``acme`` open."""
    with other_process(made) as other:
        open_tenants(other, "acme")
        yield other


def open_tenants(other: Other, *tenant_ids: str) -> None:
    """Have a process open these tenants."""
    for tenant_id in tenant_ids:
        assert other.do("save", tenant_id, "hello") == "ok"


async def report_on(data_dir: Path, **settings: bool) -> Report:
    """Return the report, and see to it that the examination has changed nothing."""
    before = _listed(data_dir)
    report = await examine(config(data_dir, **settings))
    assert _listed(data_dir) == before
    return report


def _listed(data_dir: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_ino, path.lstat().st_mode) for path in data_dir.rglob("*")}


def _give_all(data_dir: Path) -> None:
    for path in (data_dir.parent, data_dir, *data_dir.rglob("*")):
        os.chown(path, _USER, _USER)


def problems(report: Report) -> Sequence[Finding]:
    """Return what is not well with the processes and their sockets."""
    checks = {"processes", "sockets"}
    return [one for one in report.findings if one.check in checks and one.level is not Level.OK]


async def check_refused(data_dir: Path, message: str) -> None:
    """Check that this process cannot use the tenant ``acme``, and that the error says why."""
    async with TenantRegistry(config(data_dir)) as registry:
        with pytest.raises(TenantOwnedElsewhereError, match=message):
            await registry.tenant("acme").tasks.list_tasks()


def the_only(processes: Sequence[Process]) -> Process:
    """Return the only process of a list."""
    [process] = processes
    return process


async def test_processes_and_owners(made: Path, other: Other):
    """Each process is listed with its version and the number of its tenants, and each open tenant with its owner."""
    with other_process(made) as third:
        open_tenants(third, "globex", "initech")
        open_tenants(third, "acme")  # forwarded to the first process, which stays the owner
        report = await report_on(made)
    now = datetime.now(UTC)
    assert problems(report) == []
    assert {(one.pid, one.owned_tenants) for one in report.processes} == {(other.pid, 1), (third.pid, 2)}
    for process in report.processes:
        assert (process.state, process.host) == (ProcessState.ANSWERING, os.uname().nodename)
        assert (process.version, process.schemas) == (version("tenantry"), {"company": 1})
        assert process.open_since is not None
        assert timedelta() <= now - process.open_since < timedelta(hours=1)
    assert {process.number for process in report.processes} == {0, 1}
    sockets = {process.pid: process.socket_name for process in report.processes}
    assert [(one.tenant_id, one.pid, one.socket_name) for one in report.open_tenants] == [
        ("acme", other.pid, sockets[other.pid]),
        ("globex", third.pid, sockets[third.pid]),
        ("initech", third.pid, sockets[third.pid]),
    ]


async def test_locks_that_the_kernel_does_not_list(made: Path, other: Other, monkeypatch: pytest.MonkeyPatch):
    """An owner is found although /proc/locks has no line of it, as in a container; a killed owner is not."""
    monkeypatch.setattr("tenantry.doctor.open_tenants.held_locks", set)
    assert [one.pid for one in (await report_on(made)).open_tenants] == [other.pid]
    other.kill()
    assert (await report_on(made)).open_tenants == []


async def test_nobody(made: Path):
    """No process and no open tenant is listed of a directory that all processes have closed."""
    report = await report_on(made)
    assert (report.processes, report.open_tenants, problems(report)) == ([], [], [])


async def test_a_process_that_is_stopped(made: Path, other: Other):
    """A process that does not answer is found within a second or so, with its tenants, and as an action is needed."""
    os.kill(other.pid, signal.SIGSTOP)
    try:
        report = await report_on(made)
    finally:
        os.kill(other.pid, signal.SIGCONT)
    process = the_only(report.processes)
    assert (process.pid, process.state, process.owned_tenants) == (other.pid, ProcessState.SILENT, 1)
    assert process.reason == "it is stopped"
    [finding] = problems(report)
    assert (finding.level, f"process {other.pid} on" in finding.subjects[0]) == (Level.WRONG, True)
    open_tenants(other, "acme")
    assert the_only((await report_on(made)).processes).state is ProcessState.ANSWERING


async def test_a_process_that_accepts_nothing(made: Path, other: Other):
    """A stopped process whose queue of connections is full is found without a wait."""
    [address] = [path for path in (made / "peers").iterdir() if path.is_socket()]
    os.kill(other.pid, signal.SIGSTOP)
    try:
        with ExitStack() as stack:
            error = 0
            while not error:
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                error = waiting.connect_ex(str(address))
            assert error == errno.EAGAIN
            process = the_only((await report_on(made)).processes)
    finally:
        os.kill(other.pid, signal.SIGCONT)
    assert (process.state, process.owned_tenants) == (ProcessState.SILENT, 1)
    assert process.reason == "too many connections wait at its socket"


async def test_a_process_that_was_killed(made: Path, other: Other):
    """Of a killed process only its socket is left, and the next process that opens the directory removes it."""
    other.kill()
    report = await report_on(made)
    assert (report.processes, report.open_tenants) == ([], [])
    [finding] = problems(report)
    assert (finding.check, finding.level) == ("sockets", Level.NOTE)
    assert [(made / "peers" / name).is_socket() for name in finding.subjects] == [True]
    async with TenantRegistry(config(made)):
        assert not (made / "peers" / finding.subjects[0]).exists()


async def test_a_process_without_forwarding(made: Path):
    """A process without a socket is listed by its lock on the directory, and by the tenants that it owns."""
    with other_process(made, forwarding=False) as other:
        idle = the_only((await report_on(made)).processes)
        open_tenants(other, "acme")
        report = await report_on(made, forwarding=False)
        await check_refused(made, "takes no calls of other processes")
    assert (idle.pid, idle.state, idle.owned_tenants) == (other.pid, ProcessState.NOT_LISTENING, 0)
    process = the_only(report.processes)
    assert (process.pid, process.state, process.owned_tenants) == (other.pid, ProcessState.NOT_LISTENING, 1)
    assert [one.level for one in problems(report)] == [Level.NOTE, Level.NOTE]
    assert "these settings switch forwarding off" in [one.found for one in problems(report)]


async def test_a_socket_that_was_removed(made: Path, other: Other):
    """An owner whose socket was removed takes no calls, and the report says why."""
    shutil.rmtree(made / "peers")
    report = await report_on(made)
    process = the_only(report.processes)
    assert (process.pid, process.state, process.owned_tenants) == (other.pid, ProcessState.NOT_LISTENING, 1)
    assert process.reason == "its socket was removed"
    await check_refused(made, "its socket takes no connections")


async def test_a_file_in_the_place_of_the_sockets(made: Path):
    """No process could make its socket there, so an action is needed."""
    shutil.rmtree(made / "peers", ignore_errors=True)
    (made / "peers").touch(mode=0o600)
    [finding] = problems(await report_on(made))
    assert (finding.check, finding.level) == ("sockets", Level.WRONG)


@pytest.mark.parametrize(
    ("change", "level", "found"),
    [
        (
            "import tenantry.tenancy.peers.peers as peers; peers.version = lambda _: '9.9'",
            Level.NOTE,
            "different versions of tenantry: ",
        ),
        (
            "import tenantry.tenancy.peers.serving.served_connection as served; served.PROTOCOL_VERSION = 99",
            Level.NOTE,
            "refuses this command",
        ),
        (
            "import tenantry.tenancy.peers.peers as peers; peers.Peers._versions = lambda _: {'company': 7}",
            Level.WRONG,
            "different versions of a schema pack",
        ),
        (
            "import tenantry.tenancy.peers.peers as peers; peers.Peers._versions = lambda _: {}",
            Level.NOTE,
            "lack a schema pack",
        ),
    ],
    ids=["release", "protocol", "pack", "no pack"],
)
async def test_processes_that_differ(made: Path, other: Other, change: str, level: Level, found: str):
    """A process of another release, of another protocol or with other schema packs is named beside this release's."""
    with python(_CHANGED_PROCESS, change, made, "globex") as process:
        pid = read_json(process)
        report = await report_on(made)
    assert {one.pid for one in report.processes} == {other.pid, pid}
    [finding] = problems(report)
    assert (finding.level, found in finding.found) == (level, True)
    assert any(f"process {pid}" in subject for subject in finding.subjects)


@pytest.mark.disk  # the other directories are in one of this user
async def test_a_process_of_another_user(made: Path):
    """A process answers only to its own user, and the report says which user that is."""
    need(os.geteuid() == 0, "needs the right to become another user: run the tests as root")
    _give_all(made)
    with python(_CHANGED_PROCESS, f"os.setuid({_USER})", made, "acme") as process:
        pid = read_json(process)
        listed = the_only((await report_on(made)).processes)
    assert (listed.pid, listed.state, listed.owned_tenants) == (pid, ProcessState.REFUSING, 1)
    assert f"user {_USER}" in listed.reason


@pytest.mark.disk
async def test_the_command(made: Path, other: Other):
    """The command prints tables for people and one document for programs."""
    done = await asyncio.to_thread(tenantry, "doctor", "--data-dir", made)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines() if str(other.pid) in line]
    assert [line[0] for line in lines] == [str(other.pid), "acme"]
    report = document(await asyncio.to_thread(tenantry, "doctor", "--data-dir", made, "--json"))
    [process] = report["processes"]
    assert (process["pid"], process["state"], process["owned_tenants"]) == (other.pid, "answering", 1)
    [owner] = report["open_tenants"]
    assert owner == {key: process[key] for key in ("pid", "host", "socket_name")} | {"tenant_id": "acme"}
    assert json.dumps(owner)
