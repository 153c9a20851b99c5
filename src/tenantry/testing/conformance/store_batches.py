"""Checks of a `Store`: batches of writes and reads, and the units in a batch."""

import asyncio
from typing import Final

from tenantry.errors import (
    ConstraintViolationError,
    DuplicateRecordError,
    IdempotencyConflictError,
    QueryError,
)
from tenantry.sql.statements import Fetch, Sql, TupleRow
from tenantry.storage import Store
from tenantry.testing.conformance.expectations import Checks, expect, expect_error
from tenantry.testing.conformance.store_check import (
    CALLERS,
    SELECT,
    MakeStore,
    StoreCheck,
    connected,
    ids,
    insert,
    keyed,
    named,
    pair,
    run,
    select,
)

_RETURNING: Final = "INSERT INTO conformance (id, n) VALUES (?, ?) RETURNING id, n"

checks: Final = Checks[StoreCheck]()


@checks.add
async def check_results_follow_fetch(make_store: MakeStore) -> None:
    """Each kind of `Fetch` has its own result: None, a number of rows, the first row or None, or a list of rows."""
    async with connected(make_store) as store:
        unit = (insert(1, 10), insert(2, 20, Fetch.ROWCOUNT), select(Fetch.ONE), select())
        expect(await store.write([unit]), [[None, 1, (1, 10), [(1, 10), (2, 20)]]])
        missing = run("DELETE FROM conformance WHERE id = ?", 9, fetch=Fetch.ROWCOUNT)
        both = run("UPDATE conformance SET n = n + 1", fetch=Fetch.ROWCOUNT)
        expect(await store.write([(missing,), (both,)]), [[0], [2]])
        no_row = run("SELECT id FROM conformance WHERE id = ?", 9, fetch=Fetch.ONE)
        no_rows = run("SELECT id FROM conformance WHERE id = ?", 9, fetch=Fetch.ALL)
        expect(
            await store.read([select(), select(Fetch.ONE), no_row, no_rows]),
            [[(1, 11), (2, 21)], (1, 11), None, []],
        )


@checks.add
async def check_named_rows(make_store: MakeStore) -> None:
    """Named rows have column names, and a statement that cannot return the requested rows is refused without a change."""
    async with connected(make_store) as store:
        written = run(_RETURNING, 1, 10, fetch=Fetch.NAMED_ONE)
        unit = (written, insert(2, 20), select(Fetch.NAMED_ONE), select(Fetch.NAMED_ALL))
        (first, second) = named((1, 10), (2, 20))
        expect(await store.write([unit]), [[first, None, first, [first, second]]])
        nothing = "SELECT id FROM conformance WHERE id = ?"
        outcomes = await store.read(
            [
                select(Fetch.NAMED_ALL),
                run(nothing, 9, fetch=Fetch.NAMED_ONE),
                run(nothing, 9, fetch=Fetch.NAMED_ALL),
            ]
        )
        expect(outcomes, [[first, second], None, []])
        (row, _) = outcomes[0]  # type: ignore[misc]
        expect((row.id, row["n"], row[1], dict(row), tuple(row)), (1, 10, 10, {"id": 1, "n": 10}, (1, 10)))
        for fetch in (Fetch.NAMED_ONE, Fetch.NAMED_ALL):
            expect_error((await store.write([(insert(3, 0, fetch),)]))[0], QueryError)
        expect(await ids(store), [1, 2])


@checks.add
async def check_rows_that_nobody_asked_for_are_refused(make_store: MakeStore) -> None:
    """A statement that returns unrequested rows is refused, and its unit is rolled back."""
    async with connected(make_store) as store:
        outcomes = await store.write(
            [
                (insert(1),),
                (run(SELECT),),
                (run(_RETURNING, 2, 0),),
                (insert(3), run(_RETURNING, 4, 0)),
                (insert(5),),
            ]
        )
        expect([outcomes[0], outcomes[4]], [[None], [None]])
        for outcome in outcomes[1:4]:
            expect_error(outcome, QueryError)
        expect_error((await store.read([run(SELECT)]))[0], QueryError)
        transaction = await store.begin()
        expect_error(await transaction.write((insert(6), run(_RETURNING, 7, 0))), QueryError)
        expect_error(await transaction.read(run(SELECT)), QueryError)
        expect(await transaction.write((insert(8),)), [None])
        await transaction.commit()
        expect(await ids(store), [1, 5, 8])


@checks.add
async def check_runs_the_sql_of_its_dialect(make_store: MakeStore) -> None:
    """A store runs the SQL of its own dialect; a statement without SQL for that dialect fails alone."""
    async with connected(make_store) as store:
        own = run(Sql({"other": "no SQL", store.backend: SELECT}), fetch=Fetch.ALL)
        other = run(Sql({"other": SELECT}), fetch=Fetch.ALL)
        written, refused, also_written = await store.write(
            [(insert(1), own), (insert(2), other), (insert(3),)]
        )
        expect((written, also_written), ([None, [(1, 0)]], [None]))
        expect_error(refused, QueryError)
        found, refused = await store.read([own, other])
        expect(found, [(1, 0), (3, 0)])
        expect_error(refused, QueryError)


@checks.add
async def check_counts_rows_of_any_writing_statement(make_store: MakeStore) -> None:
    """A row count is right for any writing statement, whatever its first keyword, and with or without RETURNING."""
    async with connected(make_store) as store:
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
        unit = tuple(run(sql, fetch=Fetch.ROWCOUNT) for sql in counts)
        expect(await store.write([unit]), [list(counts.values())])
        expect(await store.write([(each,) for each in unit]), [[count] for count in counts.values()])
        expect(await ids(store), [])


@checks.add
async def check_batch_runs_in_order(make_store: MakeStore) -> None:
    """The requests of a batch run, and are answered, in the given order."""
    async with connected(make_store) as store:
        count = run("SELECT COUNT(*) FROM conformance", fetch=Fetch.ONE)
        outcomes = await store.write([(insert(n), count) for n in range(CALLERS)])
        expect(outcomes, [[None, (n + 1,)] for n in range(CALLERS)])


@checks.add
async def check_empty_batches_are_answered(make_store: MakeStore) -> None:
    """An empty batch has an empty list of outcomes."""
    async with connected(make_store) as store:
        expect(await store.write([]), [])
        expect(await store.read([]), [])


@checks.add
async def check_failure_is_the_requests_own(make_store: MakeStore) -> None:
    """A failed request is rolled back without an effect on the batch's other requests, and its error has the right type."""
    async with connected(make_store) as store:
        outcomes = await store.write(
            [
                (insert(1),),
                (insert(1),),
                (insert(2, None),),
                (run("INSERT INTO nowhere (id) VALUES (1)"),),
                (run("this is not SQL"),),
                (insert(2**70),),
                (run("INSERT INTO conformance (id, n) VALUES (?, ?)", 3),),
                (insert(object()),),
                (insert(4),),
            ]
        )
        expect([outcomes[0], outcomes[-1]], [[None], [None]])
        duplicate = expect_error(outcomes[1], DuplicateRecordError)
        assert duplicate.constraint, "a duplicate names the constraint"
        expect_error(outcomes[2], ConstraintViolationError)
        for outcome in outcomes[3:-1]:
            expect_error(outcome, QueryError)
        expect(await ids(store), [1, 4])


@checks.add
async def check_unit_is_atomic(make_store: MakeStore) -> None:
    """A unit takes effect as a whole or not at all, whichever of its statements fails."""
    async with connected(make_store) as store:
        outcomes = await store.write([pair(1), (insert(2), insert(1)), (insert(1), insert(3)), pair(4)])
        expect([outcomes[0], outcomes[3]], [[None, None], [None, None]])
        for outcome in outcomes[1:3]:
            expect_error(outcome, DuplicateRecordError)
        expect(await ids(store), [-4, -1, 1, 4])


@checks.add
async def check_unit_with_a_key_takes_effect_once(make_store: MakeStore) -> None:
    """A repeated unit with an idempotency key returns its first results, and a different unit with that key is refused.

    A unit runs again if it failed or if its key has expired.
    """
    async with connected(make_store) as store:
        named_rows = named((1, 10))
        no_row = run(f"{SELECT} LIMIT 0", fetch=Fetch.NAMED_ALL)
        unit = (
            *(insert(1, 10, Fetch.ROWCOUNT), select(Fetch.ONE), select()),
            *(select(Fetch.NAMED_ONE), select(Fetch.NAMED_ALL), no_row),
        )
        results = [1, (1, 10), [(1, 10)], named_rows[0], named_rows, []]
        outcomes = await store.write(
            [
                keyed((*unit, insert(1))),
                keyed(unit),
                keyed(unit),
                keyed(pair(2), payload_hash=b"2"),
                pair(3),
            ]
        )
        expect_error(outcomes[0], DuplicateRecordError)
        expect_error(outcomes[3], IdempotencyConflictError)
        expect([*outcomes[1:3], outcomes[4]], [results, results, [None, None]])
        expect(await store.write([keyed(unit, after_seconds=59)]), [results])
        expect(await store.write([keyed(pair(2), payload_hash=b"2", after_seconds=60)]), [[None, None]])
        expect(await ids(store), [-3, -2, 1, 2, 3])


@checks.add
async def check_failure_leaves_no_transaction(make_store: MakeStore) -> None:
    """A failed batch leaves no open transaction: the next caller does not wait, and does not commit the failed writes."""
    async with connected(make_store) as store:
        (outcome,) = await store.write([(insert(1), insert(1))])
        expect_error(outcome, DuplicateRecordError)
        transaction = await store.begin()
        await transaction.commit()
        expect(await store.write([(insert(2),)]), [[None]])
        expect(await ids(store), [2])


@checks.add
async def check_units_never_mix(make_store: MakeStore) -> None:
    """Concurrent units never interleave, and no unit is lost."""
    async with connected(make_store) as store:
        increment = run("UPDATE conformance SET n = n + 1 WHERE id = 0")
        await store.write([(insert(0),)])
        outcomes = await asyncio.gather(
            *(store.write([(increment, increment, select(Fetch.ONE))]) for _ in range(CALLERS))
        )
        expect(sorted(outcome[0][2][1] for outcome in outcomes), list(range(2, 2 * CALLERS + 1, 2)))  # type: ignore[index]


@checks.add
async def check_reads_own_writes(make_store: MakeStore) -> None:
    """A read sees every write that was acknowledged before the read began, even with concurrent callers."""
    async with connected(make_store) as store:

        async def write_then_read(row_id: int) -> None:
            await store.write([(insert(row_id),)])
            assert row_id in await ids(store), row_id

        await asyncio.gather(*(write_then_read(n) for n in range(CALLERS)))


@checks.add
async def check_read_failure_is_the_statements_own(make_store: MakeStore) -> None:
    """A failed read has no effect on the other reads of its batch."""
    async with connected(make_store) as store:
        await store.write([(insert(1),)])
        outcomes = await store.read(
            [select(), run("SELECT * FROM nowhere"), run(SELECT, "one too many"), select()]
        )
        expect([outcomes[0], outcomes[3]], [[(1, 0)], [(1, 0)]])
        for outcome in outcomes[1:3]:
            expect_error(outcome, QueryError)


@checks.add
async def check_reads_cannot_write(make_store: MakeStore) -> None:
    """A write statement in a read call is refused and changes nothing, even in a transaction."""
    async with connected(make_store) as store:
        (outcome,) = await store.read([insert(1)])
        expect_error(outcome, QueryError)
        transaction = await store.begin()
        expect_error(await transaction.read(insert(1)), QueryError)
        expect(await transaction.write((insert(2),)), [None])
        await transaction.commit()
        expect(await ids(store), [2])


@checks.add
async def check_cancelled_unit_is_whole_or_absent(make_store: MakeStore) -> None:
    """A cancelled write takes effect as a whole or not at all, and has no effect on the writes of other callers."""
    async with connected(make_store) as store:
        writers: list[asyncio.Task[TupleRow | None]] = []
        for row_id in range(1, CALLERS + 1):
            write = asyncio.create_task(_write_pair(store, row_id))
            writers.append(write)
            for _ in range(row_id % 5):
                await asyncio.sleep(0)
            if row_id % 2:
                write.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
        await store.write([(insert(0),)])  # this write waits for the writes that still run
        found = set(await ids(store))
        expect({-row_id for row_id in found}, found)
        assert found >= {row_id for row_id in range(1, CALLERS + 1) if row_id % 2 == 0}, found


async def _write_pair(store: Store, row_id: int) -> None:
    expect(await store.write([pair(row_id)]), [[None, None]])
