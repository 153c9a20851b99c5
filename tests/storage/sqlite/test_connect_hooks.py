"""Connect hooks: the functions of a pack are on every connection that uses its tables, and a hook can change nothing else."""

import contextlib
import re
import sqlite3
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from stores import MakePack, make_store, read_rows, rows, run
from tenantry import RegistryConfig, Repository, Schema, TenantRegistry, TenantState
from tenantry.company import COMPANY
from tenantry.errors import ConnectHookError, ConstraintViolationError
from tenantry.storage import PersistenceConfig, SQLiteConfig, create_backend
from tenantry.storage.sqlite.connections.connect_hooks import hooks_of
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.storage.sqlite.maintenance import integrity
from tenants import damage_index, database_path

WORDS = """
CREATE TABLE words (
    id INTEGER PRIMARY KEY, word TEXT NOT NULL COLLATE from_the_end CHECK (word REGEXP '^[a-z]+$'),
    loud TEXT AS (shout(word)) STORED
);
CREATE UNIQUE INDEX words_word ON words (word);
CREATE INDEX words_loud ON words (shout(word));
"""


def add_words(connection: sqlite3.Connection) -> None:
    """Add what the tables of the words need."""
    connection.create_collation("from_the_end", lambda a, b: (a[::-1] > b[::-1]) - (a[::-1] < b[::-1]))
    connection.create_function("shout", 1, str.upper, deterministic=True)
    connection.create_function(
        "regexp", 2, lambda pattern, text: re.search(pattern, text) is not None, deterministic=True
    )


def attach(connection: sqlite3.Connection) -> None:
    """Attach a database, although there may be none."""
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 1)
    connection.execute("ATTACH ':memory:' AS other")


def swallow(connection: sqlite3.Connection) -> None:
    """Try to set a pragma, and hide that it was refused."""
    with contextlib.suppress(sqlite3.Error):
        connection.execute("PRAGMA synchronous = OFF")


def unhinge(connection: sqlite3.Connection) -> None:
    """Remove the authorizer, then set a pragma."""
    connection.set_authorizer(None)
    connection.execute("PRAGMA synchronous = OFF")


async def wait(_: sqlite3.Connection) -> None:
    """Add nothing, because nobody awaits the hook."""


def read_this_file(_: sqlite3.Connection) -> None:
    """Fail as a damaged database does."""
    with contextlib.closing(sqlite3.connect(__file__)) as other:
        other.execute("PRAGMA user_version")


def an_empty_database() -> bytes:
    """Return the content of a file."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE t (n)")
        return connection.serialize()


def setting(name: str, value: object) -> Callable[[sqlite3.Connection], object]:
    """Return a hook that sets an attribute."""
    return lambda connection: setattr(connection, name, value)


FORBIDDEN: dict[str, tuple[Callable[[sqlite3.Connection], object], str]] = {
    "a pragma": (lambda c: c.execute("PRAGMA synchronous = OFF"), r"failed.*\(ran PRAGMA synchronous\)"),
    "a hidden pragma": (swallow, "ran PRAGMA synchronous"),
    "a script": (lambda c: c.executescript("PRAGMA foreign_keys = OFF"), "ran PRAGMA foreign_keys"),
    "no authorizer": (unhinge, "set an authorizer"),
    "an authorizer": (lambda c: c.set_authorizer(lambda *_: sqlite3.SQLITE_OK), "set an authorizer"),
    "a transaction": (lambda c: c.execute("BEGIN"), "ran SQL that uses the database"),
    "a table": (lambda c: c.execute("CREATE TABLE t (n)"), "ran SQL that uses the database"),
    "a read": (lambda c: c.execute("SELECT * FROM sqlite_schema"), "ran SQL that uses the database"),
    "another database": (attach, "ran SQL that uses the database"),
    "another file": (lambda c: c.deserialize(an_empty_database()), "ran SQL that uses the database"),
    "a limit": (lambda c: c.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 1), "changed SQLITE_LIMIT_ATTACHED"),
    "rows": (setting("row_factory", sqlite3.Row), "changed row_factory"),
    "texts": (setting("text_factory", bytes), "changed text_factory"),
    "transactions of Python": (setting("isolation_level", "IMMEDIATE"), "changed isolation_level"),
    "the end of the program": (lambda _: sys.exit(1), "failed.*SystemExit: 1"),
    "an error": (lambda _: int("one"), "failed.*ValueError: invalid literal"),
    "an async function": (wait, "is an async function"),
    "a closed connection": (lambda c: c.close(), "failed.*ProgrammingError"),
    "damage": (read_this_file, "failed.*not a database"),
}  # fmt: skip


def with_hook(pack: Schema, hook: Callable[[sqlite3.Connection], object]) -> Schema:
    """Return the pack with a connect hook."""
    return replace(pack, on_connect=hook)


class TestEveryConnection:
    """The functions of a pack that its tables need."""

    async def test_the_life_of_a_tenant(self, make_pack: MakePack, data_dir: Path, tmp_path: Path):
        """Calls, checks, snapshots, restores, bundles, repairs and compaction find the functions of a pack's tables."""
        schemas = (COMPANY, with_hook(make_pack(WORDS), add_words))
        config = RegistryConfig(data_dir=data_dir)
        async with TenantRegistry(config, schemas=schemas) as registry:
            await registry.create("acme")
            words = registry.tenant("acme").repository(Repository)
            await words.write(run("INSERT INTO words (word) VALUES ('ab'), ('ba')"))
            with pytest.raises(ConstraintViolationError):
                await words.write(run("INSERT INTO words (word) VALUES ('A1')"))
            snapshot = await registry.snapshots.create("acme")
            await registry.snapshots.restore("acme", snapshot.id)
            await registry.snapshots.undo_restore("acme")
            await registry.snapshots.drill()
            await registry.export("acme", tmp_path / "acme.tar.gz")
            await registry.import_bundle("globex", tmp_path / "acme.tar.gz")
            await registry.clone("acme", "umbrella")
            job = await registry.fleet.start("check")
            assert (await registry.fleet.wait(job.id)).failed == 0
            await registry.archive("globex", reason="quiet")  # compacts it
            await registry.unarchive("globex")
        damage_index(database_path(data_dir, "acme"), "words_loud", b"AB")
        async with TenantRegistry(config, schemas=schemas) as registry:
            await registry.quarantine("acme", reason="an index is damaged")
            await registry.repair("acme")
            for tenant in ("acme", "globex", "umbrella"):
                words = registry.tenant(tenant).repository(Repository)
                for _ in range(2):  # from the immutable file, then beside the writer
                    found = await words.read(rows("SELECT word, loud FROM words ORDER BY word"))
                    assert found == [("ba", "BA"), ("ab", "AB")]
                    await words.write(run("UPDATE words SET word = word"))

    async def test_a_check_without_the_hook_fails(self, make_pack: MakePack, tmp_path: Path):
        """The check of a database calls the functions of its tables, so it would fail without them."""
        pack = with_hook(make_pack(WORDS), add_words)
        store = make_store(SQLiteOptions(path=tmp_path / "a.db", connect_hooks=hooks_of([pack])), [pack])
        await store.connect()
        await store.migrate()
        await store.write([(run("INSERT INTO words (word) VALUES ('ab')"),)])
        await store.disconnect()
        assert integrity.check(tmp_path / "a.db", [pack]).row_counts["words"] == 1
        with pytest.raises(Exception, match="no such"):
            integrity.check(tmp_path / "a.db")

    @pytest.mark.parametrize("path", ["a.db", ":memory:"])
    async def test_one_companys_database(self, tmp_path: Path, path: str):
        """`SQLiteConfig.on_connect` adds functions to the connections of a back end without a registry."""
        called: list[sqlite3.Connection] = []
        config = SQLiteConfig(
            path=path if path == ":memory:" else tmp_path / path, on_connect=(add_words, called.append)
        )
        backend = create_backend(PersistenceConfig(backend="sqlite", sqlite=config))
        await backend.connect()
        await backend.migrate()
        await backend.disconnect()
        assert called
        failing = config.model_copy(update={"on_connect": (add_words, FORBIDDEN["an error"][0])})
        backend = create_backend(PersistenceConfig(backend="sqlite", sqlite=failing))
        with pytest.raises(ConnectHookError, match=r"SQLiteConfig.on_connect failed") as caught:
            await backend.connect()
        assert caught.value.schema is None


class TestWhatHooksMayNotDo:
    """A hook is the application's own code, and an honest mistake in it must not cost durability or isolation."""

    @pytest.mark.parametrize("how", FORBIDDEN)
    async def test_is_refused(self, make_pack: MakePack, data_dir: Path, how: str):
        """Opening fails with the pack's name and the reason, the tenant is not quarantined, and works again without the hook."""
        hook, said = FORBIDDEN[how]
        pack, config = make_pack(WORDS), RegistryConfig(data_dir=data_dir)
        async with TenantRegistry(config, schemas=[with_hook(pack, add_words)]) as registry:
            await registry.create("acme")
        async with TenantRegistry(config, schemas=[with_hook(pack, hook)]) as registry:
            with pytest.raises(
                ConnectHookError, match=f"the connect hook of schema 'pack' .*{said}"
            ) as caught:
                await registry.tenant("acme").repository(Repository).read(rows("SELECT 1"))
            assert (caught.value.schema, caught.value.is_retryable) == ("pack", False)
            assert (await registry.get("acme")).state is TenantState.ACTIVE
        async with TenantRegistry(config, schemas=[with_hook(pack, add_words)]) as registry:
            words = registry.tenant("acme").repository(Repository)
            await words.write(run("INSERT INTO words (word) VALUES ('ab')"))

    @pytest.mark.parametrize(
        "options",
        [SQLiteOptions(path=None, is_read_by_writer=True), SQLiteOptions(path=Path("a.db"))],
        ids=["memory", "file"],
    )
    async def test_settings_hold(self, make_pack: MakePack, tmp_path: Path, options: SQLiteOptions):
        """After hooks that set handlers and allow extensions, the connection has tenantry's settings and own functions."""
        seen: list[sqlite3.Connection] = []

        def loosen(connection: sqlite3.Connection) -> None:
            if hasattr(connection, "enable_load_extension"):
                connection.enable_load_extension(True)
            connection.set_progress_handler(lambda: 1, 1)
            connection.create_function("sha256", 1, lambda _: "")
            seen.append(connection)

        pack = with_hook(
            make_pack("CREATE TABLE t (n REFERENCES t2); CREATE TABLE t2 (n PRIMARY KEY);"), loosen
        )
        path = None if options.path is None else tmp_path / options.path
        store = make_store(replace(options, path=path, connect_hooks=hooks_of([pack])), [pack])
        await store.connect()
        try:
            await store.migrate()
            (orphan,) = await store.write([(run("INSERT INTO t VALUES (1)"),)])
            assert isinstance(orphan, ConstraintViolationError)
            assert await read_rows(store, "SELECT length(sha256('x')) FROM pragma_foreign_keys") == [(64,)]
            settings = "SELECT synchronous FROM pragma_synchronous"
            (found,) = await store.write([(rows(settings),)])
            assert found == [[(2,)]]
            if hasattr(seen[0], "enable_load_extension"):
                with pytest.raises(sqlite3.OperationalError, match="not authorized"):
                    seen[0].load_extension("nothing")
        finally:
            await store.disconnect()


async def test_a_hook_that_selects(make_pack: MakePack, tmp_path: Path):
    """A hook may run a SELECT without a table, whatever its text."""

    def select(connection: sqlite3.Connection) -> None:
        add_words(connection)
        assert connection.execute("SELECT 1").fetchall() == [(1,)]

    pack = with_hook(make_pack(WORDS), select)
    store = make_store(SQLiteOptions(path=tmp_path / "a.db", connect_hooks=hooks_of([pack])), [pack])
    await store.connect()
    await store.disconnect()


def test_hooks_of_packs_are_in_order(make_pack: MakePack):
    """The hooks of packs run in the order of the packs, and a pack without one is left out."""
    packs: Sequence[Schema] = [make_pack(WORDS, name=name) for name in ("one", "two", "three")]
    packs = [with_hook(packs[0], add_words), packs[1], with_hook(packs[2], add_words)]
    assert [hook.schema for hook in hooks_of(packs)] == ["one", "three"]
