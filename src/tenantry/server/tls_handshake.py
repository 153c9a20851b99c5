"""Limits the number and the duration of TLS handshakes, which are not counted as connections yet."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from tenantry.server.certificate import Certificate
from tenantry.server.http_connection import TimeoutConnection

TLS_UNSENT_BYTES_MAX: Final = 64 * 2**10
"""How much may wait for encryption before the application has to pause: as much as without TLS. With asyncio's 512 KiB a slow but
steady client would look stuck."""


class Handshakes:
    """Makes connections that begin with a TLS handshake.

    Args:
        make: Makes a connection.
        certificate: The certificate of new connections.
    """

    def __init__(self, make: Callable[..., TimeoutConnection], certificate: Certificate) -> None:
        self.under_way: set[Handshake] = set()
        self.certificate = certificate
        self._make = make

    def __call__(self, **options: Any) -> "Handshake":
        """Return the handshake of a new client."""
        return Handshake(self, self._make(**options))

    def abort(self) -> None:
        """Abort all handshakes."""
        for handshake in list(self.under_way):
            handshake.abort()


class Handshake(asyncio.Protocol):
    """One handshake. It keeps what the client sends until the connection takes over.

    Args:
        handshakes: The server's handshakes.
        connection: Takes over after the handshake.
    """

    def __init__(self, handshakes: Handshakes, connection: TimeoutConnection) -> None:
        self.network: str | None = None
        self._handshakes = handshakes
        self._connection = connection
        self._received = bytearray()
        self._is_lost = False
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake; abort if there are too many, because no response can be sent before TLS."""
        assert isinstance(transport, asyncio.Transport)
        self.network = self._connection.network_behind(transport)
        under_way = self._handshakes.under_way
        under_way.add(self)
        self._transport = transport
        networks = [one.network for one in under_way]
        if self._connection.is_stopping() or self._connection.limits.has_too_many(networks, self.network):
            self.abort()
            return
        transport.pause_reading()  # until TLS reads it
        self._task = asyncio.create_task(self._begin(transport))

    def data_received(self, data: bytes) -> None:
        """Keep data that arrived with the end of the handshake."""
        self._received += data

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's
        """Note that the client has disconnected."""
        self._is_lost = True

    def abort(self) -> None:
        """Abort the handshake."""
        self._handshakes.under_way.discard(self)
        if self._task is not None:
            self._task.cancel()
        if self._transport is not None:
            self._transport.abort()

    async def _begin(self, transport: asyncio.Transport) -> None:
        try:
            encrypted = await asyncio.get_running_loop().start_tls(
                transport,
                self,
                self._handshakes.certificate.context,
                server_side=True,
                ssl_handshake_timeout=self._connection.limits.handshake_seconds_max,
                ssl_shutdown_timeout=self._connection.limits.closed_seconds_max,
            )
        except OSError:  # the client has disconnected, took too long, or does not speak TLS
            transport.abort()
            return
        finally:
            self._handshakes.under_way.discard(self)
        if encrypted is None or self._is_lost:
            return
        encrypted.set_write_buffer_limits(TLS_UNSENT_BYTES_MAX)
        encrypted.set_protocol(self._connection)
        self._connection.carrier = transport
        self._connection.connection_made(encrypted)
        if self._received:
            self._connection.data_received(bytes(self._received))
