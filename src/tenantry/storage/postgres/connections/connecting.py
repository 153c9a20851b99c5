"""Opens one connection to the server, within a deadline, checks its session, and translates libpq's error."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import psycopg
from psycopg.conninfo import make_conninfo

from tenantry.errors import DatabaseServerError, PersistenceConnectionError
from tenantry.postgres_config import PostgresConfig, sentence_without_url
from tenantry.storage.postgres.connections.errors import code_of
from tenantry.storage.postgres.connections.forked import disconnect_in_children
from tenantry.storage.postgres.connections.pipeline import OK, Pipeline
from tenantry.storage.postgres.connections.settings import host_count

POOLER_NOT_NAMED: Final = (
    "a pooler in transaction mode is in front of it, which prepared statements do not survive: add tenantry_pooled=true to the URL, or "
    "connect to the server itself"
)

_HOST_SECONDS_MIN: Final = 2  # libpq's own minimum
# A statement with the name exists already, or none: another client has used the server's process.
_OF_ANOTHER_SESSION: Final = frozenset(["26000", "42P05"])
_SESSION: Final = (
    b"SELECT current_setting('default_transaction_isolation'), current_setting('synchronous_commit')"
)


async def connect(config: PostgresConfig, parameters: Mapping[str, str], timeout_seconds: float) -> Pipeline:
    """Open a connection. Of several hosts each gets an equal part of the time, so that one that never answers leaves time for the next.

    Args:
        config: The settings of the database.
        parameters: The parameters from `connection_parameters`.
        timeout_seconds: The longest time for all hosts.

    Raises:
        PersistenceConnectionError: No host accepts the connection. The message has the server's answer and no secret.
        DatabaseServerError: New sessions have a setting that would lose writes or their order.
    """
    async with _timeout(config, timeout_seconds):
        connection = await _open(config, parameters, timeout_seconds)
        pipeline = Pipeline(connection, is_prepared=not config.is_pooled)
        try:
            await _check_session(config, pipeline, timeout_seconds)
        except BaseException:
            pipeline.close()
            raise
        return pipeline


def unusable_error(config: PostgresConfig, sentence: str, code: str | None = None) -> DatabaseServerError:
    """Return the error for a database that cannot be used as it is."""
    address = str(config.address)
    return DatabaseServerError(
        f"the database {address} cannot be used: {sentence}", address=address, code=code
    )


@asynccontextmanager
async def _timeout(config: PostgresConfig, timeout_seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout_seconds):
            yield
    except TimeoutError:
        raise PersistenceConnectionError(
            f"cannot connect to the database {config.address}: no answer within {timeout_seconds:g} s; check the host and the "
            "port, and that no firewall is between"
        ) from None


async def _open(
    config: PostgresConfig, parameters: Mapping[str, str], timeout_seconds: float
) -> psycopg.AsyncConnection:
    host_seconds = max(_HOST_SECONDS_MIN, int(timeout_seconds / host_count(parameters)))
    if "connect_timeout" in parameters:
        host_seconds = min(host_seconds, int(parameters["connect_timeout"]) or host_seconds)
    given = make_conninfo(**{**parameters, "connect_timeout": str(host_seconds)})
    try:
        # Without these two parameters psycopg would begin transactions and prepare statements on its own.
        connection = await psycopg.AsyncConnection.connect(given, autocommit=True, prepare_threshold=None)
    except psycopg.Error as error:
        # The chain would show the parameters in a debugger's traceback, and says nothing more than the message.
        raise PersistenceConnectionError(
            f"cannot connect to the database {config.address}: {sentence_without_url(config, str(error))}{_advice(error)}",
            code=error.sqlstate,
        ) from None
    disconnect_in_children(connection)
    return connection


async def _check_session(config: PostgresConfig, pipeline: Pipeline, timeout_seconds: float) -> None:
    """Raise `DatabaseServerError` unless new transactions are READ COMMITTED and their commits are durable."""
    pipeline.send(_SESSION)
    pipeline.sync()
    ((result,),) = await pipeline.results(timeout_seconds)
    if result.status not in OK:
        code = code_of(result)
        if code in _OF_ANOTHER_SESSION:
            raise unusable_error(config, POOLER_NOT_NAMED, code)
        message = sentence_without_url(config, (result.error_message or b"").decode(errors="replace"))
        raise PersistenceConnectionError(
            f"cannot connect to the database {config.address}: {message}", code=code
        )
    isolation, commit = ((result.get_value(0, column) or b"").decode() for column in range(2))
    if isolation != "read committed":
        raise unusable_error(
            config,
            f"its default_transaction_isolation is {isolation!r}, and the order of writes needs 'read committed': ALTER ROLE … SET "
            "default_transaction_isolation = 'read committed'",
        )
    if commit == "off":
        raise unusable_error(
            config,
            "its synchronous_commit is off, so a crash of the server would lose acknowledged writes: ALTER ROLE … SET "
            "synchronous_commit = on; a tenant that may lose its last writes has the setting durability for that",
        )


def _advice(error: psycopg.Error) -> str:
    """Return what to change, as far as libpq's message does not say it."""
    pgconn = error.pgconn
    if pgconn is not None and (pgconn.needs_password or pgconn.used_password):
        return "; check the role, the password and the database's name in the URL"
    text = str(error).lower()
    if "unsupported startup parameter" in text:
        return "; a pooler is in front of the database: add tenantry_pooled=true to the URL"
    if "session is read-only" in text or "hot standby" in text:
        return (
            "; tenantry needs to write: name the primary's host, or, if this is the primary, ALTER DATABASE … SET "
            "default_transaction_read_only = off"
        )
    if "certificate" in text or "ssl" in text:
        return (
            "; the server's certificate is checked unless the URL says otherwise: name the file of its authority in "
            "sslrootcert=…, or add sslmode=require (encrypted and not checked) or sslmode=disable"
        )
    return ""
