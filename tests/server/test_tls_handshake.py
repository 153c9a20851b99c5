"""The beginning of encrypted connections."""

import contextlib

import pytest

from http_servers import GET, answer_ok, running
from tenantry.server.limits import ServerLimits
from tenantry.server.settings import Tls
from tenantry.server.tls_handshake import Handshakes
from tenants import HANG_SECONDS, until


@pytest.mark.parametrize("sent", [b"", b"\x16\x03", GET])
async def test_clients_that_do_not_encrypt(tls: Tls, sent: bytes):
    """Whoever connects and does not go on, or speaks something else, is hung up on."""
    limits = ServerLimits(handshake_seconds_max=0.05)
    async with running(answer_ok, tls, limits=limits) as server:
        server.trust = None
        reader, _ = await server.connect(sent)
        with contextlib.suppress(ConnectionResetError):
            assert not (await reader.read()).startswith(b"HTTP")
        await until(lambda: not server.handshakes)


async def test_too_many_who_do_not_encrypt(tls: Tls):
    """One client has a share of those that begin; what is beyond it is hung up on, and others are let in when they have gone."""
    limits = ServerLimits(connections_per_client_max=2)
    async with running(answer_ok, tls, limits=limits) as server:
        trust, server.trust = server.trust, None
        begun = [await server.connect() for _ in range(2)]
        await until(lambda: server.handshakes == 2)
        refused, _ = await server.connect()
        assert await refused.read() == b""
        for _, writer in begun:
            writer.close()
        await until(lambda: not server.handshakes)
        server.trust = trust
        reader, _ = await server.connect(GET)
        await reader.readuntil(b"ok")


async def test_a_request_that_comes_with_the_end_of_the_handshake(tls: Tls):
    """Nothing of it is lost, however early it comes."""
    async with running(answer_ok, tls) as server:
        for _ in range(20):
            reader, _ = await server.connect(GET * 3)
            for _ in range(3):
                await reader.readuntil(b"ok")


async def test_a_handshake_does_not_keep_a_server_that_stops(tls: Tls):
    """It is hung up on, and does not have its time."""
    limits = ServerLimits(handshake_seconds_max=2 * HANG_SECONDS)
    async with running(answer_ok, tls, limits=limits) as server:
        server.trust = None
        reader, _ = await server.connect()
        await until(lambda: server.handshakes == 1)
        server.server.stop(is_urgent=False)
        assert await reader.read() == b""
        assert not server.handshakes


async def test_a_handshake_that_ends_when_the_server_stops(monkeypatch: pytest.MonkeyPatch, tls: Tls):
    """Its client is not served any more: the others were told to go, and nobody would tell it."""
    monkeypatch.setattr(Handshakes, "abort", lambda _: None)  # it is just too late for this one
    async with running(answer_ok, tls) as server:
        trust, server.trust = server.trust, None
        reader, writer = await server.connect()
        await until(lambda: server.handshakes == 1)
        server.server.stop(is_urgent=False)
        await until(lambda: not server.is_listening)
        assert trust is not None
        await writer.start_tls(trust, server_hostname="127.0.0.1")
        writer.write(GET)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
