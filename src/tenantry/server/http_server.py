"""The HTTP server: uvicorn, with limits on connections, requests and time. Needs the extra ``service``."""

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
"""The kernel accepts more of a response when it has less than this to send."""

_BACKLOG: Final = 128


class HttpServer:
    """A server that does not handle signals, because a process may run several servers; uvicorn does the HTTP.

    The application's lifespan is its caller's.

    Args:
        app: The application.
        certificate: The TLS certificate; None for no TLS.
        closing_seconds: How long requests may continue when the server stops.
        is_behind_proxy: Whether all clients have a proxy's address.
        limits: How long clients may take, and how many connections and requests there may be.
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
                http=self.connections,  # type: ignore[arg-type]  # it is only called
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",  # its warnings are about requests that are malformed
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=math.ceil(limits.idle_seconds_max),
                timeout_graceful_shutdown=math.ceil(closing_seconds),
            )
        )

    async def serve(self, listening: socket.socket) -> None:
        """Accept connections until `stop` is called, and wait for the requests that have begun.

        Args:
            listening: A socket that listens; it is closed.
        """
        await self._uvicorn.serve([listening])

    def stop(self, *, is_urgent: bool) -> None:
        """Accept no more connections, and wait for requests; if it is urgent, do not wait."""
        self._uvicorn.should_exit = True
        self._uvicorn.force_exit = is_urgent
        self.connections.stop()


class _SignallessServer(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture no signals."""
        yield


class CountedRequests:
    """Counts the requests that are handled, and refuses them beyond a limit.

    Connections learn from it when a request begins and ends. Requests that are interrupted when the server stops are answered.

    Args:
        app: The application.
        connections: The server's connections, with its limits.
    """

    def __init__(self, app: ASGIApp, connections: Connections) -> None:
        self._app = app
        self._connections = connections
        self._requests_max = connections.limits.requests_max
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, or refuse it."""
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
            # The server stops, and the request's time is over. A response that has begun just ends: its client sees that it is
            # incomplete.
            if not answer.has_begun:
                await send_problem(_stopping(), scope, receive, send)

    def _too_many(self) -> ProblemError:
        return too_many("requests", f"{self._requests_max} requests are handled already: try again later")


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
        unreceived_seconds_max: The kernel ends a connection whose client receives nothing for so long.

    Raises:
        ServeSettingsError: Nothing can listen at the address.
    """
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    # With the protocol named: otherwise asyncio does not set TCP_NODELAY, and small responses wait for 40 ms.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit both. Without the second the kernel takes some MB at once, and then nothing until a third of it is
        # sent: the client of a bundle would seem to pause.
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(unreceived_seconds_max * 1000))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, SOCKET_UNSENT_BYTES_MAX)
        try:
            made.bind(endpoint)
            made.listen(_BACKLOG)  # until then another process may bind it too (SO_REUSEADDR, socket(7))
        except OSError as error:
            raise ServeSettingsError(
                f"cannot listen at {endpoint.url_host}:{endpoint.port} ({os.strerror(error.errno or 0)}): give another "
                "address, or stop the program that listens there"
            ) from error
        yield made
