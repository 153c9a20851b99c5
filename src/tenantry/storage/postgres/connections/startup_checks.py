"""Checks at the start whether the server, the database, the role and a pooler keep what tenantry promises.

Each check that fails raises `DatabaseServerError` with a message that says what to change. Nothing of a tenant is read. The settings that
a role or a database may get later, for new sessions, are checked for each connection (`connecting`).

The schema ``tenantry_database`` has one row with the version of the layout: how tenants are laid out in schemas, and tenantry's own tables
in them. A database of a newer layout is refused, so a downgrade cannot write into schemas that it does not understand.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from tenantry.errors import DatabaseServerError, PersistenceConnectionError
from tenantry.eventlog import EventLog
from tenantry.postgres_config import PostgresConfig, sentence_without_url
from tenantry.storage.postgres.connections.connecting import POOLER_NOT_NAMED, unusable_error
from tenantry.storage.postgres.connections.errors import code_of
from tenantry.storage.postgres.connections.pipeline import OK, Pipeline
from tenantry.storage.postgres.connections.pool import ConnectionPool

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

LAYOUT_VERSION: Final = 1
"""The layout of tenants in a database. It rises with a change that an older tenantry does not understand."""

SERVER_VERSION_MIN: Final = 150000
"""PostgreSQL 15, as ``server_version_num``."""

SERVER_NOT_DURABLE: Final = "tenantry.postgres.not_durable"
SERVER_CHECKED: Final = "tenantry.postgres.checked"

_FACTS: Final = b"""
SELECT current_setting('server_version_num'), current_setting('server_version'), current_setting('server_encoding'),
    current_setting('fsync', true), current_setting('full_page_writes', true), current_setting('transaction_read_only'),
    has_database_privilege(current_database(), 'CREATE')::int,
    (SELECT (rolsuper OR rolcreaterole)::int FROM pg_catalog.pg_roles WHERE rolname = current_user),
    pg_backend_pid(), (SELECT count(*) FROM pg_catalog.pg_extension WHERE extname = 'citus')
"""
_PID: Final = b"SELECT pg_backend_pid()"
_MAKE_LAYOUT: Final = (
    b"CREATE SCHEMA tenantry_database",
    b"""
CREATE TABLE tenantry_database.layout (
    id smallint PRIMARY KEY CHECK (id = 1), version integer NOT NULL, made_at timestamptz NOT NULL DEFAULT now()
)
""",
    b"INSERT INTO tenantry_database.layout (id, version) VALUES (1, %d)" % LAYOUT_VERSION,
)
_READ_LAYOUT: Final = b"SELECT version FROM tenantry_database.layout WHERE id = 1"
_NO_TABLE: Final = frozenset(["42P01", "3F000"])
_MADE_BY_ANOTHER: Final = frozenset(["42P06", "42P07", "23505"])
_UNDEFINED_COLUMN: Final = "42703"
_NOT_PERMITTED: Final = "42501"


class ServerFacts(NamedTuple):
    """What a server says about itself and about the role of the connection.

    Attributes:
        version_number: ``server_version_num``.
        version: The version as a text, such as ``18.4 (Debian 18.4-1)``.
        encoding: The database's encoding.
        fsync: ``on`` or ``off``; None if the server has no such setting.
        full_page_writes: ``on`` or ``off``; None if the server has no such setting.
        read_only: ``on`` if the server is a replica, or new transactions may not write.
        can_create: Whether the role may create schemas in the database.
        can_create_roles: Whether the role may create roles.
        backend_pid: The id of the server's process.
        has_citus: Whether the database has the extension Citus, see `tenantry.storage.postgres.citus`.
    """

    version_number: int
    version: str
    encoding: str
    fsync: str | None
    full_page_writes: str | None
    read_only: str
    can_create: bool
    can_create_roles: bool
    backend_pid: int
    has_citus: bool


async def check_database(
    pool: ConnectionPool, config: PostgresConfig, *, log: EventLog, timeout_seconds: float
) -> ServerFacts:
    """Check the server and the database, and make the row of the layout in a new database.

    Args:
        pool: The connections to the database. An attempt to connect that fails is not repeated.
        config: The settings of the database.
        log: The event log.
        timeout_seconds: The longest time of each step.

    Raises:
        PersistenceConnectionError: The server cannot be reached, or refuses the role.
        DatabaseServerError: The server, the database, the role or a pooler cannot be used as it is.
    """
    checked = _Checked(pool, config, timeout_seconds)
    async with checked.connection() as pipeline:
        facts = await checked.facts(pipeline)
        if found := objections(facts, roles=config.roles):
            raise checked.error(found[0])
        await checked.transactions(pipeline)
        if not config.is_pooled and pipeline.backend_pid != facts.backend_pid:
            await checked.pooler(pipeline, facts.backend_pid)
        await checked.layout(pipeline)
    for setting in ("fsync", "full_page_writes"):
        if getattr(facts, setting) == "off":
            log.warning(SERVER_NOT_DURABLE, address=str(config.address), setting=setting)
    log.info(SERVER_CHECKED, address=str(config.address), version=facts.version, is_pooled=config.is_pooled)
    return facts


def objections(facts: ServerFacts, *, roles: bool) -> Sequence[str]:
    """Return what is wrong with a server, and what to change, the most important first."""
    return [
        sentence
        for is_wrong, sentence in (
            (
                facts.version_number < SERVER_VERSION_MIN,
                f"the server is PostgreSQL {facts.version}: tenantry needs {SERVER_VERSION_MIN // 10_000} or newer",
            ),
            (
                facts.encoding != "UTF8",
                f"its encoding is {facts.encoding}: create a database with ENCODING 'UTF8'",
            ),
            (
                facts.read_only == "on",
                "it is read-only: name the primary's host, or ALTER DATABASE … SET default_transaction_read_only = off",
            ),
            (
                not facts.can_create,
                "the role may not create schemas in it: GRANT CREATE ON DATABASE … TO the role",
            ),
            (
                roles and not facts.can_create_roles,
                "the role may not create roles, which tenantry_roles=true needs: ALTER ROLE … CREATEROLE, or leave the option out",
            ),
        )
        if is_wrong
    ]


class _Checked:
    """The checks of one database that ask the server.

    Args:
        pool: The connections.
        config: The settings of the database.
        timeout_seconds: The longest time of each step.
    """

    def __init__(self, pool: ConnectionPool, config: PostgresConfig, timeout_seconds: float) -> None:
        self._pool = pool
        self._config = config
        self._timeout_seconds = timeout_seconds

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Pipeline]:
        """Give a connection."""
        async with self._pool.connection(timeout_seconds=self._timeout_seconds, is_retried=False) as pipeline:
            yield pipeline

    def error(self, sentence: str, code: str | None = None) -> DatabaseServerError:
        """Return the error for the database."""
        return unusable_error(self._config, sentence, code)

    async def facts(self, pipeline: Pipeline) -> ServerFacts:
        """Return what the server says about itself."""
        (result,) = await self._run(pipeline, _FACTS)
        if result.status not in OK:
            raise self._refused(result)
        texts = [_text(result, column) for column in range(result.nfields)]
        number, version, encoding, fsync, pages, read_only, creates, roles, pid, citus = texts
        return ServerFacts(
            version_number=int(number or 0),
            version=version or "",
            encoding=encoding or "",
            fsync=fsync,
            full_page_writes=pages,
            read_only=read_only or "",
            can_create=creates == "1",
            can_create_roles=roles == "1",
            backend_pid=int(pid or 0),
            has_citus=citus == "1",
        )

    async def transactions(self, pipeline: Pipeline) -> None:
        """Raise an error if a pooler gives each statement to another connection of the server."""
        try:
            (began,) = await self._run(pipeline, b"BEGIN")
            (ended,) = await self._run(pipeline, b"COMMIT")
        except PersistenceConnectionError as error:
            raise self.error(
                f"it ended the connection at the start of a transaction ({error}){_STATEMENT_MODE}"
            ) from None
        if began.status not in OK or ended.status not in OK:
            raise self.error(f"it refuses transactions{_STATEMENT_MODE}")

    async def pooler(self, pipeline: Pipeline, backend_pid: int) -> None:
        """Raise an error if two clients share the server's processes, so that nothing that a session prepares is certain.

        The process id that a pooler reports when a client connects is its own invention.
        """
        async with self.connection() as other:
            await self._run(other, b"BEGIN")
            (taken,) = await self._run(other, _PID)
            (again,) = await self._run(pipeline, _PID)
            await self._run(other, b"ROLLBACK")
        if int(_text(taken, 0) or 0) == backend_pid or int(_text(again, 0) or 0) != backend_pid:
            raise self.error(POOLER_NOT_NAMED)

    async def layout(self, pipeline: Pipeline) -> None:
        """Read the version of the layout, or write it into a new database."""
        (result,) = await self._run(pipeline, _READ_LAYOUT)
        if code_of(result) in _NO_TABLE:
            *_, made = await self._run(pipeline, *_MAKE_LAYOUT)
            if made.status not in OK and code_of(made) not in _MADE_BY_ANOTHER:
                raise self._refused(made)
            (result,) = await self._run(pipeline, _READ_LAYOUT)
        if code_of(result) in _NO_TABLE or code_of(result) == _UNDEFINED_COLUMN:
            raise self.error(
                "it has a schema tenantry_database that tenantry did not make: use another database, or rename that schema",
                code_of(result),
            )
        if code_of(result) == _NOT_PERMITTED:
            raise self.error(
                "the role may not read the schema tenantry_database: connect with the role that tenantry used before, or give the "
                "role its rights",
                code_of(result),
            )
        if result.status not in OK:
            raise self._refused(result)
        version = int(_text(result, 0) or 0) if result.ntuples else 0
        if version > LAYOUT_VERSION:
            raise self.error(
                f"a newer tenantry laid it out (version {version}, and this one knows {LAYOUT_VERSION}): deploy the newer version"
            )
        if version != LAYOUT_VERSION:
            raise self.error("its table tenantry_database.layout has no valid row: restore the database")

    async def _run(self, pipeline: Pipeline, *statements: bytes) -> Sequence["PGresult"]:
        """Run the statements in one transaction; the first failed result is the last one that is returned."""
        for statement in statements:
            pipeline.send(statement)
        pipeline.sync()
        (results,) = await pipeline.results(self._timeout_seconds)
        failed = next((place for place, one in enumerate(results) if one.status not in OK), len(results))
        return results[: failed + 1]

    def _refused(self, result: "PGresult") -> DatabaseServerError:
        message = (result.error_message or b"").decode(errors="replace")
        return self.error(f"it answered: {sentence_without_url(self._config, message)}", code_of(result))


_STATEMENT_MODE: Final = ": is a pooler in statement mode in front of it? Transactions need transaction mode (PgBouncer: pool_mode = transaction)"


def _text(result: "PGresult", column: int) -> str | None:
    value = result.get_value(0, column)
    return None if value is None else value.decode()
