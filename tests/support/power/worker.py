"""A process that has the preload library, and forks itself for each job that it is given.

A program: ``python -m power.worker``. Each line of its input is a job; an empty line waits until all have ended. For each job
that has ended it prints its number and its exit status. What a job found is in the file that the job names.
"""

import asyncio
import json
import logging
import os
import shutil
import signal
import sqlite3
import sys
import traceback
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from power.checking import Expectation, problems
from power.preload import Preloaded
from power.script import Script, StoppedError
from power.tracing import Kind
from power.workloads import WORKLOADS
from tenantry import RegistryConfig, TenantRegistry, TenantState
from tenants import make_message

JOB_SECONDS_MAX: Final = 120
"""When a job is taken for hanging, and killed. Nothing is measured with it."""


async def run_workload(job: dict[str, Any], preloaded: Preloaded) -> dict[str, Any]:
    """Run a workload with a registry; what it may raise is tenantry's errors, and they are kept."""
    workload = WORKLOADS[job["workload"]]
    script = Script(preloaded, Path(job["root"], workload.data), **dict(workload.settings))
    is_finished, unexpected = False, None
    try:
        await script.open()
        await workload.run(script)
        await script.close()
        is_finished = True
    except StoppedError:
        await give_up(script)
    except Exception:  # noqa: BLE001  # whatever it is, it is a finding
        unexpected = traceback.format_exc()
        await give_up(script)
    return {
        "is_finished": is_finished,
        "unexpected": unexpected,
        "errors": script.errors,
        "calls": preloaded.calls(),
        "failed": preloaded.failed,
        "failed_what": preloaded.failed_what,
        "expected": Expectation(
            script.worlds, frozenset(map(tuple, script.must)), frozenset(map(tuple, script.may))
        ).as_json(),
    }


async def recover(job: dict[str, Any], preloaded: Preloaded) -> str | None:
    """Open what a power failure left, and write to every tenant; return what was raised."""
    said = partial(_say, preloaded)
    config = RegistryConfig(data_dir=Path(job["root"], WORKLOADS[job["workload"]].data), open_tenants_max=4)
    try:
        async with TenantRegistry(config) as registry:
            for tenant in await registry.list(state=TenantState.ACTIVE):
                said(may=[tenant.id, "after the recovery"])
                await registry.tenant(tenant.id).messages.save(make_message("after the recovery"))
                said(must=[tenant.id, "after the recovery"])
    except Exception:  # noqa: BLE001  # whatever it is, it is a finding
        return traceback.format_exc()
    return None


def _say(preloaded: Preloaded, **said: Any) -> None:
    preloaded.mark(json.dumps(said))


def change_files(root: Path) -> int | None:
    """Change files in every way in which tenantry, SQLite and Python do; return the error number if that fails."""
    try:
        _change_files(root)
    except OSError as error:
        return error.errno
    return None


def _change_files(root: Path) -> None:
    (root / "kept").mkdir()
    (root / "kept" / "written").write_bytes(b"a" * 10_000)
    with (root / "kept" / "parts").open("wb", buffering=0) as file:
        os.writev(file.fileno(), [b"one", b"two"])
        os.pwrite(file.fileno(), b"far", 9_000)
        os.truncate(file.fileno(), 5_000)
        os.fsync(file.fileno())
    with (root / "kept" / "appended").open("ab") as file:
        file.write(b"1")
        file.flush()
        file.write(b"2")
    (root / "kept" / "appended").write_bytes(b"3")  # cut off first
    os.mknod(root / "removed", 0o600)
    (root / "removed").unlink()
    os.mknod(root / "made", 0o600)
    os.truncate(root / "made", 10)
    shutil.copyfile(root / "kept" / "written", root / "copied")
    (root / "linked").hardlink_to(root / "copied")
    (root / "copied").rename(root / "kept" / "moved")
    (root / "linked").write_bytes(b"of both names")
    (root / "made").replace(root / "kept" / "appended")
    with closing(sqlite3.connect(root / "kept" / "database", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE numbers AS SELECT 1 AS number")
    shutil.copytree(root / "kept", root / "gone")
    descriptor = os.open(root / "gone", os.O_RDONLY)
    os.unlink("written", dir_fd=descriptor)
    os.mkdir("below", dir_fd=descriptor)  # relative to the directory
    os.close(descriptor)
    shutil.rmtree(root / "gone")


async def give_up(script: Script) -> None:
    """Close the registry of a workload that could not go on."""
    try:
        await script.close()
    except StoppedError:
        return


def do(job: dict[str, Any]) -> Any:
    """Do a job and return what it found."""
    preloaded, root = Preloaded(), Path(job["root"])
    if job["do"] == "check":
        preloaded.start(root)
        expected = Expectation.from_json(job["expected"])
        try:
            return asyncio.run(problems(root, WORKLOADS[job["workload"]].data, expected))
        except Exception:  # noqa: BLE001  # whatever it is, it is a finding
            return [traceback.format_exc()]
    preloaded.start(root, Path(job["trace"]) if "trace" in job else None)
    if job["do"] == "recover":
        return asyncio.run(recover(job, preloaded))
    if "fail" in job:
        fail = job["fail"]
        preloaded.fail(Kind(fail.pop("kinds")), **fail)
    if job["do"] == "change-files":
        return change_files(root)
    return asyncio.run(run_workload(job, preloaded))


def main() -> None:
    """Do the jobs, as many at once as the first argument says."""
    # The failures are wanted here. Nobody reads the log.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    running: dict[int, int] = {}
    for number, line in enumerate(sys.stdin):
        is_job = bool(line.strip())
        if is_job:
            job = json.loads(line)
            child = os.fork()
            if child == 0:
                try:
                    signal.alarm(JOB_SECONDS_MAX)
                    Path(job["result"]).write_text(json.dumps(do(job)))
                    os._exit(0)
                finally:
                    traceback.print_exc()
                    os._exit(1)
            running[child] = number
        while len(running) >= (int(sys.argv[1]) if is_job else 1):
            child, status = os.wait()
            ended = json.dumps([running.pop(child), os.waitstatus_to_exitcode(status)])
            sys.stdout.write(f"{ended}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
