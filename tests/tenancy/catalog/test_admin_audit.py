"""The audit of what operators do: a row for every call, and a chain that tells of every row that was touched by hand."""

import asyncio
import sqlite3
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any
from unittest.mock import ANY

import psycopg
import pytest

from catalogs import AUDIT_TRIGGERS, CatalogDatabase
from others import other_process
from tenantry import RegistryConfig, TenantRegistry
from tenantry.clock import SystemClock
from tenantry.errors import QueryError, TenantryError
from tenantry.limits import TenantLimits
from tenantry.tenancy.catalog import audit
from tenantry.tenancy.catalog.audit import AuditVerification, append, append_if, principal_of
from tenantry.tenancy.catalog.catalog import StaleTenantError

ROWS = 2500
"""More than `verify` reads at once."""

Settings = dict[str, Any]

COLUMNS = "seq, at, actor, action, tenant_id, tenant_uid, outcome, detail, previous_hash, hash"


class Tampering:
    """Somebody with the database's own shell and no respect for triggers."""

    def __init__(self, database: CatalogDatabase) -> None:
        self.database = database

    def __call__(self, *statements: str) -> None:
        """Run statements on the catalog, its audit's triggers gone."""
        for trigger in AUDIT_TRIGGERS:
            self.database.drop_trigger(trigger, "admin_audit")
        for statement in statements:
            self.database.query(statement)


@pytest.fixture
def tamper(catalog_database: CatalogDatabase) -> Tampering:
    """Somebody who changes the audit by hand."""
    return Tampering(catalog_database)


async def make_rows(registry: TenantRegistry, count: int) -> None:
    """Fill the audit."""
    named = [(f"t{number}", f"uid-{number}") for number in range(count)]
    rows = [
        append(
            SystemClock(),
            "suspend",
            tenant_id=tenant_id,
            tenant_uid=uid,
            outcome="ok",
            detail={"reason": uid},
        )
        for tenant_id, uid in named
    ]
    await registry._catalog.write(*rows)


async def told(registry: TenantRegistry) -> list[tuple[Any, ...]]:
    """Return what the audit says, the oldest first: action, tenant and outcome."""
    return [(e.action, e.tenant_id, e.outcome) for e in reversed(await registry.audit.list())]


class TestRows:
    """What is written down."""

    async def test_every_call_has_its_row(self, registry: TenantRegistry):
        """Each call that took effect, and each that had none because it was done already, with whom it was done to."""
        tenant = await registry.create("acme", display_name="Acme")
        await registry.update("acme", display_name="Acme Ltd.", limits=TenantLimits(calls_in_flight_max=5))
        await registry.suspend("acme", reason="unpaid")
        await registry.suspend("acme", reason="unpaid")
        await registry.archive("acme")
        await registry.archive("acme")
        await registry.unarchive("acme")
        await registry.rename("acme", "umbrella")
        await registry.quarantine("umbrella", reason="odd")
        await registry.repair("umbrella")
        await registry.delete("umbrella", reason="ended")
        await registry.undelete("umbrella")
        await registry.resume("umbrella")
        await registry.delete("umbrella")
        await registry.purge("umbrella", force=True)
        entries = list(reversed(await registry.audit.list()))
        assert [(e.action, e.tenant_id) for e in entries] == [
            *[(action, "acme") for action in ("create", "update", "suspend", "suspend", "archive")],
            *[(action, "acme") for action in ("archive", "unarchive", "rename")],
            *[(action, "umbrella") for action in ("quarantine", "repair", "delete", "undelete")],
            *[(action, "umbrella") for action in ("resume", "delete", "purge")],
        ]
        assert [e.seq for e in entries] == list(range(1, len(entries) + 1))
        assert {e.outcome for e in entries} == {"ok"}
        assert {e.tenant_uid for e in entries} == {tenant.uid}
        assert [e.at for e in entries] == sorted(e.at for e in entries)
        assert (datetime.now(UTC) - entries[0].at).total_seconds() < 60
        details = {e.action: e.detail for e in reversed(entries)}
        assert details["update"] == {"display_name": "Acme Ltd.", "limits": {"calls_in_flight_max": 5}}
        assert details["suspend"] == {"reason": "unpaid"}
        assert details["rename"] == {"new_id": "umbrella"}
        assert details["purge"] == {"is_forced": True}
        assert (await registry.audit.verify()).is_intact

    async def test_a_change_that_fails_has_none(self, registry: TenantRegistry):
        """A row is appended if its condition holds, in the unit that it is part of; the chain has no gap after either outcome."""
        stale = await registry.create("acme")
        await registry.update("acme", display_name="Acme Ltd.")
        catalog = registry._catalog
        record = append(
            SystemClock(), "stale", tenant_id="acme", tenant_uid=stale.uid, outcome="ok", detail={}
        )
        with pytest.raises(StaleTenantError):
            await catalog.change(stale, reason="too late", audit=record)
        await catalog.change(await catalog.get(stale.id), reason="in time", audit=record)
        await catalog.write(append_if("1 = 0", (), record), append_if("? < ?", (1, 2), record))
        assert [entry.action for entry in await registry.audit.list()] == [
            "stale",
            "stale",
            "update",
            "create",
        ]
        assert await registry.audit.verify() == AuditVerification(4, ANY)

    async def test_refusals_have_theirs(self, registry: TenantRegistry):
        """A call that was refused is there with its outcome and the reason; one of an unknown tenant has no key."""
        await registry.create("acme")
        await registry.update("acme", deletion_protected=True)
        refused = [
            lambda: registry.create("acme"),
            lambda: registry.suspend("nobody"),
            lambda: registry.delete("acme"),
            lambda: registry.undelete("nobody"),
            lambda: registry.purge("acme", force=True),
            lambda: registry.update("acme", display_name="x", if_revision=1),
            lambda: registry.rename("nobody", "somebody"),
        ]
        for call in refused:
            with pytest.raises(TenantryError):
                await call()
        assert (await told(registry))[2:] == [
            ("create", "acme", "exists"),
            ("suspend", "nobody", "not_found"),
            ("delete", "acme", "deletion_protected"),
            ("undelete", "nobody", "not_found"),
            ("purge", "acme", "state"),
            ("update", "acme", "revision"),
            ("rename", "nobody", "not_found"),
        ]
        [unknown] = [e for e in await registry.audit.list(tenant_id="nobody") if e.action == "suspend"]
        assert unknown.tenant_uid is None
        assert unknown.detail == {
            "error": "tenant 'nobody' does not exist: check the id in the list of tenants"
        }
        assert (await registry.audit.verify()).is_intact

    async def test_who_made_the_call(self, registry: TenantRegistry):
        """A row of the audit has the name that the call gave as `by`, or else the user that the process runs as."""
        await registry.create("acme", by="alice")
        await registry.suspend("acme", by="bob")
        await asyncio.gather(registry.resume("acme", by="alice"), registry.create("globex", by="carol"))
        await registry.delete("acme")
        assert principal_of(None).startswith("os:")
        who = {(e.action, e.tenant_id): e.principal for e in await registry.audit.list()}
        assert who == {
            ("create", "acme"): "alice",
            ("suspend", "acme"): "bob",
            ("resume", "acme"): "alice",
            ("create", "globex"): "carol",
            ("delete", "acme"): principal_of(None),
        }

    @pytest.mark.parametrize("name", ["", " ", "x" * 201, "a\0b", "\ud800"])
    async def test_a_name_that_cannot_be_used(self, registry: TenantRegistry, name: str):
        """An empty name, or one that cannot be stored, is refused before anything is changed."""
        calls = [
            registry.create("acme", by=name),
            registry.keys.create(by=name),
            registry.fleet.start("check", by=name),
            registry.snapshots.claim_storage(by=name),
        ]
        for call in calls:
            with pytest.raises(QueryError, match="a principal's name must be"):
                await call
        assert (len(await registry.list()), len(await registry.audit.list())) == (0, 0)

    def test_a_process_without_a_user(self, monkeypatch: pytest.MonkeyPatch):
        """A container's user may have no name."""

        def fail() -> str:
            raise KeyError("getpwuid(): uid not found: 4711")

        monkeypatch.setattr(audit.getpass, "getuser", fail)
        assert audit._process_user.__wrapped__() == "os:unknown"

    async def test_a_call_that_another_process_began(self, config: RegistryConfig, other_settings: Settings):
        """What a dead process left is in the audit once, by who finished it, with who began it; taken back, it says so."""
        async with TenantRegistry(config) as registry:
            for tenant_id in ("acme", "globex"):
                await registry.create(tenant_id)
                await registry.suspend(tenant_id)
        with other_process(**other_settings) as one, other_process(**other_settings) as two:
            assert one.do("archive", "acme", stop_at="begun") == "stopped"
            assert two.do("rename", "globex", "initech", stop_at="begun") == "stopped"
            one.kill()
            two.kill()
        async with TenantRegistry(config) as registry:
            entries = [e for e in await registry.audit.list() if "is_reconciled" in e.detail]
        assert {e.principal for e in entries} == {principal_of(None)}
        assert [(e.action, e.tenant_id, e.outcome) for e in reversed(entries)] == [
            ("archive", "acme", "ok"),
            ("rename", "globex", "taken_back"),
        ]
        begun = {"is_reconciled": True, "begun_by": principal_of(None)}
        assert [e.detail for e in entries] == [begun, begun]

    async def test_pages(self, registry: TenantRegistry):
        """The newest first, of all or of one tenant, page by page; rows that arrive meanwhile move no page."""
        for number in range(5):
            await registry.create(f"t{number}")
            await registry.suspend("t0") if number % 2 else await registry.resume("t0")
        whole = await registry.audit.list()
        assert [entry.seq for entry in whole] == list(range(10, 0, -1))
        found, cursor = [], None
        while True:
            page = await registry.audit.list(limit=3, cursor=cursor)
            found += page
            cursor = page.next_cursor
            if cursor is None:
                break
            await registry.resume("t0")
        assert found == list(whole)
        of_t0 = await registry.audit.list(tenant_id="t0", limit=2)
        assert {entry.tenant_id for entry in of_t0} == {"t0"}
        rest = await registry.audit.list(tenant_id="t0", cursor=of_t0.next_cursor)
        assert [entry.seq for entry in (*of_t0, *rest)][-6:] == [e.seq for e in whole if e.tenant_id == "t0"]
        for arguments in (
            {"limit": 0},
            {"cursor": "x"},
            {"cursor": (await registry.list(limit=1)).next_cursor},
        ):
            with pytest.raises(QueryError):
                await registry.audit.list(**arguments)


class TestChain:
    """What verifying finds."""

    @pytest.mark.parametrize(
        ("catalog_database", "statement"),
        [
            *[
                (name, statement)
                for name in ("sqlite", "postgres")
                for statement in (
                    "UPDATE admin_audit SET actor = 'mallory'",
                    "DELETE FROM admin_audit WHERE seq = 1",
                    "DELETE FROM admin_audit",
                )
            ],
            ("sqlite", f"INSERT OR REPLACE INTO admin_audit SELECT {COLUMNS} FROM admin_audit"),
            (
                "postgres",
                f"INSERT INTO admin_audit SELECT {COLUMNS} FROM admin_audit ON CONFLICT (seq) DO UPDATE SET actor = 'mallory'",
            ),
            ("postgres", "TRUNCATE admin_audit"),
        ],
        indirect=["catalog_database"],
    )
    async def test_rows_are_neither_altered_nor_removed(
        self, registry: TenantRegistry, catalog_database: CatalogDatabase, statement: str
    ):
        """The table itself refuses it, to whoever does not take its triggers away."""
        await registry.create("acme")
        with pytest.raises((sqlite3.IntegrityError, psycopg.errors.RaiseException), match="append-only"):
            catalog_database.query(statement)
        assert (await registry.audit.verify()).rows == 1

    @pytest.mark.parametrize("seq", [1, 3, 5])
    @pytest.mark.parametrize(
        "change",
        [
            "actor = 'mallory'",
            "at = '2026-01-01T00:00:00.000000+00:00'",
            "action = 'resume'",
            "tenant_id = 'other'",
            "tenant_uid = NULL",
            "tenant_uid = 'x'",
            "outcome = 'error'",
            "detail = '{}'",
            "hash = previous_hash",
        ],
    )
    async def test_an_altered_row(self, registry: TenantRegistry, tamper: Tampering, seq: int, change: str):
        """Whatever of it was altered: the row is named, and how far all is well."""
        await self.check_altered_row(registry, tamper, seq, change)

    @pytest.mark.parametrize("catalog_database", ["sqlite"], indirect=True)
    @pytest.mark.parametrize("seq", [1, 3, 5])
    @pytest.mark.parametrize("change", ["hash = CAST(x'ff' AS TEXT)", "actor = CAST(x'ff' AS TEXT)"])
    async def test_a_row_altered_to_what_is_no_text(
        self, registry: TenantRegistry, tamper: Tampering, seq: int, change: str
    ):
        """SQLite stores bytes that are not UTF-8 as text, which PostgreSQL refuses."""
        await self.check_altered_row(registry, tamper, seq, change)

    async def check_altered_row(
        self, registry: TenantRegistry, tamper: Tampering, seq: int, change: str
    ) -> None:
        """Alter a row, and check what verifying says."""
        await make_rows(registry, 5)
        stored = tamper.database.query("SELECT hash FROM admin_audit ORDER BY seq")
        hashes = ["", *(row[0] for row in stored)]
        tamper(f"UPDATE admin_audit SET {change} WHERE seq = {seq}")
        found = await registry.audit.verify()
        assert (found.is_intact, found.rows, found.hash) == (False, seq - 1, hashes[seq - 1])
        assert found.problem == f"row {seq} was altered"

    @pytest.mark.parametrize(
        ("seq", "problem"),
        [(1, "row 1 is missing"), (3, "row 3 is missing"), (5, "the rows after 4 are missing")],
    )
    async def test_a_removed_row(self, registry: TenantRegistry, tamper: Tampering, seq: int, problem: str):
        """The first, one in the middle, the last."""
        await make_rows(registry, 5)
        tamper(f"DELETE FROM admin_audit WHERE seq = {seq}")
        found = await registry.audit.verify()
        assert (found.rows, found.problem) == (seq - 1, problem)

    async def test_all_rows_removed(self, registry: TenantRegistry, tamper: Tampering):
        """An audit that is empty, and was not."""
        await make_rows(registry, 5)
        tamper("DELETE FROM admin_audit")
        assert (await registry.audit.verify()).problem == "the rows after 0 are missing"

    async def test_rows_that_move_up(self, registry: TenantRegistry, tamper: Tampering):
        """A row is removed and those after it take its number."""
        await make_rows(registry, 5)
        tamper(
            "DELETE FROM admin_audit WHERE seq = 2",
            "UPDATE admin_audit SET seq = -seq WHERE seq > 2",
            "UPDATE admin_audit SET seq = -seq - 1 WHERE seq < 0",
        )
        assert (await registry.audit.verify()).problem == "row 2 was altered"

    @pytest.mark.parametrize("seq", [1, 4])
    async def test_an_inserted_row(self, registry: TenantRegistry, tamper: Tampering, seq: int):
        """A row that never was, among the others: with the hash of another, or with one that fits what it says."""
        await make_rows(registry, 5)
        tamper(
            f"UPDATE admin_audit SET seq = -seq WHERE seq >= {seq}",
            "UPDATE admin_audit SET seq = -seq + 1 WHERE seq < 0",
            f"INSERT INTO admin_audit SELECT {seq}, at, 'mallory', action, tenant_id, tenant_uid, outcome, detail, "
            f"previous_hash, hash FROM admin_audit WHERE seq = {seq + 1}",
        )
        assert (await registry.audit.verify()).problem == f"row {seq} was altered"

    async def test_a_row_that_was_appended_by_hand(self, registry: TenantRegistry, tamper: Tampering):
        """A row at the end whose own hash is right does not belong there: the head knows no such row."""
        await make_rows(registry, 3)
        tamper()
        await make_rows(registry, 1)
        assert (await registry.audit.verify()).problem == "the head was altered"

    async def test_swapped_rows(self, registry: TenantRegistry, tamper: Tampering):
        """Two rows that change places."""
        await make_rows(registry, 5)
        tamper(
            *[
                f"UPDATE admin_audit SET seq = {new} WHERE seq = {old}"
                for old, new in ((2, 9), (4, 2), (9, 4))
            ]
        )
        assert (await registry.audit.verify()).problem == "row 2 was altered"

    async def test_a_row_that_was_replaced_with_its_hash(self, registry: TenantRegistry, tamper: Tampering):
        """A row that is right in itself, but is not the one that the next was written after."""
        await make_rows(registry, 3)
        query = tamper.database.query
        [(_, *kept)] = query(f"SELECT {COLUMNS} FROM admin_audit WHERE seq = 3")
        # The same store appends another second row, as a forger would who has the code.
        tamper("DELETE FROM admin_audit WHERE seq >= 2", "UPDATE admin_audit_head SET seq = 1")
        query("UPDATE admin_audit_head SET hash = (SELECT hash FROM admin_audit WHERE seq = 1)")
        await make_rows(registry, 1)
        query(f"INSERT INTO admin_audit VALUES (3{', ?' * len(kept)})", *kept)
        assert (
            await registry.audit.verify()
        ).problem == "row 3 does not follow row 2: one of them was replaced"

    @pytest.mark.parametrize(
        "statement",
        [
            "DELETE FROM admin_audit_head",
            "UPDATE admin_audit_head SET hash = 'x'",
            "UPDATE admin_audit_head SET seq = 1",
        ],
    )
    async def test_an_altered_head(self, registry: TenantRegistry, tamper: Tampering, statement: str):
        """The head is part of the chain."""
        await make_rows(registry, 2)
        tamper(statement)
        found = await registry.audit.verify()
        assert (found.rows, found.problem) == (2, "the head was altered")

    async def test_a_chain_that_was_cut_is_told_from_a_kept_hash(
        self, registry: TenantRegistry, tamper: Tampering
    ):
        """Whoever rewrites the head too is found by the hash that was kept elsewhere, and only by that."""
        await make_rows(registry, 3)
        kept = await registry.audit.verify()
        tamper(
            "DELETE FROM admin_audit WHERE seq = 3",
            "UPDATE admin_audit_head SET (seq, hash) = (SELECT seq, hash FROM admin_audit WHERE seq = 2)",
        )
        forged = await registry.audit.verify()
        assert forged.is_intact
        assert (forged.rows, forged.hash) != (kept.rows, kept.hash)

    async def test_an_audit_of_many_pages(self, registry: TenantRegistry, tamper: Tampering):
        """All rows are verified, however many there are, and a row far behind is found."""
        assert (await registry.audit.verify()).is_intact
        await make_rows(registry, ROWS)
        assert (await registry.audit.verify()).rows == ROWS
        tamper(f"UPDATE admin_audit SET actor = 'mallory' WHERE seq = {ROWS - 1}")
        assert (await registry.audit.verify()).problem == f"row {ROWS - 1} was altered"

    async def test_two_processes_append(self, registry: TenantRegistry, other_settings: Settings):
        """While two processes make calls at the same time the chain never breaks, and every call has its row."""
        calls = 25
        with other_process(**other_settings) as other:
            for number in range(calls):
                other.begin("create", f"theirs-{number}")
                await registry.create(f"ours-{number}")
                assert (await registry.audit.verify()).is_intact
            assert [other.answer() for _ in range(calls)] == ["ok"] * calls
        found = await registry.audit.verify()
        assert (found.is_intact, found.rows) == (True, 2 * calls)
        pids = {entry.tenant_id for entry in await registry.audit.list()}
        assert len(pids) == 2 * calls

    async def test_four_processes_append(self, registry: TenantRegistry, other_settings: Settings):
        """Rows of four processes at the same time have one order: each follows the row before it, and none is lost."""
        calls, names = 20, ("a", "b", "c", "d")
        with ExitStack() as stack:
            others = [stack.enter_context(other_process(**other_settings)) for _ in names]
            for name, other in zip(names, others, strict=True):
                other.do("create", name)
            for number in range(calls):
                for name, other in zip(names, others, strict=True):
                    other.begin("suspend" if number % 2 else "resume", name)
            answers = await asyncio.to_thread(
                lambda: [other.answer() for _ in range(calls) for other in others]
            )
        assert answers == ["ok"] * calls * len(names)
        found = await registry.audit.verify()
        assert (found.is_intact, found.rows) == (True, (calls + 1) * len(names))
        entries = await registry.audit.list(limit=1000)
        told = {name: [e.action for e in reversed(entries) if e.tenant_id == name] for name in names}
        assert told == {key: ["create", *(["resume", "suspend"] * (calls // 2))] for key in names}

    async def test_it_survives_a_restart(self, config: RegistryConfig, catalog_database: CatalogDatabase):
        """The chain goes on where the last registry ended it."""
        hashes = []
        for number in range(3):
            async with TenantRegistry(config) as registry:
                await registry.create(f"t{number}")
                hashes.append((await registry.audit.verify()).hash)
        assert len(set(hashes)) == 3
        stored = catalog_database.query("SELECT previous_hash, hash FROM admin_audit ORDER BY seq")
        assert stored == list(zip(["", *hashes], hashes, strict=False))
