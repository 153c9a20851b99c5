"""Checks of a `Store`: transactions over several calls."""

import asyncio
from typing import Final

from tenantry.errors import DuplicateRecordError, QueryError, TransactionClosedError
from tenantry.testing.conformance.expectations import Checks, expect, expect_error, expect_raised
from tenantry.testing.conformance.store_check import (
    MakeStore,
    StoreCheck,
    connected,
    ids,
    insert,
    pair,
    run,
    select,
)

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

checks: Final = Checks[StoreCheck]()


@checks.add
async def check_transaction_control_is_refused(make_store: MakeStore) -> None:
    """No SQL text can begin, end or nest a transaction of the store; an attempt is refused and affects no other request."""
    async with connected(make_store) as store:
        for row_id, sql in enumerate(_TRANSACTION_CONTROL):
            outcomes = await store.write([(insert(row_id),), (run(sql),), (insert(-1), run(sql))])
            expect(outcomes[0], [None])
            expect_error(outcomes[1], QueryError)
            expect_error(outcomes[2], QueryError)
            expect_error((await store.read([run(sql)]))[0], QueryError)
        transaction = await store.begin()
        for sql in _TRANSACTION_CONTROL:
            expect_error(await transaction.write((run(sql),)), QueryError)
            expect_error(await transaction.read(run(sql)), QueryError)
        await transaction.rollback()
        expect(await ids(store), list(range(len(_TRANSACTION_CONTROL))))


@checks.add
async def check_transaction_commits_all(make_store: MakeStore) -> None:
    """A commit makes all writes of a transaction visible together; no reader sees only some of the writes."""
    async with connected(make_store) as store:
        transaction = await store.begin()
        await transaction.write((insert(1),))
        reading = asyncio.gather(*(ids(store) for _ in range(3)))
        await transaction.write((insert(2),))
        expect(await transaction.read(select()), [(1, 0), (2, 0)])
        await transaction.commit()
        for seen in await reading:
            assert seen in ([], [1, 2]), seen
        expect(await ids(store), [1, 2])


@checks.add
async def check_transaction_rolls_back_all(make_store: MakeStore) -> None:
    """A rollback undoes all writes of a transaction, and a second rollback is a no-op."""
    async with connected(make_store) as store:
        transaction = await store.begin()
        await transaction.write(pair(1))
        await transaction.write(pair(2))
        await transaction.rollback()
        await transaction.rollback()
        expect(await ids(store), [])


@checks.add
async def check_failed_unit_is_undone_alone(make_store: MakeStore) -> None:
    """A failed unit in a transaction is rolled back alone, and the transaction can continue."""
    async with connected(make_store) as store:
        transaction = await store.begin()
        await transaction.write((insert(1),))
        expect_error(await transaction.write((insert(1),)), DuplicateRecordError)
        expect_error(await transaction.write((insert(2), insert(1))), DuplicateRecordError)
        expect_error(await transaction.write((insert(2**70),)), QueryError)
        expect_error(await transaction.read(run("SELECT * FROM nowhere")), QueryError)
        expect(await transaction.write((insert(3),)), [None])
        await transaction.commit()
        expect(await ids(store), [1, 3])


@checks.add
async def check_transaction_is_closed_after_its_end(make_store: MakeStore) -> None:
    """Any call on a committed or rolled-back transaction raises, and never runs in autocommit mode."""
    async with connected(make_store) as store:
        for is_committed in (True, False):
            transaction = await store.begin()
            await (transaction.commit() if is_committed else transaction.rollback())
            for use in (
                lambda: transaction.write((insert(9),)),  # noqa: B023  # used within the iteration
                lambda: transaction.read(select()),  # noqa: B023
                transaction.commit,
            ):
                with expect_raised(TransactionClosedError):
                    await use()
            await transaction.rollback()
        expect(await ids(store), [])


@checks.add
async def check_writes_wait_for_the_transaction(make_store: MakeStore) -> None:
    """A write outside the transaction waits until the transaction ends, and runs before the next transaction begins."""
    async with connected(make_store) as store:
        await store.write([(insert(0, 1),)])
        transaction = await store.begin()
        double = asyncio.ensure_future(store.write([(run("UPDATE conformance SET n = n * 2"),)]))
        for _ in range(2):
            await transaction.write((run("UPDATE conformance SET n = n + 1"),))
        await transaction.commit()
        following = await store.begin()
        expect(await following.read(select()), [(0, 6)])
        await following.rollback()
        expect(await double, [[None]])


@checks.add
async def check_disconnect_ends_the_transaction(make_store: MakeStore) -> None:
    """Disconnecting a store rolls back its open transaction, and the store works again after it is reconnected."""
    async with connected(make_store) as store:
        transaction = await store.begin()
        await transaction.write((insert(1),))
        await store.disconnect()
        with expect_raised(TransactionClosedError):
            await transaction.write((insert(2),))
        with expect_raised(TransactionClosedError):
            await transaction.commit()
        await transaction.rollback()
        await store.connect()
        rows = (await store.read([select()]))[0]
        # An in-memory database ends with its connection.
        assert rows == [] or isinstance(rows, QueryError), rows
        following = await store.begin()
        await following.rollback()
