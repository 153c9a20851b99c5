"""The beginning of encrypted connections: their number and their time are limited too, before anybody counts them as connections."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from tenantry.server.certificate import Certificate
from tenantry.server.http_connection import TimeoutConnection, is_over

HANDSHAKE_SECONDS_MAX: Final = 10.0
"""How long a client may take until its connection is encrypted."""

CLOSED_SECONDS_MAX: Final = 60.0
"""How long a connection that was closed may take to send what is left. It ends sooner by itself if its client takes nothing, or
when all was taken; asyncio does not tell these apart, and cuts off what is left."""

TLS_UNSENT_BYTES_MAX: Final = 64 * 2**10
"""What waits to be encrypted and sent before an answer is told to wait: as much as without encryption. With asyncio's 512 KiB a
slow but steady client would look as if it took nothing."""


class Handshakes:
    """Makes connections that are encrypted first.

    Args:
        make: Makes a connection.
        certificate: What they are encrypted with.
    """

    def __init__(self, make: Callable[..., TimeoutConnection], certificate: Certificate) -> None:
        self.under_way: set[Handshake] = set()
        self.certificate = certificate
        self._make = make

    def __call__(self, **options: Any) -> "Handshake":
        """Return what makes a connection of a client that has just come."""
        return Handshake(self, self._make(**options))

    def abort(self) -> None:
        """Hang up on all."""
        for handshake in list(self.under_way):
            handshake.abort()


class Handshake(asyncio.Protocol):
    """One beginning. It keeps what comes until the connection takes over.

    Args:
        handshakes: All of them.
        connection: What takes over.
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
        """Begin; hang up if there are too many already, to whom nothing can be said yet."""
        assert isinstance(transport, asyncio.Transport)
        self.network = self._connection.network_behind(transport)
        under_way = self._handshakes.under_way
        under_way.add(self)
        self._transport = transport
        if self._connection.is_stopping() or is_over(self.network, [one.network for one in under_way]):
            self.abort()
            return
        transport.pause_reading()  # until somebody is there who understands it
        self._task = asyncio.create_task(self._begin(transport))

    def data_received(self, data: bytes) -> None:
        """Keep what came with the handshake's end."""
        self._received += data

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's
        """Note that nobody is there any more."""
        self._is_lost = True

    def abort(self) -> None:
        """Hang up."""
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
                ssl_handshake_timeout=HANDSHAKE_SECONDS_MAX,
                ssl_shutdown_timeout=CLOSED_SECONDS_MAX,
            )
        except OSError:  # the client has gone, took too long, or speaks something else
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
