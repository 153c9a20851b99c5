"""Opens one connection to the server, within a deadline, and translates libpq's error."""

import asyncio
from collections.abc import Mapping
from typing import Final

import psycopg
from psycopg.conninfo import make_conninfo

from tenantry.errors import PersistenceConnectionError
from tenantry.postgres_config import PostgresConfig, sentence_without_url
from tenantry.storage.postgres.pipeline import Pipeline
from tenantry.storage.postgres.settings import host_count

_HOST_SECONDS_MIN: Final = 2  # libpq's own minimum


async def connect(config: PostgresConfig, parameters: Mapping[str, str], timeout_seconds: float) -> Pipeline:
    """Open a connection. Of several hosts each gets an equal part of the time, so that one that never answers leaves time for the next.

    Args:
        config: The settings of the database.
        parameters: The parameters from `connection_parameters`.
        timeout_seconds: The longest time for all hosts.

    Raises:
        PersistenceConnectionError: No host accepts the connection. The message has the server's answer and no secret.
    """
    host_seconds = max(_HOST_SECONDS_MIN, int(timeout_seconds / host_count(parameters)))
    if "connect_timeout" in parameters:
        host_seconds = min(host_seconds, int(parameters["connect_timeout"]) or host_seconds)
    given = make_conninfo(**{**parameters, "connect_timeout": str(host_seconds)})
    try:
        async with asyncio.timeout(timeout_seconds):
            # Without these two parameters psycopg would begin transactions and prepare statements on its own.
            connection = await psycopg.AsyncConnection.connect(given, autocommit=True, prepare_threshold=None)
    except TimeoutError:
        raise PersistenceConnectionError(
            f"cannot connect to the database {config.address}: no answer within {timeout_seconds:g} s; check the host and the "
            "port, and that no firewall is between"
        ) from None
    except psycopg.Error as error:
        # The chain would show the parameters in a debugger's traceback, and says nothing more than the message.
        raise PersistenceConnectionError(
            f"cannot connect to the database {config.address}: {sentence_without_url(config, str(error))}{_advice(error)}",
            code=error.sqlstate,
        ) from None
    return Pipeline(connection, is_prepared=not config.is_pooled)


def _advice(error: psycopg.Error) -> str:
    """Return what to change, as far as libpq's message does not say it."""
    pgconn = error.pgconn
    if pgconn is not None and (pgconn.needs_password or pgconn.used_password):
        return "; check the role, the password and the database's name in the URL"
    text = str(error).lower()
    if "certificate" in text or "ssl" in text:
        return (
            "; the server's certificate is checked unless the URL says otherwise: name the file of its authority in "
            "sslrootcert=…, or add sslmode=require (encrypted and not checked) or sslmode=disable"
        )
    return ""
