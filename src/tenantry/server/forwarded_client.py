"""Reads the client's address from a proxy's X-Forwarded-For header."""

from starlette.types import ASGIApp, Receive, Scope, Send

from tenantry.admin.http.address import parse_address


class ForwardedClient:
    """Replaces the client's address with the last entry of X-Forwarded-For, the entry that the proxy appended.

    The earlier entries come from the client and can be forged. A port, which some proxies add, is dropped, because it differs
    between connections of one client. If the last entry is not an address, the client's address is not replaced.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] in {"http", "websocket"}:
            said = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
            client = parse_address(said[-1].decode("latin-1").rpartition(",")[2].strip()) if said else None
            if client is not None:
                scope = {**scope, "client": (str(client), 0)}
        await self._app(scope, receive, send)
