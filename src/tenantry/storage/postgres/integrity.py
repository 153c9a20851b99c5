"""Checks a tenant's schema for damage, by reading it.

The server reports a damaged page when it reads the page, if the cluster has checksums. So the quick check reads each table once. The
thorough check also reads the large values outside the tables, and compares each B-tree index with its table if the extension ``amcheck``
is installed in the database and the role may use it (https://www.postgresql.org/docs/current/amcheck.html).
"""

from typing import TYPE_CHECKING, Any, Final

from tenantry.errors import DatabaseCorruptError
from tenantry.storage.postgres.connections.errors import SCHEMA_MISSING, code_of, map_error
from tenantry.storage.postgres.connections.pipeline import Pipeline, first_failure
from tenantry.storage.postgres.owner import Owner
from tenantry.storage.postgres.statements.head import Head
from tenantry.storage.postgres.statements.values import load_rows

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

TABLES: Final = b"""
SELECT c.oid::regclass::text FROM pg_class AS c
WHERE c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'tenantry_owner'::regclass) AND c.relkind = 'r'
ORDER BY c.relname
"""
INDEXES: Final = b"""
SELECT c.oid::bigint, f.pronamespace::regnamespace::text
FROM pg_extension AS e
JOIN pg_proc AS f ON f.pronamespace = e.extnamespace AND f.proname = 'bt_index_check' AND f.pronargs = 2
CROSS JOIN pg_class AS c
JOIN pg_am AS a ON a.oid = c.relam AND a.amname = 'btree'
JOIN pg_index AS i ON i.indexrelid = c.oid AND i.indisvalid
WHERE e.extname = 'amcheck' AND has_function_privilege(f.oid, 'EXECUTE') AND c.relkind = 'i'
    AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'tenantry_owner'::regclass)
ORDER BY c.oid
"""
# The timeouts of statements are for calls, and an index could answer a count without reading the table.
SETTINGS: Final = b"""
SELECT set_config('statement_timeout', '0', true), set_config('enable_indexonlyscan', 'off', true),
    set_config('enable_indexscan', 'off', true), set_config('enable_bitmapscan', 'off', true)
"""


async def check(
    owner: Owner, head: Head, pipeline: Pipeline, *, is_thorough: bool, step_seconds_max: float
) -> None:
    """Read all tables of the schema. Cancellation interrupts the check.

    Args:
        owner: The tenant.
        head: The statements at the beginning of a transaction.
        pipeline: A connection.
        is_thorough: Whether to read large values, and to compare indexes with their tables.
        step_seconds_max: The longest time for one table or index.

    Raises:
        DatabaseCorruptError: A table or an index is damaged.
        TenantOwnedElsewhereError: The schema does not exist any more.
        PersistenceError: The check failed for another reason.
    """
    tables = await _ask(owner, head, pipeline, TABLES, step_seconds_max)
    indexes = await _ask(owner, head, pipeline, INDEXES, step_seconds_max) if is_thorough else []
    for (table,) in tables:
        read = reading(table, is_thorough=is_thorough)
        await _ask(owner, head, pipeline, read, step_seconds_max)
    for index, namespace in indexes:
        await _ask(owner, head, pipeline, comparing(index, namespace), step_seconds_max)


def reading(table: str, *, is_thorough: bool) -> bytes:
    """Return the statement that reads a table from `TABLES`; a thorough one reads the large values, too."""
    read = "sum(octet_length(t::text))" if is_thorough else "count(*)"
    return f"SELECT {read} FROM ONLY {table} AS t".encode()  # noqa: S608  # the server has quoted the name


def comparing(index: int, namespace: str) -> bytes:
    """Return the statement that compares an index from `INDEXES` with its table."""
    return f"SELECT {namespace}.bt_index_check({index:d}::regclass, true)".encode()


async def _ask(
    owner: Owner, head: Head, pipeline: Pipeline, sql: bytes, seconds_max: float
) -> list[tuple[Any, ...]]:
    head.begin_read(pipeline)
    pipeline.send(SETTINGS)
    pipeline.send(sql)
    pipeline.sync()
    (results,) = await pipeline.results(seconds_max)
    failed = first_failure(results)
    if failed is None:
        return load_rows(results[-1])
    raise _failure(owner, failed)


def _failure(owner: Owner, failed: "PGresult") -> Exception:
    if code_of(failed) in SCHEMA_MISSING:
        return owner.taken_over(f"the schema {owner.schema} was removed or replaced during the check")
    error = map_error(failed, f"the check of the schema {owner.schema} failed")
    if isinstance(error, DatabaseCorruptError):
        error.args = (f"{error}: restore a snapshot",)
    return error
