"""HTTP servers of this process: uvicorn's, with what it leaves to others. Needs the extra ``service``."""

import asyncio
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import h11
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from tenantry.cli.exits import CommandError, Exit
from tenantry.cli.listening import Endpoint, Tls

HEAD_SECONDS_MAX: Final = 20.0
"""How long a client may take to send the head of a request."""

CONNECTIONS_MAX: Final = 256
"""Requests beyond so many connections get 503."""

_BACKLOG: Final = 128


class HttpServer(uvicorn.Server):
    """A server that leaves signals to its process, which may have another server.

    Args:
        app: What it serves.
        tls: How it encrypts; not at all if None.
        closing_seconds: How long requests may go on when it stops.
    """

    def __init__(self, app: ASGIApp, tls: Tls | None, closing_seconds: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=ImpatientProtocol,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=CONNECTIONS_MAX,
                timeout_graceful_shutdown=round(closing_seconds),
                ssl_certfile=None if tls is None else tls.cert,
                ssl_keyfile=None if tls is None else tls.key,
            )
        )
        self.answers = asyncio.Event()
        """Set when it does."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        self.answers.set()

    def stop(self, *, is_urgent: bool) -> None:
        """Accept nothing any more and end what was begun; if it is urgent, do not wait for it."""
        self.should_exit = True
        self.force_exit = is_urgent


class ImpatientProtocol(H11Protocol):
    """Hangs up on clients that do not send the whole head of a request in `HEAD_SECONDS_MAX`."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Take what came, and wait for the rest of a head if it is one."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self._wait_for_head()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS_MAX, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class ForwardedClient:
    """Takes the client's address from the last entry of X-Forwarded-For: the one that the proxy in front wrote itself.

    Those before it are what the client says of itself.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] in {"http", "websocket"}:
            said = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
            client = said[-1].decode("latin-1").rpartition(",")[2].strip() if said else ""
            if client:
                scope = {**scope, "client": (client, 0)}
        await self._app(scope, receive, send)


@contextmanager
def bound(endpoint: Endpoint) -> Iterator[socket.socket]:
    """Give a socket that listens at the address and does not accept yet; nobody else can take it meanwhile.

    Raises:
        CommandError: It cannot be had.
    """
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    # By the protocol's name: only then asyncio sends small answers at once, and not after 40 ms (TCP_NODELAY).
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind(endpoint)
            made.listen(_BACKLOG)  # until then somebody else may have bound it too (SO_REUSEADDR, socket(7))
        except OSError as error:
            raise CommandError(
                Exit.USAGE,
                f"cannot listen at {endpoint.url_host}:{endpoint.port} ({os.strerror(error.errno or 0)}): give another "
                "address, or end what listens there",
            ) from error
        yield made


def check_tls(tls: Tls) -> None:
    """Check that the certificate and the key can be used.

    Raises:
        CommandError: They cannot.
    """

    def refuse() -> str:
        # Without this OpenSSL asks at the terminal, and a service that starts by itself waits there for good.
        raise CommandError(
            Exit.USAGE,
            f"--tls-key {tls.key} is encrypted: give a key without a password, that nobody else can read (openssl pkey -in "
            f"{tls.key} -out key.pem)",
        )

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.cert, tls.key, refuse)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise CommandError(
            Exit.USAGE,
            f"--tls-cert and --tls-key cannot be used ({error}): give a PEM certificate and its key",
        ) from error
