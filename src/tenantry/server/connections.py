"""Wraps uvicorn's HTTP protocol to limit the number of connections and the time that a client may take.

uvicorn closes connections that are idle after a response, but has no other time limit for clients. A `Connection` therefore
stands between asyncio and uvicorn's protocol, does the TLS handshake, and forwards all other events. A `Connection` calls only the
protocol methods that asyncio defines. `CountedRequests` notifies the `Connection` when requests begin and end.

| the client has to | within |
|---|---|
| finish the TLS handshake | `handshake_seconds_max` |
| send the first request's head | `head_seconds_max` |
| send the next request's head | `idle_seconds_max` from the last response, and `head_seconds_max` from the head's first byte |
| end TLS after the server has closed the connection and sent everything | `end_seconds_max` |
| receive a response | the kernel's timeout, see `UNRECEIVED_SECONDS_MAX` |

The application limits the time for a body that it reads.
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
"""The time after which asyncio drops a closed TLS connection with its unsent data."""


class Connections:
    """The open connections of a server. uvicorn calls this object to create the protocol of each new connection.

    Args:
        limits: The time limits for clients, and the maximum numbers of connections.
        certificate: The TLS certificate; None for no TLS.
        is_shared: Whether many clients share the address of a proxy.
    """

    def __init__(self, limits: ServerLimits, certificate: Certificate | None, *, is_shared: bool) -> None:
        self.limits = limits
        self.certificate = certificate
        self._is_shared = is_shared
        self._open: dict[_Ends, Connection] = {}
        self._is_stopping = False

    def __call__(self, **options: Any) -> "Connection":
        """Return the protocol of a new connection; the options are for uvicorn's protocol."""
        return Connection(H11Protocol(**options), self)

    def __len__(self) -> int:
        return len(self._open)

    def of(self, scope: Scope) -> "Connection | None":
        """Return the connection of a request; None if the connection is closed."""
        return self._open.get((scope["client"], scope["server"]))

    def add(self, connection: "Connection") -> bool:
        """Add a connection; return False if too many connections are open, or if the server is stopping."""
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
        """Remove a connection from the open connections."""
        if self._open.get(connection.ends) is connection:
            del self._open[connection.ends]

    def stop(self) -> None:
        """Accept no more connections, and end handshakes; uvicorn closes the open connections."""
        self._is_stopping = True
        for connection in list(self._open.values()):
            connection.stop()


class Connection(asyncio.Protocol):
    """One connection.

    Attributes:
        ends: The address and port of the client and of the server.
        network: The client's identifier, see `network_of`.
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
        """The transport of HTTP: the TCP transport, or the TLS transport after the handshake."""
        self._handshake: asyncio.Task[None] | None = None
        self._early = bytearray()
        """The data that arrived together with the end of the handshake."""
        self._requests = 0
        self._is_malformed = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the TLS handshake, or without TLS wait for the first request; abort if too many connections are open."""
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
            transport.pause_reading()  # `start_tls` resumes reading
            self._handshake = self._loop.create_task(self._encrypt(certificate.context))

    def data_received(self, data: bytes) -> None:
        """Forward data to uvicorn; data that arrives between two requests starts the timeout of the next head."""
        if self._transport is None:
            self._early += data
        elif not self._transport.is_closing():  # TLS still delivers earlier data after the close
            if self._requests == 0:
                self._close_within(self._limits.head_seconds_max)
            try:
                self._http.data_received(data)
            except h11.LocalProtocolError:
                # uvicorn responds to malformed data with 400 even after another response; h11 refuses such a 400.
                self._transport.close()
            self._is_malformed = self._transport.is_closing()
            if self._is_malformed and self._requests > 0:
                self._tcp.abort()  # the application gets a disconnect instead of the rest of the body
            elif self._is_malformed:
                self._close_within(self._limits.end_seconds_max)

    def eof_received(self) -> bool | None:
        """Tell uvicorn that the client sends no more data."""
        return self._http.eof_received()

    def pause_writing(self) -> None:
        """Tell uvicorn that the client receives too slowly."""
        self._http.pause_writing()

    def resume_writing(self) -> None:
        """Tell uvicorn that the client receives again."""
        self._http.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection, and stop its timer."""
        self._connections.discard(self)
        self._cancel_timer()
        if self._transport is not None:
            self._http.connection_lost(exc)

    def begin_request(self) -> bool:
        """Stop the client's timer during a request, and return True.

        If uvicorn has already responded with 400 because of a malformed body, end the connection and return False.
        """
        if self._is_malformed:
            self._tcp.abort()
            return False
        self._requests += 1
        self._cancel_timer()
        return True

    def end_request(self) -> None:
        """Start the client's timer again after a request."""
        self._requests -= 1
        if self._requests == 0:
            assert self._transport is not None
            is_closing = self._transport.is_closing()
            self._close_within(self._limits.end_seconds_max if is_closing else self._limits.idle_seconds_max)

    def stop(self) -> None:
        """Abort a running handshake. Without a handshake, uvicorn closes the connection after the running request's response."""
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
        except OSError:  # the client disconnected, was too slow, or does not use TLS
            self._tcp.abort()
        else:
            if transport is not None:  # `start_tls` returns None if the client has disconnected
                self._begin(transport)
                if self._early:
                    self.data_received(bytes(self._early))
        finally:
            if self._transport is None:
                self._connections.discard(self)  # asyncio does not call `connection_lost` during a handshake

    def _begin(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._http.connection_made(transport)
        self._close_within(self._limits.head_seconds_max)

    def _close_within(self, seconds_max: float) -> None:
        """Start the timer that closes the connection, unless a running timer ends sooner."""
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
            self._tcp.abort()  # the client has received everything, but does not end TLS
            return
        self._close_within(self._limits.end_seconds_max)
