"""Connections that begin with a TLS handshake."""

import contextlib

import pytest

from http_servers import GET, answer_ok, running
from tenantry.server.limits import ServerLimits
from tenantry.server.settings import Tls
from tenants import HANG_SECONDS, until


@pytest.mark.parametrize("sent", [b"", b"\x16\x03", GET])
async def test_clients_that_do_not_encrypt(tls: Tls, sent: bytes):
    """A client that does not finish the handshake, or speaks something else, is disconnected and hears nothing unencrypted."""
    limits = ServerLimits(handshake_seconds_max=0.05)
    async with running(answer_ok, tls, limits=limits) as server:
        server.trust = None
        reader, _ = await server.connect(sent)
        with contextlib.suppress(ConnectionResetError):
            assert not (await reader.read()).startswith(b"HTTP")
        await until(lambda: server.connections == 0)


async def test_too_many_handshakes(tls: Tls):
    """A handshake counts as a connection: one client has a share of them, and one that ends makes room."""
    async with running(answer_ok, tls, limits=ServerLimits(connections_per_client_max=2)) as server:
        trust, server.trust = server.trust, None
        begun = [await server.connect() for _ in range(2)]
        await until(lambda: server.connections == 2)
        refused, _ = await server.connect()
        with contextlib.suppress(ConnectionResetError):
            assert await refused.read() == b""
        for _, writer in begun:
            writer.close()
        await until(lambda: server.connections == 0)
        server.trust = trust
        reader, _ = await server.connect(GET)
        await reader.readuntil(b"ok")


async def test_a_request_that_arrives_with_the_end_of_the_handshake(tls: Tls):
    """No part of the request is lost, however early it arrives."""
    async with running(answer_ok, tls) as server:
        for _ in range(20):
            reader, _ = await server.connect(GET * 3)
            for _ in range(3):
                await reader.readuntil(b"ok")


async def test_a_handshake_does_not_delay_the_stop(tls: Tls):
    """A server that stops ends the handshake at once."""
    limits = ServerLimits(handshake_seconds_max=2 * HANG_SECONDS)
    async with running(answer_ok, tls, limits=limits) as server:
        server.trust = None
        reader, _ = await server.connect()
        await until(lambda: server.connections == 1)
        server.server.stop(is_urgent=False)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        assert server.connections == 0
