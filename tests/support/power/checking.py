"""Opens a data directory with tenantry, and looks whether it is one of the worlds that may be."""

import itertools
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec

from power.worlds import Company, World
from tenantry import RegistryConfig, TenantRegistry, TenantState
from tenantry.storage.sqlite.database_files.layout import tenant_paths
from tenants import make_message

CHANNEL = "general"


@dataclass(frozen=True)
class Expectation:
    """What a data directory has to hold.

    Attributes:
        worlds: One of these has to be true.
        must: Messages that are there beside those of the world, as tenant and text.
        may: Messages that may be there; all of `must` are among them.
    """

    worlds: Sequence[World]
    must: frozenset[tuple[str, str]] = field(default_factory=frozenset)
    may: frozenset[tuple[str, str]] = field(default_factory=frozenset)

    @classmethod
    def at(cls, marks: Sequence[Any], later: Sequence[Any]) -> Self:
        """Return what has to be after some marks of a trace, and before the later ones."""
        worlds: list[Any] = [World().as_json()]
        is_under_way = False
        for mark in marks:
            worlds = mark.get("worlds", worlds)
            is_under_way = "begin" in mark or (is_under_way and "worlds" not in mark)
        if is_under_way:
            worlds = [*worlds, *next((mark["worlds"] for mark in later if "worlds" in mark), ())]
        must = frozenset(tuple(mark["must"]) for mark in marks if "must" in mark)
        may = frozenset(tuple(mark["may"]) for mark in marks if "may" in mark)
        return cls([World.from_json(world) for world in worlds], must, may)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        worlds = [world.as_json() for world in self.worlds]
        return {"worlds": worlds, "must": sorted(self.must), "may": sorted(self.may)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Return what `as_json` made JSON of."""
        worlds = [World.from_json(world) for world in values["worlds"]]
        return cls(worlds, *(frozenset(map(tuple, values[name])) for name in ("must", "may")))


async def problems(root: Path, data: str, expected: Expectation) -> list[str]:
    """Return what is wrong with the data directory; nothing, if it is one of the expected worlds and can be used."""
    data_dir = root / data
    found = await _look(data_dir, expected)
    differences = [list(_differences(found, world, expected)) for world in expected.worlds]
    if all(differences):
        return min(differences, key=len)
    true = [world for world, different in zip(expected.worlds, differences, strict=True) if not different]
    return [*await _use(data_dir, true), *_look_at_files(data_dir)]


@dataclass
class _Found:
    """What tenantry says and what its files hold."""

    tenants: dict[str, Any] = field(default_factory=dict)
    messages: dict[str, list[str]] = field(default_factory=dict)
    snapshots: dict[str, set[str]] = field(default_factory=dict)
    bundles: set[str] = field(default_factory=set)
    good_keys: set[str] = field(default_factory=set)


async def _look(data_dir: Path, expected: Expectation) -> _Found:
    found = _Found()
    async with TenantRegistry(RegistryConfig(data_dir=data_dir, open_tenants_max=4)) as registry:
        for token in {token for world in expected.worlds for token in world.keys}:
            if await registry.keys.authenticate(token) is not None:
                found.good_keys.add(token)
        for tenant in await registry.list():
            if tenant.state is TenantState.ACTIVE:
                found.messages[tenant.id] = await _history(registry, tenant.id)
        # Listed after they were used: whatever was found damaged is quarantined by now.
        listed = [tenant for tenant in await registry.list() if tenant.state is not TenantState.PURGED]
        found.tenants = {tenant.id: tenant for tenant in listed}
        for tenant_id in found.tenants:
            kept = await registry.snapshots.list(tenant_id)
            found.snapshots[tenant_id] = {snapshot.id for snapshot in kept}
    found.bundles = {path.name for path in data_dir.parent.iterdir()}
    for tenant_id, tenant in found.tenants.items():
        stored = _stored(tenant_paths(data_dir, tenant.location).database)
        read = found.messages.setdefault(tenant_id, stored)
        assert read == stored, f"{tenant_id}: tenantry reads {read}, the file has {stored}"
    return found


def _differences(found: _Found, world: World, expected: Expectation) -> Iterable[str]:
    for tenant_id in sorted(set(found.tenants) ^ set(world.tenants)):
        state = found.tenants[tenant_id].state if tenant_id in found.tenants else "missing"
        yield f"tenant {tenant_id} is {state}; expected are {sorted(world.tenants)}"
    for tenant_id in sorted(set(found.tenants) & set(world.tenants)):
        yield from _company_differences(found, tenant_id, world.tenants[tenant_id], expected)
    if lost := sorted(set(world.bundles) - found.bundles):
        yield f"bundles are missing: {lost}"
    for token, is_good in world.keys.items():
        if (token in found.good_keys) is not is_good:
            yield f"key {token[:20]} is good: {token in found.good_keys}, expected: {is_good}"


def _company_differences(
    found: _Found, tenant_id: str, company: Company, expected: Expectation
) -> Iterable[str]:
    tenant, stored = found.tenants[tenant_id], found.messages[tenant_id]
    is_now = (str(tenant.state), tenant.display_name, tenant.deletion_protected)
    should_be = (company.state, company.display_name, company.is_protected)
    if is_now != should_be:
        yield f"tenant {tenant_id} is {is_now} ({tenant.reason}), expected: {should_be}"
    if lost := sorted(set(company.snapshots) - found.snapshots[tenant_id]):
        yield f"tenant {tenant_id} has lost the snapshots {lost}"
    must = {text for of, text in expected.must if of == tenant_id} | set(company.messages)
    may = {text for of, text in expected.may if of == tenant_id} | must
    if lost := sorted(must - set(stored)):
        yield f"tenant {tenant_id} has lost {_short(lost)}"
    if foreign := sorted(set(stored) - may):
        yield f"tenant {tenant_id} has {_short(foreign)}, which it should not have"
    if len(stored) != len(set(stored)):
        yield f"tenant {tenant_id} has messages twice: {_short(stored)}"


async def _use(data_dir: Path, worlds: Sequence[World]) -> list[str]:
    """Use everything that there is, as its users would, and return what is wrong.

    The worlds can only differ in what an undone restore brings back.
    """
    world = worlds[0]
    async with TenantRegistry(RegistryConfig(data_dir=data_dir, open_tenants_max=4)) as registry:
        wrong = [await _use_snapshots(registry, *found) for found in world.tenants.items()]
        for number, (bundle, messages) in enumerate(world.bundles.items()):
            await registry.import_bundle(f"of-bundle-{number}", data_dir.parent / bundle)
            wrong.append(await _compared(registry, f"of-bundle-{number}", messages))
        for tenant_id, company in world.tenants.items():
            replaced = [other.tenants[tenant_id].replaced for other in worlds]
            if None not in replaced and company.state == "active":
                await registry.snapshots.undo_restore(tenant_id)
                wrong.append(await _compared(registry, tenant_id, *filter(None, replaced)))
        for tenant_id in world.free:
            await registry.create(tenant_id)
            wrong.append(await _compared(registry, tenant_id, []))
        for tenant in await registry.list(state=TenantState.ACTIVE):
            await registry.tenant(tenant.id).messages.save(make_message("used again"))
        verification = await registry.audit.verify()
    if not verification.is_intact:
        wrong.append([f"the audit is not intact: {verification}"])
    return list(itertools.chain(*wrong))


async def _use_snapshots(registry: TenantRegistry, tenant_id: str, company: Company) -> list[str]:
    """Make a tenant of each snapshot."""
    damaged = (await registry.snapshots.look(tenant_id)).damaged
    wrong = [f"snapshot {snapshot_id} of {tenant_id} is damaged" for snapshot_id in damaged]
    for number, (snapshot_id, messages) in enumerate(company.snapshots.items()):
        new_id = f"of-snapshot-{number}-{tenant_id}"
        await registry.clone(tenant_id, new_id, snapshot_id=snapshot_id)
        wrong += await _compared(registry, new_id, messages)
    return wrong


async def _compared(registry: TenantRegistry, tenant_id: str, *messages: list[str]) -> list[str]:
    found = await _history(registry, tenant_id)
    if found in messages:
        return []
    return [
        f"tenant {tenant_id} has {_short(found)}, expected: {' or '.join(map(str, map(_short, messages)))}"
    ]


async def _history(registry: TenantRegistry, tenant_id: str) -> list[str]:
    return sorted(
        message.content for message in await registry.tenant(tenant_id).messages.get_history(CHANNEL)
    )


def _stored(database: Path) -> list[str]:
    if not database.exists():
        return ["(no database)"]
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return sorted(content for (content,) in connection.execute("SELECT content FROM messages"))


def _look_at_files(data_dir: Path) -> Iterable[str]:
    """Look, after everything was closed, whether the files are sound and none is too many."""
    with closing(sqlite3.connect(data_dir / "catalog.db")) as catalog:
        sql = "SELECT location FROM tenants WHERE state != 'purged'"
        known = {tenant_paths(data_dir, location).directory for (location,) in catalog.execute(sql)}
    for directory in sorted(set((data_dir / "tenants").glob("*/*")) - known):
        yield f"{directory.relative_to(data_dir)} is no tenant's"
    for database in [data_dir / "catalog.db", *sorted(data_dir.glob("tenants/*/*/tenant.db"))]:
        with closing(sqlite3.connect(database)) as connection:
            found = connection.execute("PRAGMA integrity_check").fetchall()
        if found != [("ok",)]:
            yield f"{database.relative_to(data_dir)} is damaged: {found[:3]}"
        yield from _look_at_marks(database)
    for left in ("operations/*", "scratch/*", "tenants/*/*/restore.db"):
        for path in sorted(data_dir.glob(left)):
            yield f"{path.relative_to(data_dir)} was left behind"


def _look_at_marks(database: Path) -> Iterable[str]:
    """Look whether the marks of forwarded units say what is there: each unit with a mark, and a mark for the last unit.

    Earlier units may have no mark any more, because their sender had the results. A unit's results are its message; those of a transaction
    are a number.
    """
    with closing(sqlite3.connect(database)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'tenantry_forwarded'").fetchall():
            return
        rows = connection.execute("SELECT units FROM tenantry_forwarded").fetchall()
        stored = [text for (text,) in connection.execute("SELECT content FROM messages ORDER BY seq")]
    units = [unit for (packed,) in rows for unit in msgspec.msgpack.decode(packed)]
    # The only statement of each unit has fetched a row: its names and values, or the values of a transaction's mark.
    fetched = [msgspec.msgpack.decode(results)[0] for _, results in units]
    marked = {row[-1][0] if isinstance(row[-1], list) else row[0] for row in fetched if row is not None}
    forwarded = [text for text in stored if text.startswith(("forwarded", "inside"))]
    if missing := sorted(marked - {*stored} - {1}):
        yield f"marks have units that are not there: {missing}"
    if forwarded and not {forwarded[-1] if forwarded[-1].startswith("forwarded") else 1} & marked:
        yield f"the last unit, {forwarded[-1]}, has no mark among {marked}"


def _short(texts: list[str]) -> list[str]:
    return [text[:40] for text in texts]
