"""The client's address behind a proxy."""

from starlette.types import ASGIApp, Receive, Scope, Send

from tenantry.admin.http.address import parse_address


class ForwardedClient:
    """Takes the client's address from the last entry of X-Forwarded-For: the one that the proxy in front wrote itself.

    Those before it are what the client says of itself. Some proxies write a port too: it differs between connections and says
    nothing of who it is. An entry that is no address leaves the proxy's own.

    Args:
        app: The application.
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
