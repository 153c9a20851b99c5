"""The packs of a registry: their repositories as attributes, with and without the built-in pack."""

from pathlib import Path
from typing import Any

import pytest

from registries import INVOICES_SQL, config
from tenantry import Repository, Schema, TenantRegistry
from tenantry.company import COMPANY
from tenantry.errors import MigrationError
from tenants import make_message

TRIGGER = "CREATE TRIGGER t AFTER INSERT ON {} BEGIN SELECT 1; END"


@pytest.fixture
def invoices(pack: Any) -> Schema:
    """A pack with a repository of invoices."""
    package = pack(INVOICES_SQL).package
    return Schema("invoices", package, {"invoices": __import__(package).InvoiceRepository})


class TestAttributes:
    """Repositories as attributes of a handle, a transaction and an idempotent write."""

    async def test_a_packs_repositories(self, data_dir: Path, invoices: Schema):
        """The handle and the transaction have the pack's repository, made once, beside those of the built-in pack."""
        async with TenantRegistry(config(data_dir), schemas=[COMPANY, invoices]) as registry:
            await registry.create("acme")
            acme = registry.tenant("acme")
            await acme.invoices.add("i-1", 40)
            async with acme.transaction() as tx:
                await tx.invoices.add("i-2", 1)
                await tx.messages.save(make_message("with an invoice"))
            for _ in range(2):
                await acme.idempotent("i-3").invoices.add("i-3", 1)
            assert await acme.invoices.total() == 42
            assert acme.invoices is acme.invoices
            assert isinstance(acme.invoices, invoices.repositories["invoices"])
            assert {"invoices", "messages", "repository", "id"} <= set(dir(acme))

    async def test_without_the_built_in_pack(self, data_dir: Path, invoices: Schema):
        """The tenant has the tables of the given pack and no others, and the handle has no other repositories."""
        async with TenantRegistry(config(data_dir), schemas=[invoices]) as registry:
            await registry.create("acme")
            acme = registry.tenant("acme")
            await acme.invoices.add("i-1", 42)
            assert (await registry.get("acme")).schema_versions == {"invoices": 1}
            assert not hasattr(acme, "tasks")
            assert "tasks" not in dir(acme)
            with pytest.raises(
                AttributeError,
                match=r"no 'tasks': .*packs: invoices \(invoices\)\); pass the repository's pack",
            ):
                _ = acme.tasks

    async def test_without_any_pack(self, data_dir: Path):
        """A tenant without tables can be created, cloned, exported and imported."""
        async with TenantRegistry(config(data_dir), schemas=()) as registry:
            await registry.create("acme")
            await registry.clone("acme", "copy")
            await registry.export("acme", data_dir / "acme.tar.gz")
            await registry.import_bundle("other", data_dir / "acme.tar.gz")
            assert {tenant.id for tenant in await registry.list()} == {"acme", "copy", "other"}
            with pytest.raises(AttributeError, match=r"packs: none"):
                _ = registry.tenant("acme").tasks


class TestRefusedPacks:
    """Packs that are refused before anything is opened, with the names of the packs."""

    @pytest.mark.parametrize("name", ["a-b", "2nd", "class", "_hidden", ""])
    def test_a_name_that_is_no_attribute(self, name: str):
        """A repository's name must be usable as an attribute."""
        with pytest.raises(MigrationError, match=f"schema 'crm': '{name}' cannot name a repository"):
            Schema("crm", "crm", {name: Repository})

    @pytest.mark.parametrize("value", [dict, "NoteRepository"])
    def test_a_type_that_is_no_repository(self, value: Any):
        """A mistake in a pack is found when the pack is made, not at the first call."""
        with pytest.raises(
            MigrationError, match=r"repository 'notes' must be a subclass of tenantry\.Repository"
        ):
            Schema("crm", "crm", {"notes": value})

    @pytest.mark.parametrize("name", ["id", "transaction", "repository", "idempotent", "statistics"])
    def test_a_name_that_the_handle_uses(self, data_dir: Path, name: str):
        """A repository cannot hide a method of the handle."""
        with pytest.raises(
            MigrationError, match=f"schema 'crm': repository '{name}' has the same name as an attribute"
        ):
            TenantRegistry(config(data_dir), schemas=[Schema("crm", "crm", {name: Repository})])

    def test_two_repositories_of_one_name(self, data_dir: Path):
        """Both packs are named."""
        mine = Schema("crm", "crm", {"messages": Repository})
        with pytest.raises(
            MigrationError, match="schemas 'company' and 'crm' both have a repository 'messages'"
        ):
            TenantRegistry(config(data_dir), schemas=[COMPANY, mine])

    @pytest.mark.parametrize(
        ("one", "other", "shown"),
        [
            ("CREATE TABLE notes (n)", "CREATE TABLE Notes (m)", "table 'Notes'"),
            ("CREATE TABLE notes (n)", "CREATE TABLE IF NOT EXISTS notes (n)", "table 'notes'"),
            ("CREATE TABLE notes (n)", "CREATE VIEW notes AS SELECT 1", "view 'notes'"),
            (
                "CREATE TABLE a (n); CREATE INDEX n ON a (n)",
                "CREATE TABLE b (n); CREATE INDEX n ON b (n)",
                "index 'n'",
            ),
            (
                f"CREATE TABLE a (n); {TRIGGER.format('a')}",
                f"CREATE TABLE b (n); {TRIGGER.format('b')}",
                "trigger 't'",
            ),
            ("CREATE TABLE notes (n)", "CREATE TABLE x (n); ALTER TABLE x RENAME TO notes", "table 'notes'"),
        ],
        ids=["table", "if-not-exists", "view", "index", "trigger", "renamed"],
    )
    async def test_two_objects_of_one_name(self, data_dir: Path, pack: Any, one: str, other: str, shown: str):
        """Packs that would share a table, an index, a view or a trigger are refused with both names when the registry opens."""
        schemas = [pack(f"{one};", name="crm"), pack(f"{other};", name="wiki")]
        message = f"the schemas 'crm' and 'wiki' both create the {shown} on SQLite, but .* rename it"
        with pytest.raises(MigrationError, match=message) as caught:
            await TenantRegistry(config(data_dir), schemas=schemas).open()
        assert caught.value.schema == "wiki"
        assert not (data_dir / "catalog.db").exists()

    async def test_objects_that_do_not_clash(self, data_dir: Path, pack: Any):
        """A trigger may have the name of a table, and tables that SQLite makes by itself belong to no pack."""
        counted = "CREATE TABLE {0} (n INTEGER PRIMARY KEY AUTOINCREMENT, m UNIQUE); ANALYZE;"
        one = pack(counted.format("t"), name="crm")
        other = pack(counted.format("b") + TRIGGER.format("b") + ";", name="wiki")
        async with TenantRegistry(config(data_dir), schemas=[one, other]) as registry:
            await registry.create("acme")
            assert (await registry.get("acme")).schema_versions == {"crm": 1, "wiki": 1}
