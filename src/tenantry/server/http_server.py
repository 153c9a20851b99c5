"""The HTTP server: uvicorn's, with limits on connections, requests and time. Needs the extra ``service``."""

import asyncio
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import uvicorn
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from tenantry.admin.http.headers import SafeHeaders
from tenantry.admin.http.problems import OVERLOAD_SECONDS, ProblemError, answer_problem, later, too_many
from tenantry.admin.http.unexpected_errors import ResponseSend
from tenantry.server.certificate import Certificate
from tenantry.server.errors import ServeSettingsError
from tenantry.server.http_connection import TimeoutConnection
from tenantry.server.limits import SERVER_LIMITS, ServerLimits
from tenantry.server.settings import Endpoint
from tenantry.server.tls_handshake import Handshakes

SOCKET_UNSENT_BYTES_MAX: Final = 128 * 2**10
"""The kernel accepts more of a response when it has less than this to send."""

_BACKLOG: Final = 128


class HttpServer(uvicorn.Server):
    """A server that does not handle signals, because a process may run several servers.

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
        self._is_stopping = False
        make: Any = partial(
            TimeoutConnection,
            limits=limits,
            is_shared=is_behind_proxy,
            is_stopping=lambda: self._is_stopping,
        )
        self.handshakes = None if certificate is None else Handshakes(make, certificate)
        """The TLS handshakes that are under way; None without TLS."""
        super().__init__(
            uvicorn.Config(
                SafeHeaders(RequestLimit(app, limits.requests_max)),
                http=self.handshakes or make,  # type: ignore[arg-type]  # it is only called
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=math.ceil(limits.idle_seconds_max),
                timeout_graceful_shutdown=math.ceil(closing_seconds),
            )
        )
        self.answers = asyncio.Event()
        """Set when the server accepts requests."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture no signals."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept requests."""
        await super().startup(sockets)
        self.answers.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop: wait for requests, and abort TLS handshakes."""
        self._is_stopping = True
        if self.handshakes is not None:
            self.handshakes.abort()
        await super().shutdown(sockets)
        if self.force_exit:
            # uvicorn omits this after a forced exit, and Starlette would log a stack trace.
            await self.lifespan.shutdown()

    def stop(self, *, is_urgent: bool) -> None:
        """Accept no more connections, and wait for requests; if it is urgent, do not wait."""
        self.should_exit = True
        self.force_exit = is_urgent


class RequestLimit:
    """Limits the number of requests that are handled at once, and answers requests that are interrupted when the server stops.

    Args:
        app: The application.
        requests_max: How many requests may be handled at once.
    """

    def __init__(self, app: ASGIApp, requests_max: int) -> None:
        self._app = app
        self._requests_max = requests_max
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, or refuse it."""
        if scope["type"] == "http" and self._running >= self._requests_max:
            problem = too_many(
                "requests", f"{self._requests_max} requests are handled already: try again later"
            )
            refusal = await answer_problem(Request(scope), problem)
            await refusal(scope, receive, send)
            return
        if scope["type"] == "lifespan":  # it lasts as long as the server
            await self._app(scope, receive, send)
            return
        self._running += 1
        try:
            await self._handle(scope, receive, send)
        finally:
            self._running -= 1

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = ResponseSend(send)
        try:
            await self._app(scope, receive, answer)
        except asyncio.CancelledError:
            # The server stops, and the request's time is over. A response that has begun just ends: its client sees that it is
            # incomplete.
            if scope["type"] == "http" and not answer.has_begun:
                refusal = await answer_problem(Request(scope), _stopping())
                await refusal(scope, receive, send)


def _stopping() -> ProblemError:
    return later(
        503,
        "stopping",
        "The service is shutting down",
        "the service is shutting down and the request was interrupted: check whether it took effect before you try again",
        OVERLOAD_SECONDS,
    )


@contextmanager
def bound(endpoint: Endpoint) -> Iterator[socket.socket]:
    """Yield a socket that is bound to the address and does not accept yet, so that no other process can take the address.

    Raises:
        ServeSettingsError: Nothing can listen at the address.
    """
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    # With the protocol named: otherwise asyncio does not set TCP_NODELAY, and small responses wait for 40 ms.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it. Otherwise the kernel takes some MB at once, and then nothing until a third of it is sent: a
        # slow but steady client would look stuck.
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
