"""The owner's row of a tenant's schema: lock, fence and identity, and the creation of a schema with tenantry's own tables.

Every write transaction locks the row and compares its epoch, so the row puts the batches of all processes in one order. An operation
that must keep others out raises the epoch. Every process that had the tenant open before fails at its next write.

An operation also holds the tenant's lock (`locks`) as long as it runs. A store holds the same lock, shared, only while it reads the
epoch. So a store cannot connect in the middle of an operation.
"""

from typing import Final, NamedTuple

from tenantry.errors import DatabaseCorruptError, TenantOwnedElsewhereError
from tenantry.storage.postgres import citus
from tenantry.storage.postgres.connections.errors import SCHEMA_MISSING, code_of, map_error
from tenantry.storage.postgres.connections.locks import tenant_key
from tenantry.storage.postgres.connections.pipeline import OK, Pipeline, first_failure
from tenantry.storage.postgres.migrations import migrator
from tenantry.storage.postgres.quoting import quoted
from tenantry.storage.postgres.statements.values import load_rows
from tenantry.storage.protocol import DatabaseMissingError

MARKS_KEPT_DAYS: Final = 1
"""The age at which a connecting store removes the marks of other stores. A mark is needed only seconds after its batch."""

# Columns of a bounded length need no table for large values, so an empty tenant has fewer files.
CONTROL_TABLES: Final = (
    """
CREATE TABLE tenantry_owner (
    id         smallint PRIMARY KEY CHECK (id = 1),
    tenant_uid varchar(64) COLLATE "C" NOT NULL,  -- the tenant's key in the catalog, which detects a schema in the wrong place
    epoch      bigint NOT NULL                    -- raised by every operation that must keep others out
) WITH (fillfactor = 50)
""",
    """
CREATE TABLE tenantry_batches (
    writer varchar(64) COLLATE "C" PRIMARY KEY,  -- the store that wrote
    batch  bigint NOT NULL,                      -- the number of its last batch
    since  bigint NOT NULL,                      -- the number of the first batch that `kept` tells of
    kept   bigint NOT NULL,                      -- one bit for each committed batch from `since` on
    at     timestamptz NOT NULL
) WITH (fillfactor = 50)
""",
    """
CREATE TABLE tenantry_idempotency (
    key          varchar(1000) COLLATE "C" PRIMARY KEY,
    payload_hash bytea NOT NULL,
    results      text COLLATE "C" NOT NULL,  -- JSON, one for each statement of the unit
    created_at   timestamptz NOT NULL
)
""",
    "CREATE INDEX tenantry_idempotency_created ON tenantry_idempotency (created_at)",
    migrator.CREATE_SQL,
)
"""The statements that create tenantry's own tables in the schema that ``search_path`` names first."""

_INSERT_OWNER: Final = b"INSERT INTO tenantry_owner (id, tenant_uid, epoch) VALUES (1, $1, $2)"
_SHARE_LOCK: Final = b"SELECT pg_try_advisory_xact_lock_shared($1)"
_SET_PATH: Final = b"SELECT set_config('search_path', $1, true)"
_EXISTED: Final = frozenset(
    ["42P06", "23505"]
)  # duplicate_schema, or a unique key of the server's catalog if both create it at once
FIRST_EPOCH: Final = 1
"""The epoch of a new schema."""


class Owner(NamedTuple):
    """The tenant to which a schema belongs.

    Attributes:
        schema: The schema's name.
        uid: The tenant's permanent key.
        tenant_id: The tenant's id, for messages; None for the catalog.
    """

    schema: str
    uid: str
    tenant_id: str | None

    @property
    def path(self) -> bytes:
        """The value of ``search_path`` that contains only the schema.

        The connection's temporary tables come last, because they would come first if the value did not name them.
        """
        return f"{quoted(self.schema)}, pg_temp".encode()

    def taken_over(self, why: str) -> TenantOwnedElsewhereError:
        """Return the error of a store that may not use the schema any more, or not now."""
        return TenantOwnedElsewhereError(
            f"{self._name}: {why}: try again", tenant_id=self.tenant_id, pid=None, host=None
        )

    def missing(self) -> DatabaseMissingError:
        """Return the error of a store that finds no database in the schema."""
        return DatabaseMissingError(
            f"{self._name}: the schema {self.schema} does not exist, or is not a tenant's: the tenant may have been moved or removed: try "
            "again",
            tenant_id=self.tenant_id,
            pid=None,
            host=None,
        )

    @property
    def _name(self) -> str:
        return f"tenant {self.tenant_id!r}" if self.tenant_id is not None else "the catalog"


def schema_statements(schema: str, *, is_tenant: bool) -> tuple[str, ...]:
    """Return the statements that create a schema with tenantry's tables. The schema must be the first of ``search_path``.

    Args:
        schema: The schema's name.
        is_tenant: Whether the schema is a tenant's, which Citus keeps on one node.
    """
    distributed = (citus.DISTRIBUTE,) if is_tenant else ()
    return (*distributed, f"CREATE SCHEMA {quoted(schema)}", *CONTROL_TABLES)


async def create_schema(owner: Owner, pipeline: Pipeline, timeout_seconds: float) -> None:
    """Create the schema with tenantry's tables and the owner's row in one transaction; a no-op if the schema exists.

    Raises:
        PersistenceError: The server refused to create the schema.
    """
    pipeline.send(_SET_PATH, [owner.path])
    for statement in schema_statements(owner.schema, is_tenant=owner.tenant_id is not None):
        pipeline.send(statement.encode())
    pipeline.send(_INSERT_OWNER, [owner.uid.encode(), b"%d" % FIRST_EPOCH])
    pipeline.sync()
    (results,) = await pipeline.results(timeout_seconds)
    failed = first_failure(results)
    if failed is not None and code_of(failed) not in _EXISTED:
        raise map_error(failed, f"cannot create the schema {owner.schema}")


async def read_epoch(owner: Owner, pipeline: Pipeline, timeout_seconds: float) -> int:
    """Return the epoch of the owner's row, and remove old marks.

    Raises:
        TenantOwnedElsewhereError: An operation of the tenant is running.
        DatabaseMissingError: The schema does not exist, or is not a tenant's.
        DatabaseCorruptError: The schema belongs to another tenant.
        PersistenceError: The server refused the query.
    """
    schema = quoted(owner.schema)
    pipeline.send(_SHARE_LOCK, [b"%d" % tenant_key(owner.uid)])
    # The next statement sees all that was committed before the lock was given.
    pipeline.send(f"SELECT tenant_uid, epoch FROM {schema}.tenantry_owner WHERE id = 1".encode())  # noqa: S608
    pipeline.sync()
    old = f"DELETE FROM {schema}.tenantry_batches WHERE at < now() - interval '{MARKS_KEPT_DAYS} day'"  # noqa: S608
    pipeline.send(old.encode())
    pipeline.sync()
    (locked, found), _ = await pipeline.results(timeout_seconds)
    if locked.status not in OK:
        raise map_error(locked, "cannot lock the tenant")
    if found.status not in OK:
        if code_of(found) in SCHEMA_MISSING:
            raise owner.missing()
        raise map_error(found, f"cannot read the owner of the schema {owner.schema}")
    if load_rows(locked) != [(1,)]:
        raise owner.taken_over("an operation of another process keeps the tenant closed")
    rows = load_rows(found)
    if not rows or rows[0][0] != owner.uid:
        raise DatabaseCorruptError(
            f"the schema {owner.schema} belongs to the tenant with the key {rows[0][0] if rows else None!r} and not to "
            f"{owner.uid!r}: it was not changed; restore a snapshot, or move the right schema to its place"
        )
    epoch: int = rows[0][1]
    return epoch
