"""Checks of a `Store`: connections, migrations, limits, and reports about its database."""

import asyncio
from typing import Final

from tenantry.config import Durability
from tenantry.errors import PersistenceConnectionError, StorageFullError, UnsupportedByBackend
from tenantry.sql.statements import Fetch
from tenantry.storage import Store
from tenantry.storage.protocol import Capability
from tenantry.testing.conformance.expectations import Checks, expect, expect_error, expect_raised
from tenantry.testing.conformance.store_check import (
    CALLERS,
    MakeStore,
    StoreCheck,
    connected,
    ids,
    insert,
    run,
    select,
)

_DURABILITIES: Final[tuple[Durability, ...]] = ("normal", "full")

checks: Final = Checks[StoreCheck]()


@checks.add
async def check_names_itself(make_store: MakeStore) -> None:
    """A store has the protocol's methods, names its back end, and is disconnected at first."""
    store = make_store()
    assert isinstance(store, Store)
    assert store.backend.isidentifier(), store.backend
    expect(store.is_connected, False)


@checks.add
async def check_connect_and_disconnect_are_idempotent(make_store: MakeStore) -> None:
    """A second connect or disconnect is a no-op, and a disconnected store can be reconnected."""
    store = make_store()
    await store.disconnect()
    for _ in range(2):
        await store.connect()
        await store.connect()
        expect(store.is_connected, True)
        await store.disconnect()
        await store.disconnect()
        expect(store.is_connected, False)


@checks.add
async def check_connected_for_a_write(make_store: MakeStore) -> None:
    """A store that was connected for a write reads and writes like any other, whatever its first call is."""
    async with connected(make_store) as store:
        await store.disconnect()
        await store.connect(is_for_write=True)
        await store.migrate()
        expect(await store.read([run("SELECT 1", fetch=Fetch.ONE)]), [(1,)])
        expect(
            await store.write([(run("CREATE TABLE written (id INTEGER NOT NULL PRIMARY KEY)"),)]), [[None]]
        )
        transaction = await store.begin()
        await transaction.write((run("INSERT INTO written VALUES (1)"),))
        await transaction.commit()
        expect(await store.health_check(), True)


@checks.add
async def check_connect_and_disconnect_are_serialised(make_store: MakeStore) -> None:
    """Concurrent connects and disconnects leave the store in a consistent state."""
    store = make_store()
    await asyncio.gather(*(store.connect() for _ in range(CALLERS)))
    expect(await store.health_check(), True)
    await asyncio.gather(*(store.connect() if n % 2 else store.disconnect() for n in range(CALLERS)))
    expect(await store.health_check(), store.is_connected)
    await asyncio.gather(*(store.disconnect() for _ in range(CALLERS)))
    expect(store.is_connected, False)


@checks.add
async def check_health_follows_the_connection(make_store: MakeStore) -> None:
    """A store is healthy while it is connected, and `health_check` never raises."""
    store = make_store()
    expect(await store.health_check(), False)
    await store.connect()
    expect(await store.health_check(), True)
    await store.disconnect()
    expect(await store.health_check(), False)


@checks.add
async def check_migrates_once(make_store: MakeStore) -> None:
    """The first `migrate` applies all migrations, and the second `migrate` none; both return the same versions."""
    store = make_store()
    await store.connect()
    try:
        first, second = await store.migrate(), await store.migrate()
    finally:
        await store.disconnect()
    assert first.applied, "a new database needs migrations"
    expect(second.applied, ())
    expect(second.versions, first.versions)
    expect(first.versions, {migration.schema: migration.version for migration in first.applied})


@checks.add
async def check_looks_for_damage_beside_calls(make_store: MakeStore) -> None:
    """A sound database passes the quick and the thorough integrity check during a transaction, and stays usable."""
    async with connected(make_store) as store:
        transaction = await store.begin()
        checks = asyncio.gather(*(store.check_integrity(is_thorough=n % 2 == 1) for n in range(4)))
        await transaction.write((insert(1),))
        await transaction.commit()
        expect(await checks, [None] * 4)
        expect(await store.write([(insert(2),)]), [[None]])
        expect(await ids(store), [1, 2])


@checks.add
async def check_tells_of_changes(make_store: MakeStore) -> None:
    """In a store with tokens, each commit changes the token, and `changes_by_others` ignores the store's own commits."""
    async with connected(make_store) as store:
        others, tokens = await store.changes_by_others(), [store.change_token()]
        expect(await store.write([(insert(1),)]), [[None]])
        tokens.append(store.change_token())
        transaction = await store.begin()
        await transaction.write((insert(2),))
        await transaction.commit()
        tokens.append(store.change_token())
        expect(await ids(store), [1, 2])
        given = [token for token in tokens if token is not None]
        expect(len(set(given)), len(given))
        expect(await store.changes_by_others(), others)


@checks.add
async def check_use_needs_a_connection(make_store: MakeStore) -> None:
    """Every call on a disconnected store raises `PersistenceConnectionError`."""
    store = make_store()
    for _ in range(2):
        for use in (
            lambda: store.write([(insert(1),)]),
            lambda: store.read([select()]),
            store.begin,
            store.migrate,
            store.check_integrity,
            store.changes_by_others,
        ):
            with expect_raised(PersistenceConnectionError):
                await use()
        await store.connect()
        await store.disconnect()


@checks.add
async def check_limits_change_while_it_is_used(make_store: MakeStore) -> None:
    """A database at its size limit refuses large writes but stays usable; after the limit is raised, large writes succeed.

    A back end that cannot limit the size refuses the limit and changes nothing. Every back end can change the durability.
    """
    async with connected(make_store) as store:
        await store.write([(run("CREATE TABLE conformance_text (t TEXT NOT NULL)"),)])
        fill = run("INSERT INTO conformance_text (t) VALUES (?)", "x" * 100_000)
        try:
            await store.apply_limits(database_bytes_max=1_000_000, durability="normal")
        except UnsupportedByBackend as error:
            expect(error.capability, Capability.BYTE_LIMIT)
            for durability in _DURABILITIES:
                await store.apply_limits(database_bytes_max=None, durability=durability)
                expect(await store.write([(fill,)]), [[None]])
            return
        outcomes = [(await store.write([(fill,)]))[0] for _ in range(20)]
        expect_error(outcomes[-1], StorageFullError)
        await store.write([(insert(1),)])
        expect(await ids(store), [1])
        await store.apply_limits(database_bytes_max=None, durability="full")
        expect(await store.write([(fill,)]), [[None]])
        count = run("SELECT COUNT(*) FROM conformance_text", fetch=Fetch.ONE)
        expect(await store.read([count]), [(outcomes.count([None]) + 1,)])
