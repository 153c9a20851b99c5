"""What a `Store` promises: the checks of `STORE_CHECKS`, each on a store and a database of its own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from tenantry.errors import (
    ConstraintViolationError,
    DuplicateRecordError,
    IdempotencyConflictError,
    PersistenceConnectionError,
    QueryError,
    StorageFullError,
    TransactionClosedError,
)
from tenantry.statements import Fetch, Row, Sql, Statement
from tenantry.storage import Store
from tenantry.storage.protocol import KeyedRequest, Request
from tenantry.testing.conformance.expectations import expect, expect_error, expect_raised

MakeStore: TypeAlias = Callable[[], Store]
"""Returns a new store, disconnected, on an empty database that nobody else uses, with at least one schema."""

StoreCheck: TypeAlias = Callable[[MakeStore], Awaitable[None]]

_TABLE: Final = "CREATE TABLE conformance (id INTEGER NOT NULL PRIMARY KEY, n INTEGER NOT NULL)"
_SELECT: Final = "SELECT id, n FROM conformance ORDER BY id"
_TRANSACTION_CONTROL: Final = (
    "BEGIN",
    "COMMIT",
    "END",
    "ROLLBACK",
    "SAVEPOINT mine",
    "RELEASE mine",
    "  commit",
    ";COMMIT",
    "/* harmless */ COMMIT",
    "-- harmless\nCOMMIT",
    "\ufeffCOMMIT",
)
_CALLERS: Final = 20

_checks: list[StoreCheck] = []


async def check_store(make_store: MakeStore) -> None:
    """Run every check, one after the other; the first that fails raises."""
    for check in STORE_CHECKS:
        await check(make_store)


def _store_check(check: StoreCheck) -> StoreCheck:
    _checks.append(check)
    return check


def _insert(row_id: object, n: object = 0, fetch: Fetch = Fetch.NONE) -> Statement:
    return Statement(
        "conformance.insert", "INSERT INTO conformance (id, n) VALUES (?, ?)", (row_id, n), fetch
    )


def _run(sql: str | Sql, *parameters: object, fetch: Fetch = Fetch.NONE) -> Statement:
    return Statement("conformance.run", sql, parameters, fetch)


def _select(fetch: Fetch = Fetch.ALL) -> Statement:
    return Statement("conformance.select", _SELECT, (), fetch)


def _pair(row_id: int) -> Request:
    return _insert(row_id), _insert(-row_id)


def _keyed(request: Request, *, payload_hash: bytes = b"1", after_seconds: float = 0.0) -> KeyedRequest:
    """Return a unit with a key that is kept for a minute, sent so long after the first."""
    now = datetime(2026, 1, 31, tzinfo=UTC) + timedelta(seconds=after_seconds)
    return KeyedRequest(
        request, key="key", payload_hash=payload_hash, now=now, kept_since=now - timedelta(minutes=1)
    )


async def _ids(store: Store) -> list[int]:
    (rows,) = await store.read([_select()])
    assert isinstance(rows, list), rows
    return [row[0] for row in rows]


@asynccontextmanager
async def _connected(make_store: MakeStore) -> AsyncIterator[Store]:
    store = make_store()
    try:
        await store.connect()
        await store.migrate()
        expect(await store.write([(_run(_TABLE),)]), [[None]])
        yield store
    finally:
        await store.disconnect()


@_store_check
async def check_names_itself(make_store: MakeStore) -> None:
    """It has the protocol's names, says which back end it is, and is made disconnected."""
    store = make_store()
    assert isinstance(store, Store)
    assert store.backend.isidentifier(), store.backend
    expect(store.is_connected, False)


@_store_check
async def check_connect_and_disconnect_are_idempotent(make_store: MakeStore) -> None:
    """A second call changes nothing, and what is closed can be opened again."""
    store = make_store()
    await store.disconnect()
    for _ in range(2):
        await store.connect()
        await store.connect()
        expect(store.is_connected, True)
        await store.disconnect()
        await store.disconnect()
        expect(store.is_connected, False)


@_store_check
async def check_connect_and_disconnect_are_serialised(make_store: MakeStore) -> None:
    """Calls at the same moment leave it whole: connected or not, and usable either way."""
    store = make_store()
    await asyncio.gather(*(store.connect() for _ in range(_CALLERS)))
    expect(await store.health_check(), True)
    await asyncio.gather(*(store.connect() if n % 2 else store.disconnect() for n in range(_CALLERS)))
    expect(await store.health_check(), store.is_connected)
    await asyncio.gather(*(store.disconnect() for _ in range(_CALLERS)))
    expect(store.is_connected, False)


@_store_check
async def check_health_follows_the_connection(make_store: MakeStore) -> None:
    """A store is healthy while it is connected; asking never raises."""
    store = make_store()
    expect(await store.health_check(), False)
    await store.connect()
    expect(await store.health_check(), True)
    await store.disconnect()
    expect(await store.health_check(), False)


@_store_check
async def check_migrates_once(make_store: MakeStore) -> None:
    """The first migrate applies all, the second none; both say the same versions."""
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


@_store_check
async def check_looks_for_damage_beside_calls(make_store: MakeStore) -> None:
    """A sound database passes either look, with a transaction open beside it, and is used as before afterwards."""
    async with _connected(make_store) as store:
        transaction = await store.begin()
        checks = asyncio.gather(*(store.check_integrity(is_thorough=n % 2 == 1) for n in range(4)))
        await transaction.write((_insert(1),))
        await transaction.commit()
        expect(await checks, [None] * 4)
        expect(await store.write([(_insert(2),)]), [[None]])
        expect(await _ids(store), [1, 2])


@_store_check
async def check_tells_of_changes(make_store: MakeStore) -> None:
    """Each of its commits changes the token, where it gives one; reads and commits of its own are not changes by others."""
    async with _connected(make_store) as store:
        others, tokens = await store.changes_by_others(), [store.change_token()]
        expect(await store.write([(_insert(1),)]), [[None]])
        tokens.append(store.change_token())
        transaction = await store.begin()
        await transaction.write((_insert(2),))
        await transaction.commit()
        tokens.append(store.change_token())
        expect(await _ids(store), [1, 2])
        given = [token for token in tokens if token is not None]
        expect(len(set(given)), len(given))
        expect(await store.changes_by_others(), others)


@_store_check
async def check_use_needs_a_connection(make_store: MakeStore) -> None:
    """Before connect and after disconnect every call says so."""
    store = make_store()
    for _ in range(2):
        for use in (
            lambda: store.write([(_insert(1),)]),
            lambda: store.read([_select()]),
            store.begin,
            store.migrate,
            store.check_integrity,
            store.changes_by_others,
        ):
            with expect_raised(PersistenceConnectionError):
                await use()
        await store.connect()
        await store.disconnect()


@_store_check
async def check_results_follow_fetch(make_store: MakeStore) -> None:
    """Each statement of a unit gives what its `Fetch` says: None, a count, a row or None, rows."""
    async with _connected(make_store) as store:
        unit = (_insert(1, 10), _insert(2, 20, Fetch.ROWCOUNT), _select(Fetch.ONE), _select())
        expect(await store.write([unit]), [[None, 1, (1, 10), [(1, 10), (2, 20)]]])
        missing = _run("DELETE FROM conformance WHERE id = ?", 9, fetch=Fetch.ROWCOUNT)
        both = _run("UPDATE conformance SET n = n + 1", fetch=Fetch.ROWCOUNT)
        expect(await store.write([(missing,), (both,)]), [[0], [2]])
        no_row = _run("SELECT id FROM conformance WHERE id = ?", 9, fetch=Fetch.ONE)
        no_rows = _run("SELECT id FROM conformance WHERE id = ?", 9, fetch=Fetch.ALL)
        expect(
            await store.read([_select(), _select(Fetch.ONE), no_row, no_rows]),
            [[(1, 11), (2, 21)], (1, 11), None, []],
        )


@_store_check
async def check_runs_the_sql_of_its_dialect(make_store: MakeStore) -> None:
    """Of SQL that differs between dialects a store runs its own; SQL that has none is the failure of its request alone."""
    async with _connected(make_store) as store:
        own = _run(Sql({"other": "no SQL", store.backend: _SELECT}), fetch=Fetch.ALL)
        other = _run(Sql({"other": _SELECT}), fetch=Fetch.ALL)
        written, refused, also_written = await store.write(
            [(_insert(1), own), (_insert(2), other), (_insert(3),)]
        )
        expect((written, also_written), ([None, [(1, 0)]], [None]))
        expect_error(refused, QueryError)
        found, refused = await store.read([own, other])
        expect(found, [(1, 0), (3, 0)])
        expect_error(refused, QueryError)


@_store_check
async def check_counts_rows_of_any_writing_statement(make_store: MakeStore) -> None:
    """A count is of the rows that the statement itself changed, whatever it begins with and whether it returns rows."""
    async with _connected(make_store) as store:
        counts = {
            "INSERT INTO conformance (id, n) VALUES (1, 0), (2, 0), (3, 0) RETURNING id": 3,
            "WITH few AS (SELECT 1 AS id UNION SELECT 2) UPDATE conformance SET n = 1 WHERE id IN (SELECT id FROM few)": 2,
            "UPDATE conformance SET n = 2 WHERE id > 1 RETURNING id, n": 2,
            "UPDATE conformance SET n = 3 WHERE id > 9 RETURNING id": 0,
            "/* none */ UPDATE conformance SET n = 3 WHERE id > 9": 0,
            "WITH one AS (SELECT 1 AS id) DELETE FROM conformance WHERE id IN (SELECT id FROM one)": 1,
            "WITH one AS (SELECT 4 AS id) INSERT INTO conformance (id, n) SELECT id, 0 FROM one RETURNING id": 1,
            "-- all\nDELETE FROM conformance RETURNING id": 3,
        }
        unit = tuple(_run(sql, fetch=Fetch.ROWCOUNT) for sql in counts)
        expect(await store.write([unit]), [list(counts.values())])
        expect(await store.write([(each,) for each in unit]), [[count] for count in counts.values()])
        expect(await _ids(store), [])


@_store_check
async def check_batch_runs_in_order(make_store: MakeStore) -> None:
    """Requests take effect, and are answered, in the order given."""
    async with _connected(make_store) as store:
        count = _run("SELECT COUNT(*) FROM conformance", fetch=Fetch.ONE)
        outcomes = await store.write([(_insert(n), count) for n in range(_CALLERS)])
        expect(outcomes, [[None, (n + 1,)] for n in range(_CALLERS)])


@_store_check
async def check_empty_batches_are_answered(make_store: MakeStore) -> None:
    """Nothing asked, nothing answered."""
    async with _connected(make_store) as store:
        expect(await store.write([]), [])
        expect(await store.read([]), [])


@_store_check
async def check_failure_is_the_requests_own(make_store: MakeStore) -> None:
    """A request that fails keeps nothing and leaves the others of its batch alone; the kinds of failure are told apart."""
    async with _connected(make_store) as store:
        outcomes = await store.write(
            [
                (_insert(1),),
                (_insert(1),),
                (_insert(2, None),),
                (_run("INSERT INTO nowhere (id) VALUES (1)"),),
                (_run("this is not SQL"),),
                (_insert(2**70),),
                (_run("INSERT INTO conformance (id, n) VALUES (?, ?)", 3),),
                (_insert(object()),),
                (_insert(4),),
            ]
        )
        expect([outcomes[0], outcomes[-1]], [[None], [None]])
        duplicate = expect_error(outcomes[1], DuplicateRecordError)
        assert duplicate.constraint, "a duplicate names the constraint"
        expect_error(outcomes[2], ConstraintViolationError)
        for outcome in outcomes[3:-1]:
            expect_error(outcome, QueryError)
        expect(await _ids(store), [1, 4])


@_store_check
async def check_unit_is_atomic(make_store: MakeStore) -> None:
    """Of a unit of several statements all take effect or none, wherever it fails."""
    async with _connected(make_store) as store:
        outcomes = await store.write([_pair(1), (_insert(2), _insert(1)), (_insert(1), _insert(3)), _pair(4)])
        expect([outcomes[0], outcomes[3]], [[None, None], [None, None]])
        for outcome in outcomes[1:3]:
            expect_error(outcome, DuplicateRecordError)
        expect(await _ids(store), [-4, -1, 1, 4])


@_store_check
async def check_unit_with_a_key_takes_effect_once(make_store: MakeStore) -> None:
    """Sent again it gives what it gave; another unit with its key is refused; one that fails, or is expired, runs again."""
    async with _connected(make_store) as store:
        unit = (_insert(1, 10, Fetch.ROWCOUNT), _select(Fetch.ONE), _select())
        results = [1, (1, 10), [(1, 10)]]
        outcomes = await store.write(
            [
                _keyed((*unit, _insert(1))),
                _keyed(unit),
                _keyed(unit),
                _keyed(_pair(2), payload_hash=b"2"),
                _pair(3),
            ]
        )
        expect_error(outcomes[0], DuplicateRecordError)
        expect_error(outcomes[3], IdempotencyConflictError)
        expect([*outcomes[1:3], outcomes[4]], [results, results, [None, None]])
        expect(await store.write([_keyed(unit, after_seconds=59)]), [results])
        expect(await store.write([_keyed(_pair(2), payload_hash=b"2", after_seconds=60)]), [[None, None]])
        expect(await _ids(store), [-3, -2, 1, 2, 3])


@_store_check
async def check_failure_leaves_no_transaction(make_store: MakeStore) -> None:
    """After a failed batch the next caller neither waits nor commits what failed."""
    async with _connected(make_store) as store:
        (outcome,) = await store.write([(_insert(1), _insert(1))])
        expect_error(outcome, DuplicateRecordError)
        transaction = await store.begin()
        await transaction.commit()
        expect(await store.write([(_insert(2),)]), [[None]])
        expect(await _ids(store), [2])


@_store_check
async def check_units_never_mix(make_store: MakeStore) -> None:
    """Writers at the same moment: every unit is whole, and none is lost."""
    async with _connected(make_store) as store:
        increment = _run("UPDATE conformance SET n = n + 1 WHERE id = 0")
        await store.write([(_insert(0),)])
        outcomes = await asyncio.gather(
            *(store.write([(increment, increment, _select(Fetch.ONE))]) for _ in range(_CALLERS))
        )
        expect(sorted(outcome[0][2][1] for outcome in outcomes), list(range(2, 2 * _CALLERS + 1, 2)))  # type: ignore[index]


@_store_check
async def check_reads_own_writes(make_store: MakeStore) -> None:
    """A read that starts after a write was answered sees it, whoever else is busy."""
    async with _connected(make_store) as store:

        async def write_then_read(row_id: int) -> None:
            await store.write([(_insert(row_id),)])
            assert row_id in await _ids(store), row_id

        await asyncio.gather(*(write_then_read(n) for n in range(_CALLERS)))


@_store_check
async def check_read_failure_is_the_statements_own(make_store: MakeStore) -> None:
    """A reading statement that fails leaves the others of its batch alone."""
    async with _connected(make_store) as store:
        await store.write([(_insert(1),)])
        outcomes = await store.read(
            [_select(), _run("SELECT * FROM nowhere"), _run(_SELECT, "one too many"), _select()]
        )
        expect([outcomes[0], outcomes[3]], [[(1, 0)], [(1, 0)]])
        for outcome in outcomes[1:3]:
            expect_error(outcome, QueryError)


@_store_check
async def check_reads_cannot_write(make_store: MakeStore) -> None:
    """A write that is passed off as a read is refused and changes nothing, in a transaction too."""
    async with _connected(make_store) as store:
        (outcome,) = await store.read([_insert(1)])
        expect_error(outcome, QueryError)
        transaction = await store.begin()
        expect_error(await transaction.read(_insert(1)), QueryError)
        expect(await transaction.write((_insert(2),)), [None])
        await transaction.commit()
        expect(await _ids(store), [2])


@_store_check
async def check_transaction_control_is_refused(make_store: MakeStore) -> None:
    """No statement can end, open or nest a transaction behind the store's back, and trying harms nobody else."""
    async with _connected(make_store) as store:
        for row_id, sql in enumerate(_TRANSACTION_CONTROL):
            outcomes = await store.write([(_insert(row_id),), (_run(sql),), (_insert(-1), _run(sql))])
            expect(outcomes[0], [None])
            expect_error(outcomes[1], QueryError)
            expect_error(outcomes[2], QueryError)
            expect_error((await store.read([_run(sql)]))[0], QueryError)
        transaction = await store.begin()
        for sql in _TRANSACTION_CONTROL:
            expect_error(await transaction.write((_run(sql),)), QueryError)
            expect_error(await transaction.read(_run(sql)), QueryError)
        await transaction.rollback()
        expect(await _ids(store), list(range(len(_TRANSACTION_CONTROL))))


@_store_check
async def check_transaction_commits_all(make_store: MakeStore) -> None:
    """What several calls of a transaction wrote is there at once, and no reader sees a part of it."""
    async with _connected(make_store) as store:
        transaction = await store.begin()
        await transaction.write((_insert(1),))
        reading = asyncio.gather(*(_ids(store) for _ in range(3)))
        await transaction.write((_insert(2),))
        expect(await transaction.read(_select()), [(1, 0), (2, 0)])
        await transaction.commit()
        for seen in await reading:
            assert seen in ([], [1, 2]), seen
        expect(await _ids(store), [1, 2])


@_store_check
async def check_transaction_rolls_back_all(make_store: MakeStore) -> None:
    """Rolled back, a transaction leaves nothing; doing it twice is harmless."""
    async with _connected(make_store) as store:
        transaction = await store.begin()
        await transaction.write(_pair(1))
        await transaction.write(_pair(2))
        await transaction.rollback()
        await transaction.rollback()
        expect(await _ids(store), [])


@_store_check
async def check_failed_unit_is_undone_alone(make_store: MakeStore) -> None:
    """Inside a transaction a failed unit keeps nothing, and the transaction goes on."""
    async with _connected(make_store) as store:
        transaction = await store.begin()
        await transaction.write((_insert(1),))
        expect_error(await transaction.write((_insert(1),)), DuplicateRecordError)
        expect_error(await transaction.write((_insert(2), _insert(1))), DuplicateRecordError)
        expect_error(await transaction.write((_insert(2**70),)), QueryError)
        expect_error(await transaction.read(_run("SELECT * FROM nowhere")), QueryError)
        expect(await transaction.write((_insert(3),)), [None])
        await transaction.commit()
        expect(await _ids(store), [1, 3])


@_store_check
async def check_transaction_is_closed_after_its_end(make_store: MakeStore) -> None:
    """Used after its end, however it ended, a transaction raises and never turns into autocommit."""
    async with _connected(make_store) as store:
        for is_committed in (True, False):
            transaction = await store.begin()
            await (transaction.commit() if is_committed else transaction.rollback())
            for use in (
                lambda: transaction.write((_insert(9),)),  # noqa: B023  # used within the iteration
                lambda: transaction.read(_select()),  # noqa: B023
                transaction.commit,
            ):
                with expect_raised(TransactionClosedError):
                    await use()
            await transaction.rollback()
        expect(await _ids(store), [])


@_store_check
async def check_writes_wait_for_the_transaction(make_store: MakeStore) -> None:
    """A write from outside takes effect after the open transaction, and the next transaction after that."""
    async with _connected(make_store) as store:
        await store.write([(_insert(0, 1),)])
        transaction = await store.begin()
        double = asyncio.ensure_future(store.write([(_run("UPDATE conformance SET n = n * 2"),)]))
        for _ in range(2):
            await transaction.write((_run("UPDATE conformance SET n = n + 1"),))
        await transaction.commit()
        following = await store.begin()
        expect(await following.read(_select()), [(0, 6)])
        await following.rollback()
        expect(await double, [[None]])


@_store_check
async def check_limits_change_while_it_is_used(make_store: MakeStore) -> None:
    """A database at its limit refuses what needs more, and is read and used; with more room it takes it."""
    async with _connected(make_store) as store:
        await store.write([(_run("CREATE TABLE conformance_text (t TEXT NOT NULL)"),)])
        insert = _run("INSERT INTO conformance_text (t) VALUES (?)", "x" * 100_000)
        await store.apply_limits(database_bytes_max=1_000_000, durability="normal")
        outcomes = [(await store.write([(insert,)]))[0] for _ in range(20)]
        expect_error(outcomes[-1], StorageFullError)
        await store.write([(_insert(1),)])
        expect(await _ids(store), [1])
        await store.apply_limits(database_bytes_max=None, durability="full")
        expect(await store.write([(insert,)]), [[None]])
        count = _run("SELECT COUNT(*) FROM conformance_text", fetch=Fetch.ONE)
        expect(await store.read([count]), [(outcomes.count([None]) + 1,)])


@_store_check
async def check_disconnect_ends_the_transaction(make_store: MakeStore) -> None:
    """Closed under an open transaction, the store rolls it back and works again once it is connected."""
    async with _connected(make_store) as store:
        transaction = await store.begin()
        await transaction.write((_insert(1),))
        await store.disconnect()
        with expect_raised(TransactionClosedError):
            await transaction.write((_insert(2),))
        with expect_raised(TransactionClosedError):
            await transaction.commit()
        await transaction.rollback()
        await store.connect()
        rows = (await store.read([_select()]))[0]
        # A database in memory has ended with its connection.
        assert rows == [] or isinstance(rows, QueryError), rows
        following = await store.begin()
        await following.rollback()


@_store_check
async def check_cancelled_unit_is_whole_or_absent(make_store: MakeStore) -> None:
    """A caller that is cancelled loses the reply, never half a unit, and takes nobody else's rows along."""
    async with _connected(make_store) as store:
        writers: list[asyncio.Task[Row | None]] = []
        for row_id in range(1, _CALLERS + 1):
            write = asyncio.create_task(_write_pair(store, row_id))
            writers.append(write)
            for _ in range(row_id % 5):
                await asyncio.sleep(0)
            if row_id % 2:
                write.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
        await store.write([(_insert(0),)])  # behind whatever still runs
        found = set(await _ids(store))
        expect({-row_id for row_id in found}, found)
        assert found >= {row_id for row_id in range(1, _CALLERS + 1) if row_id % 2 == 0}, found


async def _write_pair(store: Store, row_id: int) -> None:
    expect(await store.write([_pair(row_id)]), [[None, None]])


STORE_CHECKS: Final = tuple(_checks)
"""Every check, in the order to read them."""
