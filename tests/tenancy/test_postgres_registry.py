"""A registry whose catalog and tenants are in a PostgreSQL database: the life of a tenant, and several processes."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from commands import WHERE, Service, service, tenantry
from deployments import config_of, deployments
from operators import contents
from others import Other, other_process
from postgres_servers import Database, PostgresServer
from registries import config
from tenantry import (
    BackendNotConfiguredError,
    LocalStorage,
    PersistenceConnectionError,
    SnapshotStorageOwnedError,
    TenantBusyError,
    TenantLimits,
    TenantNotFoundError,
    TenantOwnedElsewhereError,
    TenantQuarantinedError,
    TenantRegistry,
    TenantState,
    TenantSuspendedError,
    UnsupportedByBackend,
)
from tenantry.cli import app
from tenantry.events import Event, OperationStepped
from tenantry.tenancy.operations.operation import Operation
from tenantry.tenancy.tenant_record import Intent, TenantRecord
from tenants import HANG_SECONDS, as_another, make_message, until

pytestmark = pytest.mark.anyio

SLOW_POLL = {"catalog_poll_interval_seconds": 1.0}
"""What a process learns from the catalog alone, it learns late: earlier it can know only by the fence."""


@pytest.fixture
def snapshots(tmp_path: Path) -> Path:
    """The storage of snapshots, which all machines can reach."""
    return tmp_path / "snapshots"


@pytest.fixture
async def registry(
    data_dir: Path, snapshots: Path, postgres_database: Database
) -> AsyncIterator[TenantRegistry]:
    """A registry on an empty database."""
    settings = config(data_dir, database=postgres_database.url)
    async with TenantRegistry(settings, snapshot_storage=LocalStorage(snapshots)) as registry:
        yield registry


@pytest.fixture
def other(
    tmp_path: Path, snapshots: Path, registry: TenantRegistry, postgres_database: Database
) -> Iterator[Other]:
    """A registry on the same database in another process, with a data directory of its own: another machine."""
    shared = {"database": postgres_database.url, "snapshots": str(snapshots)}
    with other_process(tmp_path / "other", **shared, **SLOW_POLL) as process:
        yield process


def schemas(database: Database) -> list[str]:
    """Return the schemas of tenants in a database."""
    with psycopg.connect(database.direct_url) as connection:
        query = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'tenant\\_%' ORDER BY nspname"
        return [name for (name,) in connection.execute(query)]


async def save(registry: TenantRegistry, tenant_id: str, *texts: str) -> None:
    """Save a message for each text."""
    for text in texts:
        await registry.tenant(tenant_id).messages.save(make_message(text))


async def finish_leftover(registry: TenantRegistry) -> None:
    """Finish what a killed process left, as soon as the server has noticed that the process is gone."""
    async with asyncio.timeout(HANG_SECONDS):
        while True:
            with suppress(TenantBusyError):
                await registry.update("acme", display_name="Acme")
                return


async def test_the_life_of_a_tenant(data_dir: Path, each_postgres_database: Database):
    """Every operation works as on files, and a purge leaves nothing of the tenant in the database, on every server."""
    async with TenantRegistry(config(data_dir, database=each_postgres_database.url)) as registry:
        await live(registry)
        assert schemas(each_postgres_database) == []
        verification = await registry.audit.verify()
        assert verification.is_intact


async def live(registry: TenantRegistry) -> None:
    """Do each lifecycle operation to a tenant, from its creation to its purge."""
    created = await registry.create("acme")
    assert (created.backend, created.state) == ("postgres", TenantState.ACTIVE)
    await save(registry, "acme", "one")
    snapshot = await registry.snapshots.create("acme")
    await save(registry, "acme", "two")
    await registry.suspend("acme")
    with pytest.raises(TenantSuspendedError):
        await save(registry, "acme", "refused")
    await registry.resume("acme")
    await registry.archive("acme")
    await registry.unarchive("acme")
    await registry.quarantine("acme", reason="odd")
    assert (await registry.repair("acme")).state is TenantState.ACTIVE
    await registry.snapshots.restore("acme", snapshot.id)
    assert await contents(registry.tenant("acme")) == ["one"]
    await registry.snapshots.undo_restore("acme")
    assert await contents(registry.tenant("acme")) == ["one", "two"]
    assert (await registry.rename("acme", "umbrella")).location == created.location
    assert await contents(registry.tenant("umbrella")) == ["one", "two"]
    assert (await registry.tenant_statistics("umbrella")).database_bytes > 0
    await registry.delete("umbrella")
    await registry.undelete("umbrella")
    await registry.delete("umbrella")
    await registry.purge("umbrella", force=True)


async def test_between_the_back_ends(registry: TenantRegistry, tmp_path: Path):
    """A clone goes where its source is or where it is told, and bundles and snapshots know no back end."""
    await registry.create("acme")
    await save(registry, "acme", "one")
    snapshot = await registry.snapshots.create("acme")
    await registry.export("acme", tmp_path / "acme.tar.gz")
    copies = {
        "beside": await registry.clone("acme", "beside"),
        "file": await registry.clone("acme", "file", backend="sqlite"),
        "old": await registry.clone("acme", "old", snapshot.id, backend="sqlite"),
        "back": await registry.clone("file", "back", backend="postgres"),
        "import": await registry.import_bundle("import", tmp_path / "acme.tar.gz"),
        "import-file": await registry.import_bundle(
            "import-file", tmp_path / "acme.tar.gz", backend="sqlite"
        ),
    }
    copies["of-file"] = await registry.clone("file", "of-file")
    assert {name: copy.backend for name, copy in copies.items()} == {
        **dict.fromkeys(["beside", "back", "import"], "postgres"),
        **dict.fromkeys(["file", "old", "import-file", "of-file"], "sqlite"),
    }
    for name in copies:
        assert await contents(registry.tenant(name)) == ["one"]
    assert [asked.name for asked in await registry.backend_reports()] == ["postgres", "sqlite"]


async def test_fleet_jobs_work_on_both(registry: TenantRegistry):
    """A job selects tenants wherever they are."""
    await registry.create("acme")
    await registry.create("file", backend="sqlite")
    for kind in ("migrate", "check", "snapshot"):
        job = await registry.fleet.start(kind)
        progress = await registry.fleet.wait(job.id)
        assert (progress.done, progress.failed) == (2, 0), kind
    assert (await registry.snapshots.drill()).is_ok


async def test_a_feature_that_is_missing(registry: TenantRegistry):
    """What a server cannot do is refused, with the name of the feature, and nothing is changed."""
    before = await registry.create("acme")
    with pytest.raises(UnsupportedByBackend, match="database_bytes_max of tenant 'acme'") as caught:
        await registry.update("acme", limits=TenantLimits(database_bytes_max=2**20), display_name="Acme")
    assert (caught.value.capability, caught.value.backend) == ("byte_limit", "postgres")
    assert await registry.get("acme") == before
    await registry.update("acme", limits=TenantLimits(calls_in_flight_max=3))


async def test_a_process_without_the_database(registry: TenantRegistry, tmp_path: Path):
    """A registry that shares nothing with this one does not know its tenants."""
    await registry.create("acme")
    async with TenantRegistry(config(tmp_path / "files")) as files:
        with pytest.raises(TenantNotFoundError):
            await files.get("acme")
        with pytest.raises(BackendNotConfiguredError, match="set TENANTRY_DATABASE "):
            await files.create("acme", backend="postgres")


async def test_a_file_of_another_machine(
    registry: TenantRegistry, tmp_path: Path, snapshots: Path, postgres_database: Database
):
    """A machine without a tenant's file refuses the tenant, and does not quarantine it: the machine with the file serves it."""
    await registry.create("acme", backend="sqlite")
    await save(registry, "acme", "one")
    elsewhere = config(tmp_path / "elsewhere", database=postgres_database.url)
    async with TenantRegistry(elsewhere, snapshot_storage=LocalStorage(snapshots)) as without:
        with pytest.raises(
            TenantOwnedElsewhereError, match="'acme' is a file that is not in the data directory"
        ):
            await save(without, "acme", "refused")
        with pytest.raises(TenantOwnedElsewhereError, match="use the machine with the file, or restore"):
            await without.snapshots.create("acme")
        job = await without.fleet.start("check", tenant_ids=["acme"])
        await without.fleet.wait(job.id)
    assert (await registry.get("acme")).state is TenantState.ACTIVE
    assert await contents(registry.tenant("acme")) == ["one"]


async def test_a_server_that_is_not_there(tmp_path: Path):
    """The start fails with the address and without the password."""
    url = "postgresql://app:hunter2@127.0.0.1:1/tenants?tenantry_connect_timeout_seconds=1"
    with pytest.raises(PersistenceConnectionError) as caught:
        async with TenantRegistry(config(tmp_path, database=url)):
            pass
    assert "127.0.0.1:1" in str(caught.value)
    assert "hunter2" not in repr(caught.value)


async def test_two_databases(data_dir: Path, postgres_server: PostgresServer):
    """Tenants of one registry are spread over databases by name; the catalog stays where it is."""
    with postgres_server.database() as east, postgres_server.database() as west:
        databases = {"east": east.url, "west": west.url}
        async with TenantRegistry(config(data_dir, databases=databases, default_backend="west")) as registry:
            await registry.create("acme", backend="east")
            await registry.create("globex")
            await registry.create("initech", backend="sqlite")
            for tenant_id in ("acme", "globex", "initech"):
                await save(registry, tenant_id, tenant_id)
                assert await contents(registry.tenant(tenant_id)) == [tenant_id]
            assert (schemas(east), schemas(west)) == (["tenant_acme"], ["tenant_globex"])
        async with TenantRegistry(config(data_dir, databases={"east": east.url})) as registry:
            assert await contents(registry.tenant("acme")) == ["acme"]
            with pytest.raises(BackendNotConfiguredError, match="TENANTRY_DATABASES__west"):
                await save(registry, "globex", "lost")


async def test_a_copy_of_the_database(tmp_path: Path, postgres_server: PostgresServer):
    """The database owns its snapshots: a copy of it may not delete them, until an operator says that it takes over."""
    storage = LocalStorage(tmp_path / "snapshots")
    with deployments(postgres_server) as made:
        made.make(tmp_path / "one")
        async with TenantRegistry(config_of(tmp_path / "one"), snapshot_storage=storage) as registry:
            await registry.create("acme")
            kept = await registry.snapshots.create("acme")
        made.copy(tmp_path / "one", tmp_path / "two")
        async with TenantRegistry(config_of(tmp_path / "two"), snapshot_storage=storage) as copy:
            with pytest.raises(
                SnapshotStorageOwnedError, match="belong to the catalog in the database"
            ) as caught:
                await copy.snapshots.delete("acme", kept.id)
            assert caught.value.owner_data_dir is not None
            assert "postgres@" in caught.value.owner_data_dir
            await copy.snapshots.claim_storage()
            await copy.snapshots.create("acme")
        async with TenantRegistry(config_of(tmp_path / "one"), snapshot_storage=storage) as registry:
            with pytest.raises(SnapshotStorageOwnedError):
                await registry.snapshots.create("acme")


class TestSeveralProcesses:
    """Two registries on one database, each with a data directory of its own."""

    async def test_both_write(self, registry: TenantRegistry, other: Other):
        """Both have the tenant open and write; nothing is lost or doubled, and each reads what the other wrote."""
        await registry.create("acme")
        expected = []
        for number in range(10):
            assert other.do("save", "acme", f"theirs {number}") == "ok"
            await save(registry, "acme", f"ours {number}")
            expected += [f"theirs {number}", f"ours {number}"]
        history = await registry.tenant("acme").messages.get_history("general")
        assert sorted(message.content for message in history) == sorted(expected)

    @pytest.mark.parametrize(
        ("action", "refusal"),
        [
            ("suspend", "TenantSuspendedError"),
            ("delete", "TenantDeletedError"),
            ("archive", "TenantStateError"),
            ("quarantine", "TenantQuarantinedError"),
        ],
    )
    async def test_no_write_after(self, registry: TenantRegistry, other: Other, action: str, refusal: str):
        """Once the call has returned, no process acknowledges a write, long before the other one reads the catalog."""
        await registry.create("acme")
        assert other.do("save", "acme", "before") == "ok"
        await getattr(registry, action)("acme", reason="closed")
        assert other.do("save", "acme", "after")["error"] == refusal
        copied = await registry.snapshots.create("acme")
        assert copied.row_counts["messages"] == 1

    async def test_an_operation_that_failed_to_fence_is_repeated(
        self, registry: TenantRegistry, other: Other
    ):
        """A suspend of a suspended tenant fences again: the first one may have failed after its change of the catalog."""
        await registry.create("acme")
        assert other.do("save", "acme", "before") == "ok"
        first = await registry.suspend("acme")
        assert await registry.suspend("acme") == first
        await registry.resume("acme")
        assert other.do("save", "acme", "after") == "ok"
        assert await contents(registry.tenant("acme")) == ["after", "before"]

    async def test_an_id_that_is_given_to_another_tenant(self, registry: TenantRegistry, other: Other):
        """After a rename, a write with the old id reaches the tenant that has the id now."""
        await registry.create("acme")
        assert other.do("save", "acme", "old") == "ok"
        await registry.rename("acme", "umbrella")
        await registry.create("acme")
        assert other.do("save", "acme", "new") == "ok"
        assert await contents(registry.tenant("umbrella")) == ["old"]
        assert await contents(registry.tenant("acme")) == ["new"]

    async def test_a_restore_is_followed(self, registry: TenantRegistry, other: Other):
        """What another process writes after a restore is in the restored database."""
        await registry.create("acme")
        await save(registry, "acme", "kept")
        snapshot = await registry.snapshots.create("acme")
        assert other.do("save", "acme", "replaced") == "ok"
        await registry.snapshots.restore("acme", snapshot.id)
        assert other.do("save", "acme", "later") == "ok"
        assert await contents(registry.tenant("acme")) == ["kept", "later"]
        await registry.snapshots.undo_restore("acme")
        assert other.do("save", "acme", "last") == "ok"
        assert await contents(registry.tenant("acme")) == ["kept", "last", "replaced"]

    async def test_a_restore_elsewhere_is_no_failure(
        self, data_dir: Path, snapshots: Path, registry: TenantRegistry, other: Other
    ):
        """A process whose tenant is fenced off opens it again, and does not count or report a failure: no alert follows."""
        settings = config(data_dir.with_name("third"), database=registry.config.database, **SLOW_POLL)
        async with TenantRegistry(settings, snapshot_storage=LocalStorage(snapshots)) as fenced:
            await registry.create("acme")
            await save(fenced, "acme", "kept")
            snapshot = await fenced.snapshots.create("acme")
            with capture_logs() as logs:
                assert other.do("restore", "acme", snapshot.id) == "ok"
                await save(fenced, "acme", "later")
            assert fenced.statistics().pool.closed_by_reason["failed"] == 0
            assert "tenantry.tenant.failed" not in {entry["event"] for entry in logs}
            assert await contents(fenced.tenant("acme")) == ["kept", "later"]

    @pytest.mark.parametrize("step", ["begun", "placed", "kept", "exchanged"])
    async def test_callers_wait_for_a_restore_elsewhere(
        self, registry: TenantRegistry, other: Other, step: str
    ):
        """A call during another process's restore waits for its end, and takes effect in the restored database."""
        await registry.create("acme")
        await save(registry, "acme", "kept")
        snapshot = await registry.snapshots.create("acme")
        await save(registry, "acme", "replaced")
        assert other.do("restore", "acme", snapshot.id, stop_at=step) == "stopped"
        waiting = as_another(registry.tenant("acme").messages.save(make_message("later")))
        if step in {"begun", "placed"}:
            await until(lambda: not registry._parts.pool.has("acme") or waiting.done())
        assert other.go_on() == "ok"
        await waiting
        assert "later" in await contents(registry.tenant("acme")) or step in {"begun", "placed"}
        assert "replaced" not in await contents(registry.tenant("acme"))

    @pytest.mark.parametrize("step", ["begun", "placed", "closed", "kept", "exchanged"])
    async def test_a_restore_whose_process_dies(self, registry: TenantRegistry, other: Other, step: str):
        """The next operation finishes the restore or rolls it back, and the tenant serves calls with one whole database."""
        await registry.create("acme")
        await save(registry, "acme", "kept")
        snapshot = await registry.snapshots.create("acme")
        await save(registry, "acme", "replaced")
        assert other.do("restore", "acme", snapshot.id, stop_at=step) == "stopped"
        other.kill()
        await finish_leftover(registry)
        assert (await registry.get("acme")).intent is None
        assert await contents(registry.tenant("acme")) == ["kept"]
        await registry.snapshots.undo_restore("acme")
        assert await contents(registry.tenant("acme")) == ["kept", "replaced"]

    async def test_writers_during_a_rename(self, registry: TenantRegistry, other: Other):
        """Writes of many callers beside another process's operations all succeed, and each is kept once."""
        await registry.create("acme")
        done = asyncio.Event()
        saved: list[str] = []

        async def write(name: int) -> None:
            number = 0
            while not done.is_set():
                text = f"{name}-{number}"
                await save(registry, "acme", text)
                saved.append(text)
                number += 1

        writers = [asyncio.ensure_future(write(name)) for name in range(8)]
        for _ in range(5):
            assert await asyncio.to_thread(other.do, "update", "acme", display_name="Acme") == "ok"
            assert await asyncio.to_thread(other.do, "rename", "acme", "umbrella") == "ok"
            assert await asyncio.to_thread(other.do, "rename", "umbrella", "acme") == "ok"
        done.set()
        outcomes = await asyncio.gather(*writers, return_exceptions=True)
        assert {type(one) for one in outcomes} <= {type(None), TenantNotFoundError}
        history = await registry.tenant("acme").messages.get_history("general", limit=10_000)
        assert sorted(message.content for message in history) == sorted(saved)


def test_the_command_line(data_dir: Path, postgres_database: Database):
    """The commands on a data directory find their tenants in the database of the environment."""
    env = {
        **dict.fromkeys(WHERE, ""),
        "TENANTRY_DATA_DIR": str(data_dir),
        "TENANTRY_DATABASE": postgres_database.url,
    }

    def run(*arguments: str) -> Any:
        done = CliRunner().invoke(app, [*arguments, "--json"], env=env)
        assert done.exit_code == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    assert run("tenant", "create", "acme")["backend"] == "postgres"
    assert run("tenant", "create", "file", "--backend", "sqlite")["backend"] == "sqlite"
    assert [one["backend"] for one in run("tenant", "list")["items"]] == ["postgres", "sqlite"]
    run("snapshot", "create", "acme")
    run("tenant", "suspend", "acme", "--reason", "unpaid")
    assert run("tenant", "get", "acme")["state"] == "suspended"
    run("tenant", "delete", "acme", "--yes")
    run("tenant", "purge", "acme", "--force", "--yes")
    assert not (data_dir / "catalog.db").exists()


def test_two_services(tmp_path: Path, postgres_database: Database):
    """Two services, each with a directory of its own, serve the same tenants and keys; a key of one is good for the other."""
    env = {"TENANTRY_DATABASE": postgres_database.url, "TENANTRY_SNAPSHOT_STORAGE": str(tmp_path / "shared")}
    key = tenantry("key", "create", "--data-dir", tmp_path / "one", "--scope", "admin", "--quiet", env=env)
    assert key.returncode == 0, key.stderr
    named = {"key": key.stdout.strip(), "env": env}
    with service(tmp_path / "one", **named) as one, service(tmp_path / "two", **named) as two:

        def ask(running: Service, method: str, path: str, body: Any = None) -> Any:
            sent = {"Authorization": f"Bearer {running.key}"}
            answer = httpx.request(
                method, f"{running.url}{path}", json=body, headers=sent, trust_env=False, timeout=HANG_SECONDS
            )
            return answer.status_code, answer.json() if answer.content else None

        assert ask(one, "POST", "/v1/tenants", {"id": "acme"})[1]["backend"] == "postgres"
        assert ask(two, "GET", "/v1/tenants/acme")[1]["state"] == "active"
        assert ask(two, "POST", "/v1/tenants/acme/suspend")[0] == 200
        assert ask(one, "POST", "/v1/tenants/acme/resume")[1]["state"] == "active"
        status, version = ask(two, "GET", "/v1/version")
        assert (status, [one["name"] for one in version["backends"]]) == (200, ["postgres", "sqlite"])
        assert version["catalog_backend"] == "postgres"
        assert httpx.get(f"{one.url}/readyz", trust_env=False, timeout=HANG_SECONDS).status_code == 200
        refused = ask(one, "PATCH", "/v1/tenants/acme", {"limits": {"database_bytes_max": 2**20}})
        assert (refused[0], refused[1]["type"]) == (409, "urn:tenantry:problem:unsupported-by-backend")


@pytest.mark.parametrize("is_open", [True, False])
async def test_a_tenant_whose_schema_was_dropped_is_quarantined(
    registry: TenantRegistry, postgres_database: Database, *, is_open: bool
):
    """A schema that no operation has removed is lost: the tenant is quarantined, and a restore brings the tenant back."""
    await registry.create("acme")
    await save(registry, "acme", "one")
    snapshot = await registry.snapshots.create("acme")
    if not is_open:
        await registry.suspend("acme")
    with psycopg.connect(postgres_database.direct_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA tenant_acme CASCADE")
    if not is_open:
        await registry.resume("acme")
    with pytest.raises(TenantQuarantinedError, match="'tenant_acme' of tenant 'acme' is missing"):
        await save(registry, "acme", "two")
    assert (await registry.get("acme")).state is TenantState.QUARANTINED
    await registry.snapshots.restore("acme", snapshot.id)
    assert await contents(registry.tenant("acme")) == ["one"]


async def test_a_process_that_has_lost_its_lock(
    registry: TenantRegistry, data_dir: Path, snapshots: Path, postgres_database: Database
):
    """A paused process loses its lock, and another one finishes its operation: the first does not end the tenant's next operation."""
    await registry.create("acme")
    paused: list[str] = []

    async def finish_elsewhere() -> None:
        settings = config(data_dir.with_name("another"), database=postgres_database.url)
        async with TenantRegistry(settings, snapshot_storage=LocalStorage(snapshots)) as another:
            archived = await another.get("acme")
            assert (archived.state, archived.intent) == (TenantState.ARCHIVED, None)
            next_one = Intent(action="next", begun_at=archived.created_at)
            await another._parts.catalog.change(archived, intent=next_one)

    def pause(event: Event) -> None:
        if isinstance(event, OperationStepped) and event.step == "compacted" and not paused:
            paused.append(event.action)
            postgres_database.end_holders_of_locks()
            other_process = threading.Thread(target=lambda: asyncio.run(finish_elsewhere()))
            other_process.start()
            other_process.join()

    registry.add_hook(pause)
    with pytest.raises(TenantBusyError, match="busy with 'next'"):
        await registry.archive("acme")
    found = await registry.get("acme")
    assert found.intent is not None
    assert (paused, found.intent.action) == (["archive"], "next")


async def test_a_record_that_changes_while_its_operation_is_finished(registry: TenantRegistry):
    """A paused process still changes the record of the operation that this process finishes: the next attempt reads it again."""
    await registry.create("acme")
    catalog, runner, seen = registry._parts.catalog, registry._parts.runner, list[str]()

    async def finish(operation: Operation, tenant: TenantRecord) -> None:
        seen.append(tenant.display_name)
        assert len(seen) < 3, "the finisher gets the old record again and again"
        if len(seen) == 1:
            await catalog.change(tenant, display_name="changed")
        await operation.complete(await catalog.change(tenant, reason="finished"))

    runner._finishers["next"] = finish
    tenant = await registry.get("acme")
    await catalog.change(tenant, intent=Intent(action="next", begun_at=tenant.created_at))
    await runner.reconcile()
    found = await registry.get("acme")
    assert (seen, found.intent, found.reason) == (["acme", "changed"], None, "finished")


async def test_the_address_of_another_database_quarantines_nobody(
    data_dir: Path, postgres_server: PostgresServer
):
    """A registry with a wrong address refuses its tenants, and serves them when the address is right again."""
    with postgres_server.database() as right, postgres_server.database() as wrong:
        settings = {"default_backend": "east"}
        async with TenantRegistry(config(data_dir, databases={"east": right.url}, **settings)) as registry:
            await registry.create("acme")
            await save(registry, "acme", "one")
        async with TenantRegistry(config(data_dir, databases={"east": wrong.url}, **settings)) as registry:
            with pytest.raises(PersistenceConnectionError, match="check the address"):
                await save(registry, "acme", "two")
            assert (await registry.get("acme")).state is TenantState.ACTIVE
        async with TenantRegistry(config(data_dir, databases={"east": right.url}, **settings)) as registry:
            assert await contents(registry.tenant("acme")) == ["one"]
