"""The HTTP server: uvicorn with limits on connections, requests and time. The server needs the extra ``service``."""

import asyncio
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from tenantry.admin.http.headers import SafeHeaders
from tenantry.admin.http.problems import OVERLOAD_SECONDS, ProblemError, send_problem, too_many
from tenantry.admin.http.unexpected_errors import ResponseSend
from tenantry.server.certificate import Certificate
from tenantry.server.connections import Connections
from tenantry.server.errors import ServeSettingsError
from tenantry.server.limits import SERVER_LIMITS, UNRECEIVED_SECONDS_MAX, ServerLimits
from tenantry.server.settings import Endpoint

SOCKET_UNSENT_BYTES_MAX: Final = 128 * 2**10
"""The number of unsent bytes below which the kernel accepts more of a response."""

_BACKLOG: Final = 128


class HttpServer:
    """Serves an application with uvicorn, but handles no signals, because a process may run several servers.

    The caller runs the application's lifespan.

    Args:
        certificate: The TLS certificate; None for no TLS.
        closing_seconds: The time for which requests may continue when the server stops.
        is_behind_proxy: Whether all requests come through a proxy, and so from its address.
        limits: The limits on clients' time, connections and requests.
    """

    def __init__(
        self,
        app: ASGIApp,
        certificate: Certificate | None,
        closing_seconds: float,
        *,
        is_behind_proxy: bool = False,
        limits: ServerLimits = SERVER_LIMITS,
    ) -> None:
        self.connections = Connections(limits, certificate, is_shared=is_behind_proxy)
        self._uvicorn = _SignallessServer(
            uvicorn.Config(
                SafeHeaders(CountedRequests(app, self.connections)),
                http=self.connections,  # type: ignore[arg-type]  # uvicorn only calls the object
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",  # uvicorn's warnings concern malformed requests
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=math.ceil(limits.idle_seconds_max),
                timeout_graceful_shutdown=math.ceil(closing_seconds),
            )
        )

    async def serve(self, listening: socket.socket) -> None:
        """Accept connections until `stop` is called, then wait for the running requests.

        Args:
            listening: The listening socket, which the server closes.
        """
        await self._uvicorn.serve([listening])

    def stop(self, *, is_urgent: bool) -> None:
        """Accept no more connections; an urgent stop does not wait for running requests."""
        self._uvicorn.should_exit = True
        self._uvicorn.force_exit = is_urgent
        self.connections.stop()


class _SignallessServer(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture no signals."""
        yield


class CountedRequests:
    """Counts the running requests, and refuses requests beyond a limit.

    A request's connection is notified when the request begins and ends. Requests that the server's stop interrupts get 503.

    Args:
        connections: The server's connections with their limits.
    """

    def __init__(self, app: ASGIApp, connections: Connections) -> None:
        self._app = app
        self._connections = connections
        self._requests_max = connections.limits.requests_max
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle or refuse a request."""
        connection = self._connections.of(scope)
        if connection is not None and not connection.begin_request():
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        self._running += 1
        try:
            if self._running > self._requests_max:
                await send_problem(self._too_many(), scope, receive, send)
            else:
                await self._handle(scope, receive, send)
        finally:
            self._running -= 1
            if connection is not None:
                connection.end_request()

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = ResponseSend(send)
        try:
            await self._app(scope, receive, answer)
        except asyncio.CancelledError:
            # The server stops, and the request's time is over. A client whose response has begun detects that it is incomplete.
            if not answer.has_begun:
                await send_problem(_stopping(), scope, receive, send)

    def _too_many(self) -> ProblemError:
        return too_many(
            "requests", f"the service already handles {self._requests_max} requests: try again later"
        )


def _stopping() -> ProblemError:
    return ProblemError(
        503,
        "stopping",
        "The service is shutting down",
        "the service is shutting down and the request was interrupted: check whether it took effect before you try again",
        retry_after_seconds=OVERLOAD_SECONDS,
    )


@contextmanager
def bound(
    endpoint: Endpoint, *, unreceived_seconds_max: float = UNRECEIVED_SECONDS_MAX
) -> Iterator[socket.socket]:
    """Yield a socket that listens at the address, so that no other process can take the address.

    Args:
        endpoint: The address.
        unreceived_seconds_max: The time after which the kernel ends a connection whose client receives nothing.

    Raises:
        ServeSettingsError: The service cannot listen at the address.
    """
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    # asyncio sets TCP_NODELAY only if the socket names its protocol; without TCP_NODELAY small responses are delayed by 40 ms.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit both options. Without TCP_NOTSENT_LOWAT the kernel accepts some MB into its send buffer, then
        # nothing until a third of the buffer is sent, so the client of a long download would seem to pause.
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # not on macOS
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(unreceived_seconds_max * 1000))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, SOCKET_UNSENT_BYTES_MAX)
        try:
            made.bind(endpoint)
            # Before `listen` another process may bind the address too (SO_REUSEADDR, socket(7)).
            made.listen(_BACKLOG)
        except OSError as error:
            raise ServeSettingsError(
                f"cannot listen at {endpoint.url_host}:{endpoint.port} ({os.strerror(error.errno or 0)}): choose another "
                "address, or stop the program that uses this address"
            ) from error
        yield made
