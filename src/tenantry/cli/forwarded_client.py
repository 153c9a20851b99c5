"""The client's address behind a proxy."""

from starlette.types import ASGIApp, Receive, Scope, Send


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
