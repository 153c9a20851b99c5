"""Moves the catalog to another back end; the tenants stay where they are.

No registry may have the catalog open. The steps, between which the process may die:

1. One transaction of the target copies all rows, compares the two catalogs, and marks the target as `ARRIVING`. The source cannot be
   written in the meantime.
2. One transaction of the source marks the source as `LEFT`. Before this step the source is the catalog, and after it the target is.
3. One transaction of the target removes the target's mark, and audits the move.

A process that opens a marked database is refused. A repeated move continues at the right step: after step 1 it copies again, because a
registry may have used the source in the meantime, and after step 2 it does step 3.

A target that is not empty must be a catalog that was moved away before, or the result of step 1, and its audit must be the begin of the
source's audit. The catalog of another deployment is therefore never overwritten.
"""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple

import anyio

from tenantry.clock import Clock, as_text
from tenantry.config import POSTGRES
from tenantry.errors import PersistenceConnectionError, SettingsError, SnapshotError
from tenantry.sql.statements import Fetch, Statement
from tenantry.storage.protocol import Backend, LockTakenError, Store, StoreTransaction
from tenantry.tenancy.catalog import tenant_sql
from tenantry.tenancy.catalog.audit import append, append_if
from tenantry.tenancy.catalog.place import Move, MoveState, moved_error, read_move
from tenantry.tenancy.catalog.rows import SELECT, from_row
from tenantry.tenancy.catalog_move.copying import ReportRows, Rows, copy_rows
from tenantry.tenancy.catalog_move.tables import OWN, TABLES
from tenantry.tenancy.fleet.job import LIVE_STATES

_LOCK: Final = "catalog-move"
_CLEAR_MARK: Final = Statement("catalog_move.mark", "DELETE FROM catalog_move")
_MARK: Final = "INSERT INTO catalog_move (id, move_id, state, backend, place, at) VALUES (1, ?, ?, ?, ?, ?)"
_IS_MARKED: Final = "EXISTS (SELECT 1 FROM catalog_move WHERE move_id = ?)"
_UNDER_WAY: Final = Statement(
    "catalog_move.under_way",
    f"{SELECT} WHERE intent IS NOT NULL OR {tenant_sql.BEGINNING}",
    (),
    Fetch.ALL,
)
_LIVE_JOBS: Final = Statement(
    "catalog_move.live_jobs", "SELECT id FROM fleet_jobs WHERE state IN (?, ?)", LIVE_STATES, Fetch.ALL
)
_STRANDED: Final = Statement(
    "catalog_move.stranded",
    "SELECT count(*) FROM tenants WHERE backend = ? AND (state <> 'purged' OR intent IS NOT NULL)",
    (POSTGRES,),
    Fetch.ONE,
)


class Side(NamedTuple):
    """One of the two databases of a move.

    Attributes:
        backend: The back end, which is open.
        store: The catalog's store, which is connected and migrated.
        place: The place of the database, for people.
    """

    backend: Backend
    store: Store
    place: str


@dataclass(frozen=True, slots=True)
class CatalogMoveReport:
    """The result of a move, or of a dry run.

    Attributes:
        from_backend, to_backend: The names of the back ends.
        from_place, to_place: The places of the two databases, for people.
        rows: The number of rows of each table; empty if the catalog had been copied by an earlier call.
        is_dry_run: Whether the call has only looked, and changed nothing.
        was_done_before: Whether an earlier call had moved the catalog, so that this call had nothing to copy.
    """

    from_backend: str
    to_backend: str
    from_place: str
    to_place: str
    rows: dict[str, int]
    is_dry_run: bool = False
    was_done_before: bool = False


@dataclass(frozen=True, slots=True)
class Observer:
    """The functions that a move calls on its way.

    Attributes:
        report_rows: See `ReportRows`.
        on_step: Takes the name of each finished step: ``copied``, ``arrived``, ``left``, ``confirmed``.
    """

    report_rows: ReportRows = lambda *_: None
    on_step: Callable[[str], None] = lambda _: None


class CatalogMover:
    """Moves a catalog from one database to another.

    Args:
        source: The database that is the catalog.
        target: The database that becomes the catalog.
        clock: The clock for the marks and the audit.
    """

    def __init__(self, source: Side, target: Side, *, clock: Clock, observer: Observer | None = None) -> None:
        self._source = source
        self._target = target
        self._clock = clock
        self._observer = observer or Observer()

    async def move(self, *, by: str | None = None) -> CatalogMoveReport:
        """Move the catalog; see the module. After an error or a cancellation, repeat the call.

        Args:
            by: The principal for the audit; by default the user that the process runs as.

        Raises:
            CatalogMovedError: The source is not the catalog.
            SnapshotError: The target belongs to another deployment, the audit's chain is broken, or the copy differs.
            SettingsError: Tenants would lose their back end.
            PersistenceConnectionError: Another move or an operation is running, or a database cannot be reached.
        """
        async with AsyncExitStack() as stack:
            for side in (self._source, self._target):
                await stack.enter_async_context(_held(side.backend, _LOCK, "another move of the catalog"))
            async with _transaction(self._source.store) as leaving:
                source = Rows(leaving)
                left = await self._move_of_source(source)
                counts: dict[str, int] = {}
                if left is None:
                    await self._check_may_leave(source)
                    move_id, counts = await self._copy(source)
                    await source.write(*self._mark(move_id, MoveState.LEFT, self._target))
                    await leaving.commit()
                    self._observer.on_step("left")
                else:
                    move_id = left.move_id
            await self._confirm(move_id, counts, by)
            self._observer.on_step("confirmed")
        return self._report(counts, was_done_before=left is not None)

    async def look(self, *, is_target_new: bool) -> CatalogMoveReport:
        """Do the checks of `move`, and change nothing. Raises like `move`.

        Args:
            is_target_new: Whether the target has no tables yet. Then its store is not connected.
        """
        async with _transaction(self._source.store) as leaving:
            source = Rows(leaving)
            left = None if is_target_new else await self._move_of_source(source)
            if is_target_new and (move := await read_move(source)) is not None:
                raise moved_error(move)
            counts: dict[str, int] = {}
            if left is None:
                await self._check_may_leave(source)
                counts = {table.name: await source.count(table) for table in TABLES}
                if not is_target_new:
                    async with _transaction(self._target.store) as arriving:
                        await self._check_may_arrive(source, Rows(arriving))
        return self._report(counts, is_dry_run=True, was_done_before=left is not None)

    async def _move_of_source(self, source: Rows) -> Move | None:
        """Return the earlier move to the target that has left the source, or None if the source is the catalog."""
        move = await read_move(source)
        if move is None:
            return None
        async with _transaction(self._target.store) as arriving:
            target = Rows(arriving)
            there = await read_move(target)
            is_here = there is None and await target.has_audit_row(await source.head())
        is_this = is_here or (there is not None and there.move_id == move.move_id)
        if move.state is not MoveState.LEFT or not is_this:
            raise moved_error(move)
        return move

    async def _check_may_leave(self, source: Rows) -> None:
        """Refuse to move a catalog that is in use, or whose tenants would lose their back end."""
        backend = self._source.backend
        for row in await source.read(_UNDER_WAY):
            tenant = from_row(row)
            async with _held(backend, tenant.uid, f"an operation on tenant {tenant.id!r}"):
                pass
        for (job_id,) in await source.read(_LIVE_JOBS):
            async with _held(backend, f"fleet-{job_id}", f"the fleet job {job_id}"):
                pass
        stranded = await source.read(_STRANDED)
        if self._target.backend.name != POSTGRES and stranded is not None and stranded[0]:
            raise SettingsError(
                f"tenants ({stranded[0]}) are in the database of TENANTRY_DATABASE, which will be another database or none after this "
                "move, so nothing was moved: move these tenants first ('tenantry tenant move')"
            )

    async def _check_may_arrive(self, source: Rows, target: Rows) -> None:
        """Refuse a target that belongs to another deployment."""
        move, head = await read_move(target), await target.head()
        is_new = not any([await target.count(table) for table in TABLES if table.name in OWN])
        if is_new or (move is not None and await source.has_audit_row(head)):
            return
        raise SnapshotError(
            f"{self._target.place} has the catalog of another deployment, so nothing was moved: use another database, or drop this "
            "catalog if nobody needs it"
        )

    async def _copy(self, source: Rows) -> tuple[str, dict[str, int]]:
        """Fill the target and mark it; return the move's id and the number of rows of each table."""
        move_id = secrets.token_hex(8)
        async with _transaction(self._target.store) as arriving:
            target = Rows(arriving)
            await self._check_may_arrive(source, target)
            await target.write(*self._mark(move_id, MoveState.ARRIVING, self._source))
            counts = await copy_rows(source, target, self._observer.report_rows)
            self._observer.on_step("copied")
            await arriving.commit()
        self._observer.on_step("arrived")
        return move_id, counts

    def _mark(self, move_id: str, state: MoveState, other: Side) -> tuple[Statement, Statement]:
        row = (move_id, state, other.backend.name, other.place, as_text(self._clock.now()))
        return _CLEAR_MARK, Statement("catalog_move.mark", _MARK, row)

    async def _confirm(self, move_id: str, counts: dict[str, int], by: str | None) -> None:
        """Remove the target's mark, if it still has the mark of this move, and audit the move in the same transaction."""
        detail = {
            "from": self._source.backend.name,
            "to": self._target.backend.name,
            "place": self._target.place,
            "tenants": counts.get("tenants"),
        }
        record = append(
            self._clock,
            "catalog.move",
            tenant_id=None,
            tenant_uid=None,
            outcome="ok",
            detail=detail,
            by=by,
        )
        async with _transaction(self._target.store) as arriving:
            await Rows(arriving).write(
                append_if(_IS_MARKED, (move_id,), record),
                Statement("catalog_move.mark", "DELETE FROM catalog_move WHERE move_id = ?", (move_id,)),
            )
            await arriving.commit()

    def _report(
        self, rows: dict[str, int], *, is_dry_run: bool = False, was_done_before: bool = False
    ) -> CatalogMoveReport:
        return CatalogMoveReport(
            from_backend=self._source.backend.name,
            to_backend=self._target.backend.name,
            from_place=self._source.place,
            to_place=self._target.place,
            rows=rows,
            is_dry_run=is_dry_run,
            was_done_before=was_done_before,
        )


@asynccontextmanager
async def _transaction(store: Store) -> AsyncIterator[StoreTransaction]:
    """Begin a transaction, and roll it back at the end of the block unless the block has committed it."""
    transaction = await store.begin()
    try:
        yield transaction
    finally:
        with anyio.CancelScope(shield=True):
            await transaction.rollback()


@asynccontextmanager
async def _held(backend: Backend, name: str, what: str) -> AsyncIterator[None]:
    """Hold a lock of the back end during the block.

    Raises:
        PersistenceConnectionError: Another process holds the lock.
    """
    try:
        async with backend.lock(name):
            yield
    except LockTakenError as error:
        raise PersistenceConnectionError(
            f"{what} is running in another process, so nothing was moved: stop every process that uses the catalog, then try again"
        ) from error
