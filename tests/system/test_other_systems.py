"""tenantry on systems other than Linux, such as macOS: everything works but forwarding and what only Linux tells."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from needs import need, needed_program

_PROGRAM = """
import asyncio, errno, json, os, socket, sys, sysconfig
import structlog

sysconfig.get_config_vars()  # later this would look for the file of another system

del os.sched_getaffinity, os.posix_fadvise
del socket.SO_PEERCRED, socket.SOCK_NONBLOCK, socket.TCP_USER_TIMEOUT

def refuse(*arguments, **named):
    raise PermissionError(errno.EPERM, "only root may call mknod")
os.mknod = refuse
sys.platform = "darwin"

from tenantry import RegistryConfig, TenantRegistry
from tenantry.doctor.examination import examine
from tenantry.server.http_server import bound
from tenantry.server.settings import Endpoint

logs = []
structlog.configure(
    processors=[lambda logger, method, event: logs.append(event) or str(event)],
    logger_factory=structlog.ReturnLoggerFactory(),
)

async def main(data_dir):
    config = RegistryConfig(data_dir=data_dir, engine="python")
    async with TenantRegistry(config) as registry:
        await registry.create("acme")
        await registry.repair("acme")
        found = await registry.tenant("acme").fetch_value("SELECT count(*) FROM messages")
        processes = await examine(config)
    report = await examine(config)
    with_engine = await examine(RegistryConfig(data_dir=data_dir))
    with bound(Endpoint("127.0.0.1", 0)) as made:
        port = made.getsockname()[1]
    print(json.dumps({
        "found": found,
        "is_listening": port > 0,
        "unheard": [log["error"] for log in logs if log["event"] == "tenantry.peers.not_heard"],
        "wrong": [f.found for f in report.findings if f.level == "wrong" and f.check != "file system"],
        "open": [tenant.tenant_id for tenant in processes.open_tenants],
        "file_system": [f.found for f in report.findings if f.check == "file system"],
        "engines": [f.found for f in with_engine.findings if f.check == "engine"],
        "leftovers": [f.found for f in report.findings if f.check == "leftovers"],
    }))

asyncio.run(main(sys.argv[1]))
"""
"""A program that removes what only Linux has, uses a registry, and examines its directory."""


def run(data_dir: Path, *command: str) -> Any:
    """Run the program, through a command that changes its surroundings, and return what it found."""
    done = subprocess.run(
        [*command, sys.executable, "-c", _PROGRAM, data_dir],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("has_proc", [True, False])
def test_a_registry_without_linux(tmp_path: Path, *, has_proc: bool):
    """A registry creates, repairs and reads a tenant; the log says why other processes are refused; the doctor finds nothing wrong."""
    command = []
    if not has_proc:
        unshare = [needed_program("unshare", package="util-linux"), "--mount"]
        is_allowed = subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode == 0
        need(is_allowed, "needs the right to unmount /proc: run the tests as root")
        command = [*unshare, "sh", "-c", 'umount -l /proc && exec "$@"', "sh"]
    found = run(tmp_path / "data", *command)
    assert (found["found"], found["is_listening"], found["wrong"]) == (0, True, [])
    assert (found["open"], found["leftovers"]) == (["acme"], ["none"])
    (unheard,) = found["unheard"]
    assert "SO_PEERCRED" in unheard
    (engine,) = found["engines"]
    assert "None" not in engine
    (file_system,) = found["file_system"]
    assert ("is unknown" in file_system) is not has_proc
