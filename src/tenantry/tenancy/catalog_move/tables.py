"""The tables of the catalog that a move copies.

Two tables are not copied, because triggers fill them: ``tenant_states`` and ``admin_audit_head``. A test compares this list with the
tables that the migrations create.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from tenantry.sql.repository import placeholders
from tenantry.sql.statements import Fetch, Statement, TupleRow
from tenantry.tenancy.catalog.rows import COLUMNS


class Table(NamedTuple):
    """A table to copy.

    Attributes:
        name: The table's name.
        key: The columns of the primary key.
        others: The other columns.
    """

    name: str
    key: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns, the key first."""
        return (*self.key, *self.others)

    def key_of(self, row: TupleRow) -> TupleRow:
        """Return a row's primary key."""
        return row[: len(self.key)]

    def page(self, after: TupleRow | None, count: int) -> Statement[list[TupleRow]]:
        """Return the statement that reads the next rows in the order of the primary key."""
        key = ", ".join(self.key)
        where = "" if after is None else f"WHERE ({key}) > ({placeholders(after)})"
        sql = f"SELECT {', '.join(self.columns)} FROM {self.name} {where} ORDER BY {key} LIMIT ?"  # noqa: S608  # our names
        return Statement("catalog_move.read", sql, (*(after or ()), count), Fetch.ALL)

    def insert(self, rows: Sequence[TupleRow]) -> Statement[None]:
        """Return the statement that adds rows. One statement adds many, because some triggers run once for each statement."""
        places = ", ".join([f"({placeholders(self.columns)})"] * len(rows))
        sql = f"INSERT INTO {self.name} ({', '.join(self.columns)}) VALUES {places}"  # noqa: S608  # our names
        return Statement("catalog_move.insert", sql, [value for row in rows for value in row])

    def clear(self) -> Statement[None]:
        """Return the statement that removes all rows."""
        return Statement("catalog_move.clear", f"DELETE FROM {self.name}")  # noqa: S608  # our names

    def count_rows(self) -> Statement[TupleRow | None]:
        """Return the statement that counts the rows."""
        return Statement("catalog_move.count", f"SELECT count(*) FROM {self.name}", (), Fetch.ONE)  # noqa: S608  # our names


AUDIT: Final = Table(
    "admin_audit",
    ("seq",),
    ("at", "actor", "action", "tenant_id", "tenant_uid", "outcome", "detail", "previous_hash", "hash"),
)
"""The audit, to which rows can only be appended."""

REPLACED: Final = (
    Table("tenants", ("uid",), tuple(name for name in COLUMNS if name != "uid")),
    Table("schemas", ("name",), ("recorded_at",)),
    Table("clock", ("id",), ("seen_at", "steady_since")),
    Table("service_secrets", ("name",), ("value",)),
    Table(
        "api_keys",
        ("id",),
        ("name", "hash", "scopes", "tenants", "created_at", "created_by", "expires_at", "revoked_at"),
    ),
    Table(
        "idempotent_requests",
        ("key_id", "key"),
        ("request_hash", "created_at", "status", "headers", "body"),
    ),
    Table(
        "fleet_jobs",
        ("id",),
        (
            *("kind", "options", "state", "reason", "created_by", "created_at", "begun_at"),
            *("state_changed_at", "finished_before", "failures_accepted"),
        ),
    ),
    Table("fleet_waves", ("job_id", "wave"), ("total", "ok", "skipped", "failed")),
    Table(
        "fleet_results",
        ("job_id", "wave", "position"),
        ("tenant_uid", "tenant_id", "outcome", "error", "detail", "seconds", "finished_at"),
    ),
)
"""The other tables, whose rows a copy replaces. A table comes after the tables that it refers to."""

TABLES: Final = (*REPLACED, AUDIT)

OWN: Final = ("tenants", "api_keys", "fleet_jobs", "admin_audit")
"""A catalog in which these tables are empty is new, even if a registry has opened it."""
