"""Every statement of the catalog on every server: the same calls have the same results as on SQLite."""

from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from catalogs import CatalogDatabase, PostgresCatalog, SQLiteCatalog
from postgres_servers import SERVERS, PostgresServers
from tenantry import RegistryConfig, TenantRegistry, TenantState
from tenantry.errors import DuplicateRecordError, KeyRefusedError, RecordNotFoundError, TenantExistsError
from tenantry.limits import TenantLimits
from tenantry.sql.statements import Fetch, Statement
from tenantry.tenancy.catalog.recorded_responses import PendingRequest, RecordedResponse
from tenantry.tenancy.fleet.job import JobState

pytestmark = pytest.mark.unmeasured


@pytest.fixture(params=["sqlite", *SERVERS])
def catalog_database(
    request: pytest.FixtureRequest, data_dir: Path, postgres_servers: PostgresServers
) -> Iterator[CatalogDatabase]:
    """The catalog on SQLite, and on each of the servers."""
    if request.param == "sqlite":
        with nullcontext():
            yield SQLiteCatalog(data_dir)
    else:
        with postgres_servers.server(request.param).database() as database:
            yield PostgresCatalog(database)


async def test_tenants(registry: TenantRegistry):
    """Lists by state, prefix and ids, pages, samples, counts and locations."""
    for tenant_id in ("b-1", "a-1", "a-2", "a10", "c", "zz"):
        await registry.create(tenant_id, display_name="ä ' \" \\ ?")
    await registry.update("c", limits=TenantLimits(calls_in_flight_max=3))
    with pytest.raises(TenantExistsError):
        await registry.create("c")
    await registry.suspend("c", reason="?")
    await registry.delete("zz")
    assert [one.id for one in await registry.list()] == ["a-1", "a-2", "a10", "b-1", "c", "zz"]
    assert [one.id for one in await registry.list(id_prefix="a-")] == ["a-1", "a-2"]
    assert [one.id for one in await registry.list(tenant_ids=["c", "a10", "none"])] == ["a10", "c"]
    assert [one.id for one in await registry.list(state=TenantState.SUSPENDED)] == ["c"]
    page = await registry.list(limit=2, id_prefix="a")
    assert [one.id for one in await registry.list(cursor=page.next_cursor, id_prefix="a")] == ["a10"]
    catalog = registry._catalog
    assert len(await catalog.sample(3)) == 3
    assert [one.id for one in await catalog.sample(100)] == ["a-1", "a-2", "a10", "b-1"]
    counts = {state: count for state, count in (await catalog.states()).items() if count}
    assert counts == {TenantState.ACTIVE: 4, TenantState.SUSPENDED: 1, TenantState.DELETED: 1}
    assert await catalog.locations("c") == {"c"}
    assert set(await catalog.find_many([one.id for one in await registry.list()])) == {
        one.id for one in await registry.list()
    }
    past = datetime.now(UTC) + timedelta(days=30)
    assert [one.id for one in await catalog.to_purge(past, 10)] == ["zz"]
    assert await catalog.under_way() == []
    record = await registry.get("c")
    assert (record.display_name, record.limits.calls_in_flight_max) == ("ä ' \" \\ ?", 3)
    await registry.check_catalog()


async def test_the_schedule_of_snapshots(registry: TenantRegistry):
    """Tenants without a due time come first; a due time is moved only if it is still the one that was read."""
    for tenant_id in ("a", "b"):
        await registry.create(tenant_id)
    catalog = registry._catalog
    due = datetime.now(UTC) - timedelta(seconds=5)
    record = await registry.get("a")
    assert await catalog.move_snapshot_due(record, due)
    assert not await catalog.move_snapshot_due(record, due + timedelta(seconds=1))
    assert [one.id for one in await catalog.by_snapshot_due(5)] == ["b", "a"]
    assert await catalog.move_snapshot_due(await registry.get("a"), due + timedelta(days=1))
    assert [one.id for one in await catalog.by_snapshot_due(5)] == ["b"]
    assert [one.id for one in await catalog.by_snapshot_due_after(datetime.now(UTC), 5)] == ["a"]


async def test_keys(registry: TenantRegistry):
    """Keys are listed in order, follow their tenants, and cannot make others after they were revoked."""
    for tenant_id in ("a", "b", "c"):
        await registry.create(tenant_id)
    keys = registry.keys
    assert not await keys.has_any()
    admin = await keys.create(name="admin", scopes=["admin"])  # type: ignore[list-item]
    some = await keys.create(name="some", tenants=["c", "a", "b", "later"], made_by=admin.key)
    await registry.rename("a", "z")
    await registry.delete("b")
    await registry.purge("b", force=True)
    assert [one.tenants for one in await keys.list()] == [None, ("c", "later", "z")]
    page = await keys.list(limit=1)
    assert [one.id for one in await keys.list(cursor=page.next_cursor)] == [some.key.id]
    assert (await keys.authenticate(some.token)).name == "some"  # type: ignore[union-attr]
    await keys.revoke(admin.key.id)
    await keys.revoke(admin.key.id)
    with pytest.raises(KeyRefusedError):
        await keys.create(made_by=admin.key)
    with pytest.raises(KeyRefusedError):
        await keys.revoke(some.key.id, revoked_by=admin.key)
    with pytest.raises(RecordNotFoundError):
        await keys.revoke("0" * 16)
    assert await keys.has_any()


async def test_recorded_responses(registry: TenantRegistry):
    """A pending request keeps its key, and the recorded response is replayed byte for byte."""
    responses = registry.recorded_responses
    pending = await responses.begin("key", "1", "hash")
    assert isinstance(pending, PendingRequest)
    assert await responses.begin("key", "1", "hash") == RecordedResponse("hash", None, {}, b"")
    await pending.record_interim({"location": "x"}, b"interim")
    await pending.renew()
    body = bytes(range(256))
    await pending.record(201, {"etag": '"1"'}, body)
    assert await responses.begin("key", "1", "other") == RecordedResponse("hash", 201, {"etag": '"1"'}, body)
    other = await responses.begin("key", "2", "hash")
    assert isinstance(other, PendingRequest)
    await other.forget()
    assert isinstance(await responses.begin("key", "2", "hash"), PendingRequest)


@pytest.mark.parametrize(
    ("options", "waves"),
    [
        ({}, [7]),
        ({"canary": 2}, [2, 5]),
        ({"canary": "50%"}, [4, 3]),
        ({"id_prefix": "t-", "canary": 1}, [1, 5]),
        ({"tenant_ids": ["t-1", "t-3", "u"]}, [3]),
        ({"below": {"company": 99}}, [7]),
        ({"below": {"company": 1, "none": 0}}, []),
    ],
)
async def test_fleet_jobs(registry: TenantRegistry, options: dict[str, Any], waves: list[int]):
    """Tenants are selected and spread over waves by the catalog; outcomes are counted, listed and deleted."""
    for tenant_id in (*(f"t-{number}" for number in range(6)), "u"):
        await registry.create(tenant_id)
    fleet = registry.fleet
    job = await fleet.start("check", **options)
    progress = await fleet.wait(job.id)
    assert (progress.state, progress.done) == (JobState.DONE, sum(waves))
    table = fleet._table
    assert [(wave.total, wave.ok) for wave in await table.results.waves(job.id)] == [
        (size, size) for size in waves
    ]
    results = await fleet.results(job.id, limit=2)
    if waves:
        rest = await fleet.results(job.id, cursor=results.next_cursor)
        assert len(results) + len(rest) == sum(waves)
        assert {one.outcome for one in (*results, *rest)} == {"ok"}
    assert [one.id for one in await fleet.list(state=JobState.DONE)] == [job.id]
    await table.delete_expired(datetime.now(UTC) + timedelta(seconds=5))
    assert list(await fleet.list()) == []


async def test_the_rest(registry: TenantRegistry, catalog_database: CatalogDatabase):
    """The list of packs, the clock's record, and an error of the database."""
    await registry.create("acme")
    assert [one.name for one in await registry.recorded_schemas.list()] == ["company"]
    catalog_database.query("INSERT INTO schemas (name, recorded_at) VALUES ('other', '2026-01-01T00:00:00Z')")
    assert (await registry.recorded_schemas.forget("other")).is_missing
    assert catalog_database.query("SELECT count(*) FROM clock") == [(1,)]
    one = "INSERT INTO service_secrets (name, value) VALUES (?, ?)"
    statement = Statement("tests.secret", one, ("a", b"\0\xff"))
    await registry._catalog.write(statement)
    with pytest.raises(DuplicateRecordError):
        await registry._catalog.write(statement)
    read = Statement("tests.secrets", "SELECT name, value FROM service_secrets", (), Fetch.ALL)
    assert await registry._catalog.read(read) == [("a", b"\0\xff")]


async def test_the_same_bytes_are_hashed(registry: TenantRegistry, config: RegistryConfig):
    """Whatever an operator writes, the chain verifies; what differs by dialect is how the same bytes are made."""
    await registry.create("acme")
    texts = ["\t\n\r\b\f\x01\x1f\x7f\x80", "\"\\/'", "ä€😀\u2028\ufeff", "<>&\u00ad", "?", "%s {} $1"]
    for text in texts:
        await registry.suspend(
            "acme", reason=text, by=f"person {text.strip().encode('unicode_escape')!r}"[:60]
        )
    found = await registry.audit.verify()
    assert (found.is_intact, found.rows) == (True, len(texts) + 1)
    assert [one.detail["reason"] for one in await registry.audit.list(limit=len(texts))] == texts[::-1]
    assert config.catalog_backend in {"sqlite", "postgres"}
