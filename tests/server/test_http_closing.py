"""How connections of the HTTP server end: none keeps it, and nothing that was answered is lost."""

import asyncio

import pytest

from http_servers import GET, LARGE_BYTES, LAST_GET, Running, answer_much, answer_ok, running
from tenantry.server.http_connection import TimeoutConnection
from tenantry.server.limits import ServerLimits
from tenantry.server.settings import Tls
from tenants import HANG_SECONDS, until

is_encrypted_or_not = pytest.mark.parametrize("is_encrypted", [False, True])


def pause(writer: asyncio.StreamWriter) -> None:
    """Have a client read nothing any more, not even that TLS ends."""
    assert isinstance(writer.transport, asyncio.ReadTransport)
    writer.transport.pause_reading()


def only_connection(server: Running) -> TimeoutConnection:
    """Return the server's end of its only connection."""
    (connection,) = server.server.server_state.connections
    assert isinstance(connection, TimeoutConnection)
    return connection


@is_encrypted_or_not
async def test_an_idle_client_that_does_not_let_go(
    caplog: pytest.LogCaptureFixture, tls: Tls, *, is_encrypted: bool
):
    """A server that stops hangs up on it, also where TLS would wait for the client to end it too."""
    limits = ServerLimits(end_seconds_max=0.01)
    async with running(answer_ok, tls if is_encrypted else None, limits=limits) as server:
        reader, writer = await server.connect(GET)
        await reader.readuntil(b"ok")
        pause(writer)
        server.server.stop(is_urgent=False)
        await until(lambda: server.connections == 0)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@is_encrypted_or_not
async def test_the_rest_of_an_answer_is_sent(tls: Tls, *, is_encrypted: bool):
    """A client that takes its time gets all of it, though the connection was closed when the last of it was written."""
    limits = ServerLimits(end_seconds_max=0.001)
    async with running(answer_much, tls if is_encrypted else None, limits=limits) as server:
        reader, _ = await server.connect(LAST_GET)
        answer = await reader.read()
        assert answer.endswith(b"\r\n\r\n" + b"x" * LARGE_BYTES)
        await until(lambda: server.connections == 0)


@is_encrypted_or_not
async def test_who_takes_the_rest_is_not_stuck(tls: Tls, *, is_encrypted: bool):
    """A closed connection goes on for as long as its client takes something between two looks."""
    limits = ServerLimits(stuck_seconds=HANG_SECONDS)
    async with running(answer_much, tls if is_encrypted else None, limits=limits) as server:
        reader, _ = await server.connect(LAST_GET)
        await until(lambda: server.connections == 1 and only_connection(server)._unsent_bytes() > 0)
        connection = only_connection(server)
        for _ in range(2):
            before = connection._unsent_bytes()
            connection._look()
            await reader.readexactly(LARGE_BYTES // 8)
            await until(lambda: connection._unsent_bytes() < before)  # noqa: B023  # called at once
        for _ in range(2):
            connection._look()
        await until(lambda: server.connections == 0)


async def test_as_much_waits_as_without_encryption(tls: Tls):
    """What waits behind a slow client is little, so that the client is seen to take it."""
    found = []
    for encryption in (None, tls):
        async with running(answer_ok, encryption) as server:
            reader, _ = await server.connect(GET)
            await reader.readuntil(b"ok")
            found.append(only_connection(server).transport.get_write_buffer_limits())
    assert found[0] == found[1]
