"""The connections of an HTTP server: limits on their number and on the time that clients may take, around uvicorn's protocol.

uvicorn closes connections that are idle after a response, and has no other limit on the time of a client. A `Connection` therefore
takes the place of uvicorn's protocol in asyncio, does the TLS handshake, and passes everything else on. It uses only the methods that
asyncio defines. `CountedRequests` tells it when requests begin and end.

| the client has to | within |
|---|---|
| finish the TLS handshake | `handshake_seconds_max` |
| send the first request's head | `head_seconds_max` |
| send the next request's head | `idle_seconds_max` from the last response, and `head_seconds_max` from the head's first byte |
| end TLS after the server has closed the connection and sent everything | `end_seconds_max` |
| receive a response | the kernel's time, see `UNRECEIVED_SECONDS_MAX` |

A body that the application reads has the application's timeout.
"""

import asyncio
import ssl
from typing import Any, Final, TypeAlias

import h11
from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

from tenantry.admin.http.address import network_of
from tenantry.server.certificate import Certificate
from tenantry.server.limits import ServerLimits

_Ends: TypeAlias = tuple[tuple[str, int], tuple[str, int]]
"""The addresses and ports of a connection: the client's, and the server's."""

_TLS_CLOSE_SECONDS_MAX: Final = 60.0
"""When asyncio drops a closed TLS connection with what is left to send."""


class Connections:
    """The open connections of a server. uvicorn calls it for the protocol of each new connection.

    Args:
        limits: How long clients may take, and how many connections there may be.
        certificate: The TLS certificate; None for no TLS.
        is_shared: Whether many clients share an address, because a proxy is in front.
    """

    def __init__(self, limits: ServerLimits, certificate: Certificate | None, *, is_shared: bool) -> None:
        self.limits = limits
        self.certificate = certificate
        self._is_shared = is_shared
        self._open: dict[_Ends, Connection] = {}
        self._is_stopping = False

    def __call__(self, **options: Any) -> "Connection":
        """Return a protocol.

        Args:
            options: Options for uvicorn's protocol.
        """
        return Connection(H11Protocol(**options), self)

    def __len__(self) -> int:
        return len(self._open)

    def of(self, scope: Scope) -> "Connection | None":
        """Return the connection that a request came through; None if it is closed."""
        return self._open.get((scope["client"], scope["server"]))

    def add(self, connection: "Connection") -> bool:
        """Add a connection; return False if there are too many, or the server stops."""
        networks = [] if self._is_shared else [other.network for other in self._open.values()]
        if (
            self._is_stopping
            or len(self._open) >= self.limits.connections_max
            or networks.count(connection.network) >= self.limits.connections_per_client_max
        ):
            return False
        self._open[connection.ends] = connection
        return True

    def discard(self, connection: "Connection") -> None:
        """Remove a connection."""
        if self._open.get(connection.ends) is connection:
            del self._open[connection.ends]

    def stop(self) -> None:
        """Accept no more connections, and note that uvicorn closes the open ones."""
        self._is_stopping = True
        for connection in list(self._open.values()):
            connection.stop()


class Connection(asyncio.Protocol):
    """One connection.

    Args:
        http: uvicorn's protocol.
        connections: The server's connections.

    Attributes:
        ends: The client's address and port, and the server's.
        network: What identifies the client, see `network_of`.
    """

    ends: _Ends
    network: str
    _tcp: asyncio.Transport

    def __init__(self, http: asyncio.Protocol, connections: Connections) -> None:
        self._http = http
        self._connections = connections
        self._limits = connections.limits
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        """What HTTP is sent through: TCP itself, or TLS after the handshake."""
        self._handshake: asyncio.Task[None] | None = None
        self._early = bytearray()
        """Data that arrived with the end of the handshake."""
        self._requests = 0
        self._is_malformed = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the TLS handshake, or to wait for the first request; end the connection if there are too many."""
        assert isinstance(transport, asyncio.Transport)
        client, server = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        certificate = self._connections.certificate
        self._tcp = transport
        self.ends = client[:2], server[:2]
        self.network = network_of(client[0])
        if not self._connections.add(self):
            transport.abort()
        elif certificate is None:
            self._begin(transport)
        else:
            transport.pause_reading()  # until TLS reads
            self._handshake = self._loop.create_task(self._encrypt(certificate.context))

    def data_received(self, data: bytes) -> None:
        """Handle data; what arrives while no request is handled begins the next head."""
        if self._transport is None:
            self._early += data
        elif not self._transport.is_closing():  # TLS delivers data that arrived before the close
            if self._requests == 0:
                self._close_within(self._limits.head_seconds_max)
            try:
                self._http.data_received(data)
            except h11.LocalProtocolError:
                # uvicorn responds to malformed data with 400, also if it has sent a response already.
                self._transport.close()
            self._is_malformed = self._transport.is_closing()
            if self._is_malformed and self._requests > 0:
                self._tcp.abort()  # the application learns that no more of the body arrives
            elif self._is_malformed:
                self._close_within(self._limits.end_seconds_max)

    def eof_received(self) -> bool | None:
        """Pass on that the client sends nothing more."""
        return self._http.eof_received()

    def pause_writing(self) -> None:
        """Pass on that the client receives too slowly."""
        self._http.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the client receives again."""
        self._http.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._connections.discard(self)
        self._cancel_timer()
        if self._transport is not None:
            self._http.connection_lost(exc)

    def begin_request(self) -> bool:
        """Note that a head has arrived and its request is handled: the client has no time limit from here.

        Returns:
            False if uvicorn has responded with 400 already, because the body is malformed.
        """
        if self._is_malformed:
            self._tcp.abort()
            return False
        self._requests += 1
        self._cancel_timer()
        return True

    def end_request(self) -> None:
        """Note that a request has been handled."""
        self._requests -= 1
        if self._requests == 0:
            assert self._transport is not None
            is_closing = self._transport.is_closing()
            self._close_within(self._limits.end_seconds_max if is_closing else self._limits.idle_seconds_max)

    def stop(self) -> None:
        """End the handshake; uvicorn closes the connection after it, at once or after the response to the present request."""
        if self._handshake is not None and self._transport is None:
            self._handshake.cancel()
            self._tcp.abort()
        elif self._requests == 0:
            self._close_within(self._limits.end_seconds_max)

    async def _encrypt(self, context: ssl.SSLContext) -> None:
        try:
            transport = await self._loop.start_tls(
                self._tcp,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=self._limits.handshake_seconds_max,
                ssl_shutdown_timeout=_TLS_CLOSE_SECONDS_MAX,
            )
        except OSError:  # the client has disconnected, took too long, or does not speak TLS
            self._tcp.abort()
        else:
            if transport is not None:  # None: the client has disconnected since
                self._begin(transport)
                if self._early:
                    self.data_received(bytes(self._early))
        finally:
            if self._transport is None:
                self._connections.discard(self)  # asyncio does not call `connection_lost` in a handshake

    def _begin(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._http.connection_made(transport)
        self._close_within(self._limits.head_seconds_max)

    def _close_within(self, seconds_max: float) -> None:
        """Start the timer that closes the connection, unless it is due sooner already."""
        due_at = self._loop.time() + seconds_max
        if self._timer is None or due_at < self._timer.when():
            self._cancel_timer()
            self._timer = self._loop.call_at(due_at, self._close)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        assert self._transport is not None
        self._cancel_timer()
        if not self._transport.is_closing():
            self._transport.close()
        elif self._tcp.get_write_buffer_size() == 0:
            self._tcp.abort()  # the client has everything, and does not end TLS
            return
        self._close_within(self._limits.end_seconds_max)
