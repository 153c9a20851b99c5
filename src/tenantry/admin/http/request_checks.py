"""Checks the Host header and the framing of every request before the application reads the request.

The checks are plain ASGI middleware, so the checks work on every server.
"""

from collections.abc import Collection, Iterable
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from tenantry.admin.http.address import parse_address
from tenantry.admin.http.problems import ProblemError, send_problem

ANY_NAME: Final = "*"
_SUBDOMAINS: Final = "*."
_LOCALHOST: Final = "localhost"
_CLOSE: Final = {"Connection": "close"}


class AllowedHosts:
    """The host names that requests may be addressed to.

    A malicious web page can point its own domain at any address, such as 127.0.0.1, and read the responses (DNS rebinding).
    The page's requests then have the malicious domain in the ``Host`` header. IP addresses and ``localhost`` are always allowed,
    because they cannot be a page's domain. Every other host name must be listed in `names`.

    Args:
        names: The names, without a port; ``*.example.com`` for all subdomains, ``*`` for all names.
    """

    def __init__(self, names: Iterable[str]) -> None:
        given = [_canonical(name) for name in names]
        self._names = {_LOCALHOST, *(name for name in given if not name.startswith(_SUBDOMAINS))}
        self._suffixes = tuple(name.removeprefix("*") for name in given if name.startswith(_SUBDOMAINS))

    def has(self, host: str) -> bool:
        """Return whether a ``Host`` header, with or without a port, is an allowed name or an IP address."""
        if ANY_NAME in self._names or parse_address(host) is not None:
            return True
        name = _canonical(host.rpartition(":")[0] or host)
        return name in self._names or name.endswith(self._suffixes)


class RequestChecks:
    """Refuses requests for another host, and requests whose body length is ambiguous.

    Args:
        allowed_hosts: The allowed host names, see `AllowedHosts`; None allows all names.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Collection[str] | None = None) -> None:
        self._app = app
        self._allowed_hosts = None if allowed_hosts is None else AllowedHosts(allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle or refuse a request."""
        refusal = self._refusal(scope) if scope["type"] in {"http", "websocket"} else None
        if refusal is None:
            await self._app(scope, receive, send)
            return
        await send_problem(refusal, scope, receive, send)

    def _refusal(self, scope: Scope) -> ProblemError | None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        # RFC 9112, section 6.1 (request smuggling): if a proxy uses one header and the server the other, the server can mistake
        # a part of the body for another client's request.
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in headers}:
            return ProblemError(
                400,
                "malformed-request",
                "Malformed request",
                "the request has both Content-Length and Transfer-Encoding: send one of them",
                headers=_CLOSE,
            )
        # Only HTTP/1.0 requests lack a Host header. Some load balancers' probes send HTTP/1.0, but no browser does.
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        if self._allowed_hosts is None or all(map(self._allowed_hosts.has, hosts)):
            return None
        return ProblemError(
            421,
            "misdirected-request",
            "Misdirected request",
            "the host name in this request's Host header is not allowed: use an IP address or localhost, or start the "
            "service with --allowed-host and the name",
            headers=_CLOSE,
        )


def _canonical(name: str) -> str:
    """Return a host name for comparison: in lower case and without a trailing dot (RFC 4343)."""
    return name.strip().lower().removesuffix(".")
