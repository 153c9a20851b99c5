"""What fleet jobs do to tenants: migrate, check, take snapshots and run users' functions; for which, and what is kept of it."""

import asyncio
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fleets import (
    FakeSnapshots,
    Held,
    all_results,
    fail_with,
    fleet_config,
    holding,
    limited,
    make_fleet,
    nested,
    paused_job,
    save,
)
from tenantry import Schema, TenantHandle, TenantRegistry, TenantState
from tenantry.company import COMPANY
from tenantry.errors import (
    DuplicateRecordError,
    InvalidTenantIdError,
    JobError,
    PersistenceError,
    QueryError,
    TenantBusyError,
    TenantNotFoundError,
    TenantQuarantinedError,
)
from tenantry.events import FleetTenantFinished, StoreMigrated, TenantClosed, TenantOpened
from tenantry.observability import RegistryMetrics
from tenantry.tenancy.fleet.job import JobState
from tenantry.tenancy.fleet.limits import FleetLimits
from tenants import HANG_SECONDS, Recorder, database_path, make_message, query, stored_contents, write_pack


class TestMigrate:
    """The migration of all."""

    async def test_a_tenant_is_migrated_by_whoever_comes_first(self, data_dir: Path, invoices: Schema):
        """Calls in the middle of a job find their tenants migrated, and each of them was migrated once."""
        ids = await make_fleet(data_dir, 40)
        hook = Recorder()
        config = fleet_config(data_dir)
        async with TenantRegistry(config, schemas=[COMPANY, invoices], hooks=[hook]) as registry:
            job = await registry.fleet.start("migrate", concurrency=2)
            await asyncio.gather(*(registry.tenant(i).messages.save(make_message()) for i in reversed(ids)))
            progress = await registry.fleet.wait(job.id)
        assert (progress.done, progress.failed) == (40, 0)
        assert Counter(event.tenant_id for event in hook.of(StoreMigrated, applied=1)) == Counter(ids)

    async def test_a_caller_that_comes_first_and_fails(self, data_dir: Path, invoices: Schema):
        """A tenant that was quarantined by somebody's call counts as failed, with the reason."""
        await make_fleet(data_dir, 2, failing=["t-00001"])
        async with TenantRegistry(fleet_config(data_dir), schemas=[COMPANY, invoices]) as registry:
            job = await paused_job(registry, "migrate")
            with pytest.raises(TenantQuarantinedError):
                await registry.tenant("t-00001").messages.save(make_message())
            await registry.fleet.resume(job)
            await registry.fleet.wait(job)
            [failed] = await registry.fleet.results(job, outcome="quarantined")
            assert failed.tenant_id == "t-00001"
            assert "table invoices already exists" in str(failed.error)
            assert (await registry.fleet.results(job, outcome="corrupt")) == ()

    async def test_what_is_current_is_not_opened(self, data_dir: Path, invoices: Schema):
        """A tenant that has all migrations is skipped as it lies there, open or closed."""
        await make_fleet(data_dir, 6)
        hook = Recorder()
        async with TenantRegistry(
            fleet_config(data_dir), schemas=[COMPANY, invoices], hooks=[hook]
        ) as registry:
            first = await registry.fleet.start("migrate")
            assert (await registry.fleet.wait(first.id)).skipped == 0
            assert len(hook.of(TenantOpened)) == 6
            second = await registry.fleet.start("migrate")
            assert (await registry.fleet.wait(second.id)).skipped == 6
            assert [r.detail for r in await registry.fleet.results(first.id, limit=1)] == [
                {"schema_versions": {"company": 1, "invoices": 1}}
            ]
        hook = Recorder()
        async with TenantRegistry(
            fleet_config(data_dir), schemas=[COMPANY, invoices], hooks=[hook]
        ) as registry:
            third = await registry.fleet.start("migrate")
            assert (await registry.fleet.wait(third.id)).skipped == 6
            assert hook.of(TenantOpened) == []
            assert [event.outcome for event in hook.of(FleetTenantFinished, kind="migrate")] == [
                "skipped"
            ] * 6

    async def test_an_entry_that_is_wrong(self, data_dir: Path, invoices: Schema):
        """What the catalog says of a file is believed only if the file says so too."""
        await make_fleet(data_dir, 3)
        versions = json.dumps({"company": 1, "invoices": 1})
        query(data_dir / "catalog.db", "UPDATE tenants SET schema_versions = ?", versions)
        async with TenantRegistry(fleet_config(data_dir), schemas=[COMPANY, invoices]) as registry:
            job = await registry.fleet.start("migrate")
            progress = await registry.fleet.wait(job.id)
            assert (progress.done, progress.skipped) == (3, 0)
        query(database_path(data_dir, "t-00001"), "SELECT number FROM invoices")

    async def test_only_those_below_a_version(self, data_dir: Path, invoices: Schema):
        """A job can be for those that lack a migration, as far as the catalog knows."""
        await make_fleet(data_dir, 3)
        async with TenantRegistry(fleet_config(data_dir), schemas=[COMPANY, invoices]) as registry:
            await registry.tenant("t-00001").messages.save(make_message())
            for below, total in (({"invoices": 1}, 2), ({"company": 1}, 0), ({"company": 1, "other": 1}, 3)):
                job = await registry.fleet.start("migrate", below=below)
                assert (await registry.fleet.wait(job.id)).total == total

    async def test_the_status_of_a_tenant(self, data_dir: Path, invoices: Schema):
        """Versions, what is pending and the last error are those of the last opening, against the code of now."""
        await make_fleet(data_dir, 1)
        async with TenantRegistry(fleet_config(data_dir), schemas=[COMPANY, invoices]) as registry:
            before = await registry.fleet.status("t-00000")
            assert (before.schema_versions, before.pending) == ({"company": 1}, ("invoices 0001_step",))
            assert not before.is_current
            await registry.tenant("t-00000").messages.save(make_message())
            after = await registry.fleet.status("t-00000")
            assert (after.schema_versions, after.pending) == ({"company": 1, "invoices": 1}, ())
            with pytest.raises(TenantNotFoundError):
                await registry.fleet.status("t-00001")

    async def test_a_tenant_that_is_open_elsewhere(self, data_dir: Path, invoices: Schema):
        """A process with fewer migrations gives the tenant up; current as another process has it, it is skipped."""
        await make_fleet(data_dir, 2)
        async with TenantRegistry(fleet_config(data_dir)) as old:
            await old.tenant("t-00000").messages.save(make_message())
            async with TenantRegistry(fleet_config(data_dir), schemas=[COMPANY, invoices]) as registry:
                job = await registry.fleet.start("migrate")
                assert (await registry.fleet.wait(job.id)).done == 2
                assert not await registry.fleet.results(job.id, outcome="owned_elsewhere")
                assert len(await registry.tenant("t-00000").messages.get_history("general")) == 1
                assert len(await old.tenant("t-00000").messages.get_history("general")) == 1
        async with TenantRegistry(fleet_config(data_dir), schemas=[COMPANY, invoices]) as other:
            await other.tenant("t-00000").messages.save(make_message())
            async with TenantRegistry(fleet_config(data_dir), schemas=[COMPANY, invoices]) as registry:
                job = await registry.fleet.start("migrate")
                assert (await registry.fleet.wait(job.id)).skipped == 2

    async def test_a_tenant_that_is_busy_for_a_while(self, data_dir: Path, invoices: Schema):
        """A tenant that another process is at is tried again, and migrated once that one has finished."""
        limits = FleetLimits(retry_seconds=(0.001,) * 10_000, retry_after_seconds_max=0.0)
        await make_fleet(data_dir, 1)
        hook = Recorder()
        async with limited(
            TenantRegistry(fleet_config(data_dir), schemas=[COMPANY, invoices], hooks=[hook]), limits
        ) as registry:
            intent = json.dumps({"action": "snapshot", "begun_at": "2026-11-23T12:00:00Z"})
            query(data_dir / "catalog.db", "UPDATE tenants SET intent = ?", intent)
            job = await registry.fleet.start("migrate")
            await hook.wait_for(TenantOpened, outcome="busy")
            query(data_dir / "catalog.db", "UPDATE tenants SET intent = NULL")
            assert (await registry.fleet.wait(job.id)).done == 1
            assert len(await all_results(registry, job.id)) == 1

    async def test_a_pause_ends_the_attempts(self, data_dir: Path, invoices: Schema):
        """A tenant whose next attempt is waited for stays to be done."""
        limits = FleetLimits(retry_seconds=(HANG_SECONDS,))
        await make_fleet(data_dir, 1)
        hook = Recorder()
        async with limited(
            TenantRegistry(fleet_config(data_dir), schemas=[COMPANY, invoices], hooks=[hook]), limits
        ) as registry:
            intent = json.dumps({"action": "snapshot", "begun_at": "2026-11-23T12:00:00Z"})
            query(data_dir / "catalog.db", "UPDATE tenants SET intent = ?", intent)
            job = await registry.fleet.start("migrate")
            await hook.wait_for(TenantOpened, outcome="busy")
            await registry.fleet.pause(job.id)
            progress = await registry.fleet.wait(job.id)
            assert (progress.state, progress.left) == (JobState.PAUSED, 1)
            query(data_dir / "catalog.db", "UPDATE tenants SET intent = NULL")


def spoil(path: Path) -> None:
    """Overwrite everything of a database but its first page."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))


class TestCheck:
    """The look for damage in all."""

    async def test_damaged_tenants_are_found(self, data_dir: Path):
        """One that serves calls is quarantined, with the reason; one that does not is told of; the sound are as they were."""
        await make_fleet(data_dir, 6)
        hook = Recorder()
        async with TenantRegistry(fleet_config(data_dir), hooks=[hook]) as registry:
            for tenant_id in ("t-00000", "t-00001"):
                await registry.tenant(tenant_id).messages.save(make_message("kept"))
            for tenant_id in ("t-00002", "t-00003"):
                await registry.suspend(tenant_id)
            await registry.archive("t-00004")
            for tenant_id in ("t-00001", "t-00003"):
                spoil(database_path(data_dir, tenant_id))
            states = [TenantState.ACTIVE, "suspended", "archived"]
            job = await registry.fleet.start(
                "check", states=states, failures_max=None, arguments={"thorough": True}
            )
            progress = await registry.fleet.wait(job.id)
            assert (progress.total, progress.done, progress.failed) == (6, 4, 2)
            failed = await registry.fleet.results(job.id, outcome="corrupt")
            assert [result.tenant_id for result in failed] == ["t-00001", "t-00003"]
            await hook.wait_for(TenantClosed, tenant_id="t-00001", reason="failed")
            assert (await registry.get("t-00001")).state is TenantState.QUARANTINED
            assert (await registry.get("t-00003")).state is TenantState.SUSPENDED
            await registry.tenant("t-00000").messages.save(make_message("kept too"))
            await registry.resume("t-00002")
            again = await registry.fleet.start("check", states=["quarantined"])
            assert (await registry.fleet.wait(again.id)).failed == 1

    async def test_a_tenant_that_is_resumed_meanwhile(self, data_dir: Path):
        """One that was suspended when the job was made, and serves calls when its turn comes, is not for this job any more."""
        await make_fleet(data_dir, 1)
        async with TenantRegistry(fleet_config(data_dir)) as registry:
            await registry.suspend("t-00000")
            job = await paused_job(registry, "check", states=["suspended"])
            await registry.resume("t-00000")
            await registry.fleet.resume(job)
            assert (await registry.fleet.wait(job)).skipped == 1
            assert [r.detail for r in await registry.fleet.results(job)] == [{"skipped": "active"}]


class TestSnapshots:
    """Snapshots of all, and as the way back."""

    async def test_of_all(self, data_dir: Path, entries: list[str]):
        """Each tenant has one taken, and its result says which."""
        snapshots = FakeSnapshots()
        async with holding(data_dir, Held()) as registry:
            snapshots.given_to(registry)
            job = await registry.fleet.start("snapshot", id_prefix="t-0000", concurrency=1)
            assert (await registry.fleet.wait(job.id)).done == 10
            details = [result.detail for result in await registry.fleet.results(job.id)]
        assert snapshots.created == [(tenant_id, "fleet") for tenant_id in entries[:10]]
        assert details == [{"snapshot_id": f"snapshot-{number}"} for number in range(1, 11)]

    @pytest.mark.parametrize("returns", [False, True])
    async def test_before_the_work(self, data_dir: Path, entries: list[str], *, returns: bool):
        """Every tenant has one taken; who fails is returned to it, if that was asked for."""
        held, snapshots = Held(), FakeSnapshots()
        await held.let_go()
        async with holding(data_dir, held) as registry:
            snapshots.given_to(registry)
            job = await registry.fleet.start(
                "held",
                tenant_ids=entries[:2],
                concurrency=1,
                snapshot_before=True,
                return_on_failure=returns,
                arguments={"failing": entries[1:]},
            )
            await registry.fleet.wait(job.id)
            sound, failed = await registry.fleet.results(job.id)
        assert sound.detail == {"snapshot_before": "snapshot-1"}
        assert failed.detail == {"snapshot_before": "snapshot-2"} | ({"is_returned": True} if returns else {})
        assert snapshots.restored == ([(entries[1], "snapshot-2")] if returns else [])

    async def test_a_return_that_fails(self, data_dir: Path, entries: list[str]):
        """The result has the error of the work, and beside it why the tenant could not be returned."""
        held, snapshots = Held(), FakeSnapshots()
        snapshots.error = PersistenceError("the snapshot is gone")
        await held.let_go()
        async with holding(data_dir, held) as registry:
            snapshots.given_to(registry)
            job = await registry.fleet.start(
                "held", tenant_ids=entries[:1], return_on_failure=True, arguments={"failing": entries}
            )
            await registry.fleet.wait(job.id)
            [result] = await registry.fleet.results(job.id)
        assert result.error == f"ValueError: {entries[0]} fails"
        assert result.detail == {"snapshot_before": "snapshot-1", "return_error": "the snapshot is gone"}

    async def test_a_retry_uses_the_first(self, data_dir: Path, entries: list[str]):
        """After an attempt that failed the tenant may not be as it was before: no other snapshot is taken of it."""
        snapshots = FakeSnapshots()
        registry = limited(TenantRegistry(fleet_config(data_dir)), FleetLimits(retry_seconds=(0.001, 0.001)))
        registry.fleet.register(
            "busy", fail_with(TenantBusyError("busy", tenant_id=None, action="x", retry_after_seconds=0))
        )
        async with registry:
            snapshots.given_to(registry)
            job = await registry.fleet.start("busy", tenant_ids=entries[:1], return_on_failure=True)
            await registry.fleet.wait(job.id)
            assert [r.outcome for r in await registry.fleet.results(job.id)] == ["busy"]
        assert snapshots.created == [(entries[0], "fleet")]
        assert snapshots.restored == [(entries[0], "snapshot-1")]

    async def test_half_of_the_migrations(
        self, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """A tenant whose second migration fails is as before the first one, quarantined with the reason, and can be repaired."""
        monkeypatch.syspath_prepend(tmp_path)
        name = write_pack(tmp_path, "two_steps", "CREATE TABLE first (x)", "CREATE TABLE second (x)")
        async with TenantRegistry(fleet_config(data_dir)) as registry:
            await registry.create("acme")
        query(database_path(data_dir, "acme"), "CREATE TABLE second (mine)")
        async with TenantRegistry(
            fleet_config(data_dir), schemas=[COMPANY, Schema("steps", name)]
        ) as registry:
            job = await registry.fleet.start("migrate", return_on_failure=True)
            await registry.fleet.wait(job.id)
            [result] = await registry.fleet.results(job.id)
            assert result.detail["is_returned"] is True, result
            tenant = await registry.get("acme")
            assert tenant.state is TenantState.QUARANTINED
            assert "second already exists" in str(tenant.reason)
            path = database_path(data_dir, "acme")
            assert query(path, "SELECT name FROM sqlite_schema WHERE name IN ('first', 'second')") == [
                ("second",)
            ]
            query(path, "DROP TABLE second")
            await registry.repair("acme")
            assert (await registry.get("acme")).schema_versions == {"company": 1, "steps": 2}

    async def test_a_real_one_is_the_way_back(self, data_dir: Path):
        """A function that spoils a tenant and fails leaves it as it was before; the snapshot is among the tenant's."""

        async def spoil(tenant: TenantHandle, _: dict[str, Any]) -> None:
            await tenant.messages.save(make_message("half of the work"))
            raise ValueError("the other half")

        registry = TenantRegistry(fleet_config(data_dir))
        registry.fleet.register("spoil", spoil)
        async with registry:
            await registry.create("acme")
            await registry.tenant("acme").messages.save(make_message("before"))
            job = await registry.fleet.start("spoil", tenant_ids=["acme"], return_on_failure=True)
            await registry.fleet.wait(job.id)
            [result] = await registry.fleet.results(job.id)
            [snapshot] = await registry.snapshots.list("acme")
            assert result.error == "ValueError: the other half"
            assert result.detail == {"snapshot_before": snapshot.id, "is_returned": True}
            assert snapshot.trigger == "fleet"
            [message] = await registry.tenant("acme").messages.get_history("general")
            assert message.content == "before"


class TestFunctions:
    """What users do to all of their tenants."""

    async def test_it_gets_the_tenant_and_the_arguments(self, data_dir: Path):
        """It works on the tenant as any caller does, and its result is kept."""
        ids = await make_fleet(data_dir, 3)
        registry = TenantRegistry(fleet_config(data_dir))

        async def count(tenant: TenantHandle, arguments: dict[str, Any]) -> dict[str, Any]:
            await tenant.messages.save(make_message(arguments["text"]))
            return {"messages": len(await tenant.messages.get_history("general"))}

        registry.fleet.register("count", count)
        registry.fleet.register("count", count)
        async with registry:
            job = await registry.fleet.start("count", arguments={"text": "hello"})
            await registry.fleet.wait(job.id)
            assert [r.detail for r in await registry.fleet.results(job.id)] == [
                {"result": {"messages": 1}}
            ] * 3
            assert (await registry.fleet.get(job.id)).options.arguments == {"text": "hello"}
        assert [stored_contents(data_dir, tenant_id) for tenant_id in ids] == [["hello"]] * 3

    @pytest.mark.parametrize(
        ("error", "outcome", "text"),
        [
            (ValueError("no"), "error", "ValueError: no"),
            (QueryError("refused"), "error", "refused"),
            (DuplicateRecordError("twice"), "duplicate", "twice"),
            (
                asyncio.CancelledError(),
                "error",
                "RuntimeError: a task or a future that the function awaited was cancelled",
            ),
            (RuntimeError("x" * 5000), "error", "RuntimeError: " + "x" * 1986),
        ],
    )
    async def test_what_it_raises_is_the_outcome(
        self, data_dir: Path, entries: list[str], error: Exception, outcome: str, text: str
    ):
        """An error of ours keeps its outcome; any other is an error, by its name; a long one is cut."""
        registry = TenantRegistry(fleet_config(data_dir))
        registry.fleet.register("fail", fail_with(error))
        async with registry:
            job = await registry.fleet.start("fail", tenant_ids=entries[:1])
            assert (await registry.fleet.wait(job.id)).failed == 1
            [result] = await registry.fleet.results(job.id)
        assert (result.outcome, result.error) == (outcome, text)

    @pytest.mark.parametrize(
        "result",
        [
            "text",
            {"x": object()},
            {"x": float("nan")},
            {"x": "x" * 70_000},
            {"x": "\ud800"},
            {"\ud800": 1},
            {"x": nested(40)},
        ],
        ids=range(7),
    )
    async def test_a_result_that_cannot_be_kept(self, data_dir: Path, entries: list[str], result: Any):
        """What is no JSON object, or too large, is that tenant's failure, and the job goes on."""

        async def give(_: TenantHandle, __: dict[str, Any]) -> Any:
            return result

        registry = TenantRegistry(fleet_config(data_dir))
        registry.fleet.register("give", give)
        async with registry:
            job = await registry.fleet.start("give", tenant_ids=entries[:2])
            progress = await registry.fleet.wait(job.id)
            assert (progress.state, progress.failed) == (JobState.DONE, 2)
            assert [r.detail for r in await registry.fleet.results(job.id)] == [{}, {}]

    def test_a_name_is_taken_once(self, data_dir: Path):
        """Neither a kind of ours nor another's function can be replaced."""
        fleet = TenantRegistry(fleet_config(data_dir)).fleet
        fleet.register("mine", save)
        for name in ("migrate", "check", "snapshot", "mine"):
            with pytest.raises(JobError, match=f"a built-in kind has the name '{name}': choose"):
                fleet.register(name, fail_with(ValueError()))

    @pytest.mark.usefixtures("entries")
    async def test_callers_are_left_half_of_the_places(self, data_dir: Path):
        """All jobs together work on half as many tenants as may be open, however many each may work on."""
        held = Held()
        async with holding(data_dir, held, open_tenants_max=6) as registry:
            jobs = [await registry.fleet.start("held", concurrency=100) for _ in range(2)]
            for begun in range(3, 41):
                await held.begun(begun)
                await held.let_go(1)
            await held.let_go()
            for job in jobs:
                assert (await registry.fleet.wait(job.id)).done == 20
        assert held.at_once_peak == 3


class TestSelection:
    """Which tenants a job is for."""

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({}, range(20)),
            ({"id_prefix": "t-0001"}, range(10, 20)),
            ({"id_prefix": "t-00019"}, [19]),
            ({"tenant_ids": ["t-00007", "t-00003", "t-00003"]}, [3, 7]),
            ({"tenant_ids": ["t-00007", "zz-template"]}, [7]),
            ({"tenant_ids": [], "id_prefix": "t-"}, []),
            ({"tenant_ids": ["t-00007", "t-00013"], "id_prefix": "t-0001"}, [13]),
        ],
        ids=str,
    )
    async def test_conditions_are_added(
        self, data_dir: Path, entries: list[str], options: dict[str, Any], expected: Any
    ):
        """Who fulfils all of them, in the order of ids, each once."""
        held = Held()
        await held.let_go()
        async with holding(data_dir, held) as registry:
            job = await registry.fleet.start("held", concurrency=1, **options)
            await registry.fleet.wait(job.id)
        assert held.order == [entries[number] for number in expected]

    @pytest.mark.parametrize(
        ("options", "problem"),
        [
            ({"kind": "none"}, "no function 'none' is registered here"),
            ({"concurrency": 0}, "concurrency: "),
            ({"canary": "five"}, "canary: "),
            ({"failures_max": 1.5}, "failures_max: "),
            ({"states": ["suspended"]}, "a 'held' job cannot work on suspended tenants"),
            ({"kind": "migrate", "states": ["archived"]}, "a 'migrate' job cannot work on archived tenants"),
            ({"kind": "check", "states": ["deleted"]}, "a 'check' job cannot work on deleted tenants"),
            ({"arguments": {"x": {1, 2}}}, "arguments: "),
            ({"arguments": {"x": "\ud800"}}, "arguments: "),
            ({"arguments": {"x": nested(40)}}, "arguments: .* nested deeper than 32"),
        ],
        ids=str,
    )
    async def test_what_makes_no_sense_is_refused(
        self, data_dir: Path, options: dict[str, Any], problem: str
    ):
        """The error names the argument, and no job is written down."""
        async with holding(data_dir, Held()) as registry:
            with pytest.raises(JobError, match=problem) as caught:
                await registry.fleet.start(**{"kind": "held", **options})
            assert caught.value.job_id is None
            assert await registry.fleet.list() == ()

    async def test_tenants_that_are_none(self, data_dir: Path):
        """An id that nobody has, one that is none, and too many of them."""
        async with holding(data_dir, Held()) as registry:
            await registry.create("acme")
            with pytest.raises(TenantNotFoundError, match="'globex'"):
                await registry.fleet.start("held", tenant_ids=["acme", "globex"])
            with pytest.raises(InvalidTenantIdError):
                await registry.fleet.start("held", tenant_ids=["../acme"])
            with pytest.raises(QueryError, match="10001 tenant_ids are more than 10000"):
                await registry.fleet.start("held", tenant_ids=["acme"] * 10_001)
            assert await registry.fleet.list() == ()

    async def test_tenants_that_leave_meanwhile(self, data_dir: Path):
        """Who is suspended, deleted or gone when its turn comes is skipped; who has another id by then is the same tenant."""
        await make_fleet(data_dir, 4)
        registry = TenantRegistry(fleet_config(data_dir))
        registry.fleet.register("save", save)
        async with registry:
            job = await paused_job(registry, "save")
            await registry.suspend("t-00000")
            await registry.delete("t-00001")
            await registry.delete("t-00002")
            await registry.purge("t-00002", force=True)
            await registry.create("t-00002")
            await registry.rename("t-00003", "renamed")
            await registry.fleet.resume(job)
            progress = await registry.fleet.wait(job)
            assert (progress.done, progress.skipped) == (4, 3)
            results = await registry.fleet.results(job)
        assert [(r.tenant_id, r.outcome, r.detail.get("skipped")) for r in results] == [
            ("t-00000", "skipped", "suspended"),
            ("t-00001", "skipped", "deleted"),
            ("t-00002", "skipped", "gone"),
            ("t-00003", "ok", None),
        ]
        assert stored_contents(data_dir, "t-00003") == ["called"]


class TestPages:
    """Lists of jobs and of results."""

    async def test_jobs_newest_first(self, data_dir: Path, entries: list[str]):
        """Page by page, all or those in one state."""
        held = Held()
        await held.let_go()
        async with holding(data_dir, held) as registry:
            made = [(await registry.fleet.start("held", tenant_ids=entries[:1])).id for _ in range(3)]
            for job_id in made:
                await registry.fleet.wait(job_id)
            paused = await paused_job(registry, "held")
            first = await registry.fleet.list(limit=3)
            second = await registry.fleet.list(limit=3, cursor=first.next_cursor)
            assert [job.id for job in (*first, *second)] == [paused, *reversed(made)]
            assert second.next_cursor is None
            done = await registry.fleet.list(state=JobState.DONE, limit=2)
            rest = await registry.fleet.list(state=JobState.DONE, cursor=done.next_cursor)
            assert [job.id for job in (*done, *rest)] == [*reversed(made)]
            with pytest.raises(QueryError):
                await registry.fleet.list(cursor="none")

    async def test_results_by_outcome(self, data_dir: Path, entries: list[str]):
        """The finished, the failed and those that are left, in the order of waves and ids."""
        held = Held()
        async with holding(data_dir, held) as registry:
            job = await registry.fleet.start(
                "held", concurrency=9, failures_max=None, arguments={"failing": entries[1:9:2]}
            )
            await held.begun(8)
            await registry.fleet.pause(job.id)
            await held.let_go()
            await registry.fleet.wait(job.id)
            for outcome, expected in (
                (None, entries[:8]),
                ("failed", entries[1:8:2]),
                ("error", entries[1:8:2]),
                ("ok", entries[0:8:2]),
                ("skipped", []),
                ("left", entries[8:]),
            ):
                found = await all_results(registry, job.id, outcome)
                assert [result.tenant_id for result in found] == expected, outcome


def test_metrics_tell_of_each_tenant():
    """What a job did to a tenant is counted by kind and outcome."""
    observed = RegistryMetrics(lambda: None)  # type: ignore[arg-type,return-value]  # not scraped here
    observed.observe(FleetTenantFinished("acme", "migrate", "ok", 0.25))
    [family] = [family for family in observed.describe() if family.name == "tenantry_fleet_duration_seconds"]
    sums = [sample.value for sample in family.samples if sample.name.endswith("_sum")]
    assert sums == [0.25]
