"""Handles unexpected errors: logs the error's type and place, and responds without details."""

from pathlib import Path
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tenantry.admin.http.problems import send_problem, unexpected
from tenantry.eventlog import EventLog

REQUEST_FAILED: Final = "tenantry.request.failed"


def log_failure(log: EventLog, error: Exception, **data: object) -> None:
    """Log an error without its message and its stack, because both may contain a client's data."""
    log.error(REQUEST_FAILED, error_type=type(error).__name__, at=_place(error), **data)


class ResponseSend:
    """Sends a response, and records whether the response has begun, because then no other response can be sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_begun = False

    async def __call__(self, message: Message) -> None:
        """Send a part of the response."""
        self.has_begun = True
        await self._send(message)


class UnexpectedErrors:
    """Responds to requests that fail with an unexpected error, and keeps the error out of the server's own log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._log = EventLog()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        answer = ResponseSend(send)
        try:
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            return  # the client has disconnected
        except Exception as error:
            if scope["type"] != "http":
                raise
            log_failure(self._log, error, method=scope["method"], route=_route(scope))
            # If a response has begun, the server closes the connection, and the client detects an incomplete response.
            if not answer.has_begun:
                await send_problem(unexpected(), scope, receive, send)


def _place(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    at = error.__traceback__
    if at is None:
        return "unknown"
    while at.tb_next is not None:
        at = at.tb_next
    code = at.tb_frame.f_code
    return f"{Path(code.co_filename).name}:{at.tb_lineno} {code.co_qualname}"


def _route(scope: Scope) -> str:
    # Log the route instead of the path, because the caller chooses the path.
    return str(getattr(scope.get("route"), "path", "unknown"))
