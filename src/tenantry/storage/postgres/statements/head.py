"""The statements at the beginning of every transaction.

A write transaction begins with the settings, and with the guard, which also leaves the batch's mark::

    WITH owner AS (SELECT … FOR UPDATE), mark AS (INSERT … ON CONFLICT … RETURNING 1)
    SELECT 1 / (… both have a row …)

The guard locks the owner's row and compares the epoch. If another owner has raised the epoch, the division by zero fails the whole
transaction on the server: statements that are already on their way cannot run any more. The mark must rise, so a batch of a lost
connection that arrives late, after the store has looked for its mark, fails too.

Citus refuses an INSERT beside subqueries. There the guard and the mark are two statements, and each fails the transaction by itself.

READ COMMITTED is required. Each statement after the guard then sees what the last holder of the lock has committed.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from tenantry.storage.postgres.connections.pipeline import Pipeline
from tenantry.storage.postgres.owner import Owner
from tenantry.storage.postgres.quoting import literal

_GUARD: Final = b"""
WITH owner AS (SELECT FROM tenantry_owner WHERE tenant_uid = $1 AND epoch = $2 FOR UPDATE),
mark AS (
    INSERT INTO tenantry_batches AS b (writer, batch, since, kept, at) VALUES ($3, $4, $5, $6, now())
    ON CONFLICT (writer) DO UPDATE SET
        batch = excluded.batch, since = excluded.since, at = excluded.at,
        kept = CASE WHEN b.since = excluded.since THEN b.kept | excluded.kept ELSE excluded.kept END
    WHERE b.batch < excluded.batch
    RETURNING 1
)
SELECT 1 / ((SELECT count(*) FROM owner) * (SELECT count(*) FROM mark))
"""
_GUARD_ALONE: Final = b"""
SELECT 1 / count(*) FROM (SELECT 1 FROM tenantry_owner WHERE tenant_uid = $1 AND epoch = $2 FOR UPDATE) AS owner
"""
# A mark that does not rise divides by zero.
_MARK_ALONE: Final = b"""
INSERT INTO tenantry_batches AS b (writer, batch, since, kept, at) VALUES ($1, $2, $3, $4, now())
ON CONFLICT (writer) DO UPDATE SET
    batch = excluded.batch / (b.batch < excluded.batch)::integer, since = excluded.since, at = excluded.at,
    kept = CASE WHEN b.since = excluded.since THEN b.kept | excluded.kept ELSE excluded.kept END
"""
LOCK_WAIT_SECONDS_MAX: Final = 1.0
"""The longest wait of a statement for a lock. Then the batch goes back into the line, so that its connection is free."""


def session_settings(statement_seconds_max: float) -> dict[str, str]:
    """Return the server's settings for each connection of the pool, on which the stores depend.

    Args:
        statement_seconds_max: The time after which the server ends a statement that nobody waits for any more.
    """
    return {
        "lock_timeout": _milliseconds(LOCK_WAIT_SECONDS_MAX),
        "statement_timeout": _milliseconds(statement_seconds_max),
        # The texts of the values in results depend on these settings.
        "TimeZone": "UTC",
        "DateStyle": "ISO",
        "IntervalStyle": "postgres",
        "bytea_output": "hex",
        "extra_float_digits": "1",
    }


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


class Mark(NamedTuple):
    """The mark that a transaction leaves.

    Attributes:
        number: The number of the batch, which rises with each transaction of the store.
        since: The number of the first of the transactions that run together.
    """

    number: int
    since: int

    @property
    def bit(self) -> int:
        """The bit of the transaction among those that run together."""
        return 1 << (self.number - self.since)


class Head:
    """Sends the statements at the beginning of the transactions of one store.

    Args:
        owner: The tenant and its schema.
        writer: The store's name in its marks.
        settings: The settings that each transaction makes. Behind a pooler, which keeps no settings for a connection, these are the
            `session_settings`, and otherwise none.
        role: The role of the tenant's statements; None for the connection's own role.
        is_sharded: Whether Citus keeps the schema on one of several nodes.

    Attributes:
        writer: The store's name in its marks.
        epoch: The epoch that the store has read.
        is_durable: Whether commits wait until they are on the disk.
        guarded_commands: The number of commands that `begin_write` sends.
    """

    def __init__(
        self,
        owner: Owner,
        writer: str,
        *,
        settings: Mapping[str, str],
        role: str | None = None,
        is_sharded: bool = False,
    ) -> None:
        self._path = owner.path
        self._uid = owner.uid.encode()
        self.writer = writer.encode()
        self.epoch = 0
        self.is_durable = True
        self.guarded_commands = 3 if is_sharded else 2
        self._is_sharded = is_sharded
        made = dict(settings)
        if role is not None:
            made["role"] = role
        self._write = _setting(made)
        self._write_fast = _setting(made | {"synchronous_commit": "off"})
        self._read = _setting(made | {"transaction_read_only": "on"})

    def is_owner(self, rows: Sequence[tuple[object, ...]]) -> bool:
        """Return whether the owner's row, as uid and epoch, is the store's."""
        return rows == [(self._uid.decode(), self.epoch)]

    def begin_read(self, pipeline: Pipeline) -> None:
        """Send the settings of a read-only transaction: one command."""
        pipeline.send_path(self._read, self._path)

    def begin_write(self, pipeline: Pipeline, mark: Mark, *, is_durable: bool = True) -> None:
        """Send the settings of a write transaction, and the guard with the mark: `guarded_commands` commands.

        Args:
            pipeline: The connection.
            mark: The mark of the transaction.
            is_durable: Whether the commit waits until it is on the disk, if the store's commits do.
        """
        self.set(pipeline, is_durable=is_durable)
        owned = [self._uid, b"%d" % self.epoch]
        marked = [self.writer, *(b"%d" % number for number in (mark.number, mark.since, mark.bit))]
        if self._is_sharded:
            pipeline.send(_GUARD_ALONE, owned)
            pipeline.send(_MARK_ALONE, marked)
        else:
            pipeline.send(_GUARD, owned + marked)

    def set(self, pipeline: Pipeline, *, is_durable: bool = True) -> None:
        """Send only the settings of a write transaction: one command."""
        pipeline.send_path(self._write if is_durable and self.is_durable else self._write_fast, self._path)


def _setting(settings: Mapping[str, str]) -> bytes:
    made = "".join(f", set_config('{name}', {literal(value)}, true)" for name, value in settings.items())
    return f"SELECT set_config('search_path', $1, true){made}".encode()
