"""The command line on a directory that a service and an application have open, which is its normal way."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from commands import document, service, tenantry
from tenants import python, read_json, read_line

_APPLICATION = """
import asyncio, json, os, sys
from collections import Counter
import structlog
from tenantry import RegistryConfig, TenantRegistry
from tenantry.errors import TenantryError

structlog.configure(logger_factory=structlog.ReturnLoggerFactory())

async def main(data_dir, *tenant_ids):
    kept, errors, is_stopped = Counter(), Counter(), asyncio.Event()

    async def work(tenant):
        while not is_stopped.is_set():
            try:
                await tenant.execute("INSERT INTO notes (text) VALUES ('x')")
                kept[tenant.id] += 1
            except TenantryError as error:
                errors[f"{tenant.id} {type(error).__name__}"] += 1
            await asyncio.sleep(0.01)  # leave the machine to the commands

    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        tenants = [registry.tenant(tenant_id) for tenant_id in tenant_ids]
        for tenant in tenants:
            await registry.create(tenant.id)
            await tenant.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)")
        working = [asyncio.create_task(work(tenant)) for tenant in tenants for _ in range(2)]
        print(os.getpid(), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        is_stopped.set()
        await asyncio.gather(*working)
        counts = {tenant.id: await tenant.fetch_value("SELECT count(*) FROM notes") for tenant in tenants[:1]}
        print(json.dumps([kept, sorted(errors), counts]), flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


class Application:
    """An application that writes to its tenants all the time."""

    def __init__(self, process: Any) -> None:
        self._process = process
        self.pid = int(read_line(process))

    def stop(self) -> tuple[dict[str, int], list[str], dict[str, int]]:
        """Return the acknowledged writes of each tenant, the tenants with the types of their errors, and the rows of the first tenant."""
        print(file=self._process.stdin, flush=True)
        kept, errors, counts = read_json(self._process)
        return kept, errors, counts


@contextmanager
def application(data_dir: Path, *tenant_ids: str) -> Iterator[Application]:
    """Run an application with these new tenants."""
    with python(_APPLICATION, data_dir, *tenant_ids) as process:
        yield Application(process)


def test_commands_on_a_live_directory(data_dir: Path, tmp_path: Path):
    """Each command does its work beside an application and a service; callers see only the errors that the command implies."""

    def run(*line: object) -> Any:
        return document(tenantry(*line, "--data-dir", data_dir, "--json"))

    with (
        application(data_dir, "acme", "bolt", "cord", "dune", "echo") as app,
        service(data_dir),
    ):
        owner = run("tenant", "get", "acme")["owner"]
        assert owner["pid"] == app.pid
        assert owner["host"]
        snapshot = run("snapshot", "create", "acme")
        assert [one["id"] for one in run("snapshot", "list", "acme")["items"]] == [snapshot["id"]]
        assert snapshot["row_counts"]["notes"] > 0
        run("tenant", "export", "acme", tmp_path / "acme.tar.gz")
        run("tenant", "clone", "acme", "copy")
        run("snapshot", "restore", "dune", run("snapshot", "create", "dune")["id"], "--yes")
        for kind in ("migrate", "check", "snapshot"):
            job = run("fleet", "start", kind, "--wait")
            assert (job["state"], job["failed"]) == ("done", 0)
        run("tenant", "archive", "bolt")
        assert run("tenant", "get", "bolt")["owner"] is None
        run("tenant", "unarchive", "bolt")
        run("tenant", "delete", "cord", "--yes")
        run("tenant", "purge", "cord", "--force", "--yes")
        run("tenant", "rename", "echo", "foxtrot")
        kept, errors, counts = app.stop()
    assert counts["acme"] == kept["acme"]
    assert {line.partition(" ")[0] for line in errors} == {"bolt", "cord", "echo"}, errors
    assert {line for line in errors if not line.startswith("cord")} <= {
        "bolt TenantStateError",
        "echo TenantNotFoundError",
    }
