"""The registry on real files: tenants' lives, what each failure does to whom, and other processes on the same directory."""

# ruff: noqa: ASYNC240  # tests look at files in between; nobody waits for them

import asyncio
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registries import INVOICES_SQL, config, make_tenant
from tenantry import Schema, TenantRegistry, TenantState
from tenantry.company import COMPANY
from tenantry.errors import (
    InvalidTenantIdError,
    MigrationError,
    PoolExhaustedError,
    QueryError,
    RegistryClosedError,
    TenantBusyError,
    TenantDeletedError,
    TenantError,
    TenantExistsError,
    TenantNotFoundError,
    TenantStateError,
    TenantSuspendedError,
)
from tenantry.events import (
    OperationEnded,
)
from tenants import (
    Recorder,
    database_path,
    make_message,
    open_files,
    query,
    stored_contents,
    threads_since,
    until,
)


class TestLifecycle:
    """Create, get, list, suspend, resume, delete."""

    async def test_create_and_get(self, registry: TenantRegistry, data_dir: Path):
        """A created tenant is active, migrated, in the catalog, and its files are private."""
        created = await registry.create("acme", display_name="Acme & Söhne")
        assert (created.id, created.display_name, created.state) == (
            "acme",
            "Acme & Söhne",
            TenantState.ACTIVE,
        )
        assert created.schema_versions == {"company": 1}
        assert await registry.get("acme") == created
        path = database_path(data_dir, "acme")
        assert {p.stat().st_mode & 0o777 for p in (data_dir / "tenants").rglob("*") if p.is_dir()} == {0o700}
        assert {
            p.stat().st_mode & 0o777 for p in (path, path.with_name("lock"), data_dir / "catalog.db")
        } == {0o600}

    async def test_the_name_is_the_id_when_left_out(self, registry: TenantRegistry):
        """A tenant always has something to show to people."""
        assert (await registry.create("acme")).display_name == "acme"

    @pytest.mark.parametrize("name", ["", "  ", "x" * 201])
    async def test_a_name_has_bounds(self, registry: TenantRegistry, name: str):
        """A blank or endless name is refused before anything is made."""
        with pytest.raises(QueryError, match="display_name must be 1 to 200 characters"):
            await registry.create("acme", display_name=name)
        assert await registry.list() == ()

    async def test_create_twice(self, registry: TenantRegistry):
        """The second time the id is taken, whoever of two callers was first."""
        results = await asyncio.gather(*(registry.create("acme") for _ in range(3)), return_exceptions=True)
        assert sorted(type(result).__name__ for result in results) == [
            "TenantExistsError",
            "TenantExistsError",
            "TenantRecord",
        ]
        with pytest.raises(TenantExistsError, match=r"'acme' exists already \(active\)") as caught:
            await registry.create("acme")
        assert caught.value.tenant_id == "acme"

    async def test_a_deleted_tenant_keeps_its_id(self, registry: TenantRegistry):
        """In its grace period the id is taken, and the error says until when."""
        await registry.create("acme")
        deleted = await registry.delete("acme", reason="contract ended")
        with pytest.raises(TenantExistsError, match=f"deleted, kept until {deleted.purge_after:%Y-%m-%d}"):
            await registry.create("acme")

    async def test_list_pages(self, registry: TenantRegistry):
        """Pages come in the order of ids, each tenant once, the last without a cursor."""
        ids = [f"t{n}" for n in range(7)]
        for tenant_id in reversed(ids):
            await registry.create(tenant_id)
        await registry.suspend("t3")
        seen: list[str] = []
        cursor = None
        while True:
            page = await registry.list(limit=3, cursor=cursor)
            seen += [tenant.id for tenant in page]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert seen == ids
        assert [tenant.id for tenant in await registry.list(state=TenantState.SUSPENDED)] == ["t3"]
        first = await registry.list(state=TenantState.ACTIVE, limit=4)
        rest = await registry.list(state=TenantState.ACTIVE, limit=4, cursor=first.next_cursor)
        assert [tenant.id for tenant in (*first, *rest)] == [i for i in ids if i != "t3"]

    async def test_the_last_reason_counts(self, registry: TenantRegistry):
        """Who suspends what is suspended says why, or leaves it as it was said."""
        await registry.create("acme")
        assert (await registry.suspend("acme")).reason is None
        assert (await registry.suspend("acme", reason="unpaid")).reason == "unpaid"
        assert (await registry.suspend("acme")).reason == "unpaid"
        assert (await registry.resume("acme")).reason is None

    async def test_list_by_how_ids_begin(self, registry: TenantRegistry):
        """Only those, in pages like all; an id begins with itself."""
        for tenant_id in ("a", "acme", "acme-2", "acme-3", "acmez", "acn", "b"):
            await registry.create(tenant_id)
        await registry.suspend("acme-3")
        first = await registry.list(id_prefix="acme", limit=2)
        rest = await registry.list(id_prefix="acme", limit=2, cursor=first.next_cursor)
        assert [tenant.id for tenant in (*first, *rest)] == ["acme", "acme-2", "acme-3", "acmez"]
        assert rest.next_cursor is None
        suspended = await registry.list(id_prefix="acme-", state=TenantState.SUSPENDED)
        assert [tenant.id for tenant in suspended] == ["acme-3"]
        assert list(await registry.list(id_prefix="acmf")) == []

    @pytest.mark.parametrize(
        "arguments",
        [
            {"limit": 0},
            {"limit": 10_001},
            {"cursor": "x"},
            {"cursor": "WyJhIiwiYiJd"},
            {"id_prefix": ""},
            {"id_prefix": "A"},
            {"id_prefix": "a%"},
            {"id_prefix": "\ud800"},
            {"id_prefix": "a" * 49},
        ],
    )
    async def test_list_refuses(self, registry: TenantRegistry, arguments: dict[str, Any]):
        """A page that cannot be and a cursor that is none are refused."""
        with pytest.raises(QueryError):
            await registry.list(**arguments)

    async def test_suspend_and_resume(self, registry: TenantRegistry, data_dir: Path):
        """A suspended tenant refuses calls with its own error, is closed, and keeps its data; others do not notice."""
        for tenant_id in ("acme", "globex"):
            await registry.create(tenant_id)
            await registry.tenant(tenant_id).messages.save(make_message(tenant_id))
        suspended = await registry.suspend("acme", reason="unpaid")
        assert (suspended.state, suspended.reason) == (TenantState.SUSPENDED, "unpaid")
        assert registry.tenant("acme").statistics() is None
        assert not any("/acme/" in path for path in open_files(data_dir))
        for _ in range(2):
            with pytest.raises(
                TenantSuspendedError, match=r"'acme' is suspended \(unpaid\): resume it first"
            ) as caught:
                await registry.tenant("acme").messages.get_history("general")
            assert (caught.value.tenant_id, caught.value.reason) == ("acme", "unpaid")
        assert len(await registry.tenant("globex").messages.get_history("general")) == 1
        resumed = await registry.resume("acme")
        assert (resumed.state, resumed.reason) == (TenantState.ACTIVE, None)
        assert [m.content for m in await registry.tenant("acme").messages.get_history("general")] == ["acme"]

    async def test_every_call_can_be_repeated(self, registry: TenantRegistry):
        """Asking for the same a second time is no mistake and changes nothing."""
        await registry.create("acme")
        for call in (registry.resume, registry.suspend, registry.resume, registry.suspend, registry.delete):
            once = await call("acme")
            assert await call("acme") == once
            assert await registry.get("acme") == once

    async def test_delete(self, registry: TenantRegistry, data_dir: Path):
        """A deleted tenant refuses calls, says until when it is kept, and its files stay."""
        await registry.create("acme")
        await registry.tenant("acme").messages.save(make_message("kept"))
        before = datetime.now(UTC)
        deleted = await registry.delete("acme", reason="contract ended")
        assert (deleted.state, deleted.state_before) == (TenantState.DELETED, TenantState.ACTIVE)
        assert deleted.purge_after is not None
        assert deleted.purge_after > before
        with pytest.raises(TenantDeletedError, match="undelete it within its grace period"):
            await registry.tenant("acme").messages.save(make_message())
        for call in (registry.suspend, registry.resume):
            with pytest.raises(TenantStateError, match="'acme' is deleted"):
                await call("acme")
        assert stored_contents(data_dir, "acme") == ["kept"]

    async def test_unknown_tenants(self, registry: TenantRegistry, data_dir: Path):
        """Every call on an id that nobody has says so, and makes nothing."""
        for call in (registry.get, registry.suspend, registry.resume, registry.delete):
            with pytest.raises(TenantNotFoundError, match="'nobody' does not exist") as caught:
                await call("nobody")
            assert caught.value.tenant_id == "nobody"
        for _ in range(2):
            with pytest.raises(TenantNotFoundError):
                await registry.tenant("nobody").messages.save(make_message())
        assert list((data_dir / "tenants").iterdir()) == []

    async def test_an_unknown_tenant_evicts_nobody(self, data_dir: Path):
        """With every place taken, an id that nobody has and a suspended tenant are refused before anyone has to go."""
        async with TenantRegistry(config(data_dir, open_tenants_max=1)) as registry:
            await registry.create("sleepy")
            await registry.suspend("sleepy")
            await registry.create("acme")
            for tenant_id, error in (("nobody", TenantNotFoundError), ("sleepy", TenantSuspendedError)):
                with pytest.raises(error):
                    await registry.tenant(tenant_id).messages.save(make_message())
            assert registry.tenant("acme").statistics() is not None
            assert registry.statistics().pool.evictions == 0

    async def test_a_cancelled_create_is_finished(self, data_dir: Path):
        """Its caller may leave: the tenant is made all the same, never half."""
        hook = Recorder()
        async with TenantRegistry(config(data_dir), hooks=[hook]) as registry:
            task = asyncio.ensure_future(registry.create("acme"))
            await asyncio.sleep(0)
            task.cancel()
            await hook.wait_for(OperationEnded, action="create", outcome="ok")
            assert task.cancelled()
            assert (await registry.get("acme")).state is TenantState.ACTIVE

    async def test_a_cancelled_create_that_fails(self, data_dir: Path, pack: Any):
        """Nobody is left to hear of the error: it is in the log, and nowhere else."""
        hook = Recorder()
        async with TenantRegistry(
            config(data_dir), schemas=[COMPANY, pack("CREATE TABLE (")], hooks=[hook]
        ) as registry:
            task = asyncio.ensure_future(registry.create("acme"))
            await asyncio.sleep(0)
            task.cancel()
            await hook.wait_for(OperationEnded, action="create", outcome="migration")
            assert await registry.list() == ()

    async def test_a_failed_create_leaves_nothing(self, data_dir: Path, pack: Any):
        """When a migration fails the new tenant is gone, and the id is free for the next try."""
        async with TenantRegistry(
            config(data_dir), schemas=[COMPANY, pack("CREATE TABLE broken (")]
        ) as registry:
            with pytest.raises(MigrationError, match="0001_step failed and was rolled back"):
                await registry.create("acme")
            assert await registry.list() == ()
            assert registry.statistics().pool.open_tenants == 0
        assert [p for p in (data_dir / "tenants").rglob("*") if p.is_file()] == []
        await make_tenant(data_dir)

    async def test_a_create_without_a_place_leaves_nothing(self, data_dir: Path):
        """When every tenant is in use, the new one is refused like anyone, and nothing of it stays."""
        timing = {"pool_wait_timeout_seconds": 0.05}
        async with TenantRegistry(config(data_dir, open_tenants_max=1, **timing)) as registry:
            await registry.create("acme")
            async with registry.tenant("acme").transaction():
                with pytest.raises(PoolExhaustedError):
                    await registry.create("globex")
            assert [tenant.id for tenant in await registry.list()] == ["acme"]
            assert (await registry.create("globex")).state is TenantState.ACTIVE

    async def test_a_create_that_waits_is_left_to_who_began_it(self, data_dir: Path):
        """Another registry does not finish a create whose registry lives; given up, nothing is left of the tenant."""
        first = TenantRegistry(config(data_dir, open_tenants_max=1))
        async with first:
            await first.create("busy")
            async with first.tenant("busy").transaction():
                creating = asyncio.ensure_future(first.create("acme"))
                await until(lambda: first.statistics().pool.waiters == 1)
                async with TenantRegistry(config(data_dir)) as second:
                    with pytest.raises(TenantNotFoundError):
                        await second.tenant("acme").messages.save(make_message())
                    with pytest.raises(TenantBusyError) as caught:
                        await second.create("acme")
                    assert caught.value.action == "create"
                    closing = asyncio.ensure_future(first.aclose())
                    with pytest.raises(RegistryClosedError):
                        await creating
                    await second.create("acme")
                    await second.tenant("acme").messages.save(make_message("acknowledged"))
        await closing
        assert stored_contents(data_dir, "acme") == ["acknowledged"]

    async def test_an_id_that_became_another_tenants(self, data_dir: Path):
        """Who has a tenant open does not serve it under an id that somebody has given to another tenant since."""
        async with TenantRegistry(config(data_dir)) as here, TenantRegistry(config(data_dir)) as elsewhere:
            await here.create("acme")
            await here.tenant("acme").messages.save(make_message("of the first"))
            await elsewhere.rename("acme", "globex")
            await elsewhere.create("acme")
            await here._parts.periodic_tasks.refresh()
            await until(lambda: not here._parts.pool.has("acme"))
            await elsewhere._parts.pool.close_tenant("acme", "state")
            assert await here.tenant("acme").messages.get_history("general") == ()
            assert len(await here.tenant("globex").messages.get_history("general")) == 1

    async def test_counts_are_there_from_the_start(self, data_dir: Path):
        """A registry that has just been opened knows how many tenants are in each state."""
        async with TenantRegistry(config(data_dir)) as registry:
            await registry.create("acme")
            await registry.create("globex")
            await registry.suspend("globex")
        async with TenantRegistry(config(data_dir)) as registry:
            counts = registry.statistics().tenants
        assert (counts[TenantState.ACTIVE], counts[TenantState.SUSPENDED]) == (1, 1)

    async def test_counts_follow_every_call(self, registry: TenantRegistry):
        """Operators see how many tenants are in each state."""
        for tenant_id in ("a", "b", "c", "d"):
            await registry.create(tenant_id)
        await registry.suspend("b")
        await registry.delete("c")
        await registry._parts.periodic_tasks.refresh()
        counts = registry.statistics().tenants
        assert {state: n for state, n in counts.items() if n} == {
            TenantState.ACTIVE: 2,
            TenantState.SUSPENDED: 1,
            TenantState.DELETED: 1,
        }
        assert set(counts) == set(TenantState)

    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        calls=st.lists(
            st.tuples(st.sampled_from(["create", "suspend", "resume", "delete"]), st.sampled_from("abc")),
            max_size=12,
        )
    )
    def test_the_counts_are_those_of_the_table(
        self, tmp_path_factory: pytest.TempPathFactory, calls: list[Any]
    ):
        """Whatever is done to tenants, refused calls included, the kept counts equal a real count."""
        data_dir = tmp_path_factory.mktemp("counts")

        async def main() -> dict[TenantState, int]:
            async with TenantRegistry(config(data_dir, durability="normal")) as registry:
                for action, tenant_id in calls:
                    try:
                        await getattr(registry, action)(tenant_id)
                    except TenantError:
                        continue
                return await registry._catalog.states()

        counts = asyncio.run(main())
        rows = query(data_dir / "catalog.db", "SELECT state, count(*) FROM tenants GROUP BY state")
        assert {str(state): n for state, n in counts.items() if n} == dict(rows)


class TestOpenAndClose:
    """The registry's own life."""

    async def test_never_opened(self, data_dir: Path):
        """A registry does nothing before it is opened, says so, and touches nothing."""
        registry = TenantRegistry(config(data_dir))
        await self._check_refuses(registry)
        await registry.aclose()
        assert not data_dir.exists()
        async with registry:
            await registry.create("acme")

    async def test_closed(self, data_dir: Path):
        """After closing, every call, also on a handle that was kept, is refused and never hangs."""
        registry = TenantRegistry(config(data_dir))
        async with registry:
            await registry.create("acme")
            handle = registry.tenant("acme")
            await handle.messages.save(make_message())
            messages = handle.messages
        await self._check_refuses(registry)
        with pytest.raises(RegistryClosedError) as caught:
            await messages.save(make_message())
        assert caught.value.tenant_id == "acme"
        with pytest.raises(RegistryClosedError):
            async with handle.transaction():
                pytest.fail("a transaction of a closed registry")
        assert handle.statistics() is None
        await registry.aclose()
        with pytest.raises(RegistryClosedError, match="was closed and cannot be reopened: make a new one"):
            await registry.open()

    async def test_nothing_is_left_after_close(self, data_dir: Path):
        """After closing there is no thread, no lock and no open file."""
        threads = set(threading.enumerate())
        async with TenantRegistry(config(data_dir, readers_per_tenant=2)) as registry:
            for tenant_id in ("acme", "globex"):
                await registry.create(tenant_id)
                await registry.tenant(tenant_id).messages.save(make_message())
                await registry.tenant(tenant_id).messages.get_history("general")
            assert threads_since(threads)
        assert (threads_since(threads), open_files(data_dir)) == ([], [])
        assert {path.read_text().split()[0] for path in data_dir.rglob("lock")} == {"released"}
        assert list(data_dir.rglob("*-wal")) == []

    async def test_open_and_close_can_be_repeated(self, registry: TenantRegistry):
        """Opening what is open and closing what is closed does nothing: tenants stay open, and stay closed."""
        await registry.create("acme")
        await registry.tenant("acme").messages.save(make_message("kept"))
        before = registry.statistics().pool
        await registry.open()
        assert registry.statistics().pool == before
        await registry.tenant("acme").messages.save(make_message("kept, too"))
        for _ in range(2):
            await asyncio.gather(registry.aclose(), registry.aclose())
            assert open_files(registry.config.data_dir) == []
            with pytest.raises(RegistryClosedError):
                await registry.get("acme")
        assert stored_contents(registry.config.data_dir, "acme") == ["kept", "kept, too"]

    async def test_closing_finishes_calls_that_were_taken_in(self, data_dir: Path):
        """A write that was taken in before the close is answered, and is there."""
        registry = TenantRegistry(config(data_dir))
        async with registry:
            await registry.create("acme")
            saves = [
                asyncio.ensure_future(registry.tenant("acme").messages.save(make_message(f"m{n}")))
                for n in range(200)
            ]
            await asyncio.sleep(0)
        await asyncio.gather(*saves)
        assert stored_contents(data_dir, "acme") == [f"m{n}" for n in range(200)]

    async def test_what_is_open_survives_to_the_next_registry(self, data_dir: Path):
        """What one registry wrote, the next one reads."""
        await make_tenant(data_dir)
        async with TenantRegistry(config(data_dir)) as registry:
            assert [m.content for m in await registry.tenant("acme").messages.get_history("general")] == [
                "first"
            ]

    async def test_a_cancelled_open_leaves_nothing(self, data_dir: Path):
        """Wherever opening is cancelled, nothing stays open, and a new registry can be opened."""
        threads = set(threading.enumerate())
        for steps in range(40):
            registry = TenantRegistry(config(data_dir))
            task = asyncio.ensure_future(registry.open())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                assert open_files(data_dir) == []
            await registry.aclose()
        assert (threads_since(threads), open_files(data_dir)) == ([], [])

    async def _check_refuses(self, registry: TenantRegistry) -> None:
        calls = (registry.create, registry.get, registry.suspend, registry.resume, registry.delete)
        for call in calls:
            with pytest.raises(RegistryClosedError, match="the registry is not open"):
                await call("acme")
        with pytest.raises(RegistryClosedError):
            await registry.list()
        with pytest.raises(RegistryClosedError):
            await registry.tenant("acme").messages.get_history("general")
        with pytest.raises(InvalidTenantIdError):
            registry.tenant("..")


class TestSchemas:
    """Packs that users bring."""

    async def test_a_pack_works_like_the_built_in_one(self, data_dir: Path, pack: Any):
        """Its tables are made when a tenant is opened, and its repository is bound to the tenant, or to a transaction."""
        schema = pack(INVOICES_SQL)
        await make_tenant(data_dir)
        repository = __import__(schema.package).InvoiceRepository
        async with TenantRegistry(config(data_dir), schemas=[COMPANY, schema]) as registry:
            acme = registry.tenant("acme")
            await acme.repository(repository).add("i-1", 40)
            async with acme.transaction() as tx:
                await tx.repository(repository).add("i-2", 2)
                await tx.messages.save(make_message("with an invoice"))
            assert await acme.repository(repository).total() == 42
            assert (await registry.get("acme")).schema_versions == {"company": 1, "invoices": 1}

    def test_two_of_one_name(self, data_dir: Path, pack: Any):
        """Two packs of one name would mix up what was applied; refused before anything is opened."""
        with pytest.raises(MigrationError, match="two schemas are named 'invoices'") as caught:
            TenantRegistry(config(data_dir), schemas=[COMPANY, pack(INVOICES_SQL), pack(INVOICES_SQL)])
        assert caught.value.schema == "invoices"
        with pytest.raises(MigrationError, match="'company'"):
            TenantRegistry(config(data_dir), schemas=[COMPANY, pack(INVOICES_SQL, name="company")])

    @pytest.mark.parametrize("schemas", [COMPANY, "company"])
    def test_a_pack_in_place_of_a_list(self, data_dir: Path, schemas: Any):
        """A forgotten comma is refused with the form that schemas= has."""
        with pytest.raises(MigrationError, match=r"schemas= is a list of packs, .* pass schemas=\[…\]"):
            TenantRegistry(config(data_dir), schemas=schemas)

    def test_a_name_in_place_of_a_pack(self, data_dir: Path):
        """The name of a pack, as on the command line, is refused with the value."""
        with pytest.raises(MigrationError, match=r"schemas= has 'crm:CRM', which is not a tenantry\.Schema"):
            TenantRegistry(config(data_dir), schemas=["crm:CRM"])  # type: ignore[list-item]

    async def test_a_pack_that_is_not_there(self, data_dir: Path):
        """A pack without migrations stops the start, not the first tenant that is opened."""
        registry = TenantRegistry(config(data_dir), schemas=[COMPANY, Schema("ghost", "no_such_package")])
        with pytest.raises(MigrationError, match="of schema 'ghost' cannot be imported"):
            await registry.open()
        assert not data_dir.exists()
