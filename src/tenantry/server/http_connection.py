"""One connection of an HTTP server: uvicorn's, with a timeout for everything that it waits for.

The timeouts are fields of `ServerLimits`.

| the client has to | within |
|---|---|
| send the head of a request | `head_seconds_max` from its first byte; of the first request, from the connection's beginning |
| begin the next request | `idle_seconds_max` from the last response |
| end a body whose request was answered already | `left_body_seconds_max`, without a pause of `left_body_pause_seconds_max` |
| receive what is sent | `stuck_seconds`: a connection without progress between two checks is closed |
| end TLS after the connection was closed | `end_seconds_max` |

A body that the application reads has the application's timeout. A stream that the client receives has no timeout.
"""

import asyncio
import json
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from tenantry.admin.http.address import network_of
from tenantry.admin.http.headers import SAFE_HEADERS
from tenantry.admin.http.problems import MEDIA_TYPE, ProblemError, too_many
from tenantry.server.limits import ServerLimits


class _Wait(Enum):
    """What the connection waits for."""

    HEAD = auto()
    NEXT = auto()
    LEFT_BODY = auto()
    END = auto()


class TimeoutConnection(H11Protocol):
    """A connection with a timeout for everything that it waits for.

    Args:
        limits: How long the client may take, and how many connections there may be.
        options: Options for uvicorn's class.
        is_shared: Whether many clients share an address, because a proxy is in front.
        is_stopping: Returns whether the server stops.
    """

    def __init__(
        self, *, limits: ServerLimits, is_shared: bool, is_stopping: Callable[[], bool], **options: Any
    ) -> None:
        super().__init__(**options)
        self.limits = limits
        self.is_stopping = is_stopping
        self.network: str | None = None
        """Identifies the client, see `network_of`; None if its address is unknown or shared."""
        self.carrier: asyncio.Transport | None = None
        """The transport below TLS; None without TLS."""
        self._is_shared = is_shared
        self._waits_for: _Wait | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._left_body_ends_at = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._stuck_bytes: int | None = None
        """The unsent bytes at the last check, if the connection was stuck then."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows it too
        """Begin to wait for the first request; refuse the connection if there are too many."""
        super().connection_made(transport)
        self.network = self.network_behind(transport)
        if self.is_stopping():  # the server has told its connections already to close
            transport.abort()
        elif self.limits.has_too_many(
            [getattr(one, "network", None) for one in self.connections], self.network
        ):
            self.connections.discard(self)
            # Even if the client does not end TLS: the connection is no longer counted.
            self._watch = self.loop.call_later(self.limits.end_seconds_max, transport.abort)
            self._end_with(
                too_many(
                    "connections",
                    "there are too many connections, or too many from this address: close some, or try again later",
                )
            )
        else:
            self._look()
            self._mind_client()

    def network_behind(self, transport: asyncio.BaseTransport) -> str | None:
        """Return what identifies the client of a connection; None if its address is unknown or shared."""
        address = transport.get_extra_info("peername")
        return network_of(address[0]) if isinstance(address, tuple) and not self._is_shared else None

    def data_received(self, data: bytes) -> None:
        """Handle received data, and set the timeout for what is still missing."""
        if self.transport.is_closing():  # TLS delivers data that arrived before the close
            return
        super().data_received(data)
        self._mind_client()

    def on_response_complete(self) -> None:
        """Continue with the next request."""
        super().on_response_complete()
        self._mind_client()

    def resume_writing(self) -> None:
        """Continue a response: the client has received what was buffered."""
        super().resume_writing()
        self._stuck_bytes = None

    def shutdown(self) -> None:
        """Close the connection now, or after the response that is being sent."""
        super().shutdown()
        self._mind_client()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timeouts."""
        self._wait_for(None)
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse a malformed request."""
        if self.cycle is not None and not self.cycle.response_complete:  # type: ignore[redundant-expr]  # None at first
            # Tell the application that the rest of its request's body will not arrive.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._end_with(ProblemError(400, "malformed-request", "Malformed request", msg))

    def _should_upgrade(self) -> bool:
        # RFC 9110, section 7.8: a server may ignore Upgrade. Another protocol would not have these timeouts.
        return False

    def _end_with(self, problem: ProblemError) -> None:
        """Send a problem and close the connection; if a response has begun, only close."""
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            body = json.dumps(problem.content).encode()
            headers = {
                "Content-Type": MEDIA_TYPE,
                "Content-Length": str(len(body)),
                "Connection": "close",
                **SAFE_HEADERS,
                **(problem.headers or {}),
            }
            for event in (
                h11.Response(status_code=problem.status_code, headers=list(headers.items())),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _mind_client(self) -> None:
        """Start the timeout for the client's next step, unless it is running already."""
        theirs = self.conn.their_state
        if self.transport.is_closing():
            self._wait_for(_Wait.END, self.limits.end_seconds_max)
        elif theirs is h11.IDLE and self._is_between_requests():
            self._wait_for(_Wait.NEXT, self.limits.idle_seconds_max)
        elif theirs is h11.IDLE:
            self._wait_for(_Wait.HEAD, self.limits.head_seconds_max)
        elif theirs is h11.SEND_BODY and self.conn.our_state is h11.DONE:
            self._wait_for_left_body()
        else:
            self._wait_for(None)

    def _is_between_requests(self) -> bool:
        received, _ = self.conn.trailing_data
        return self.cycle is not None and not received  # type: ignore[redundant-expr]  # None at first

    def _wait_for(self, what: _Wait | None, seconds_max: float = 0.0) -> None:
        if what is self._waits_for:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._waits_for = what
        self._timer = None if what is None else self.loop.call_later(seconds_max, self._give_up)

    def _wait_for_left_body(self) -> None:
        now = self.loop.time()
        if self._waits_for is not _Wait.LEFT_BODY:
            self._left_body_ends_at = now + self.limits.left_body_seconds_max
        self._wait_for(None)  # data has arrived: the pause begins again
        self._wait_for(
            _Wait.LEFT_BODY, min(self.limits.left_body_pause_seconds_max, self._left_body_ends_at - now)
        )

    def _give_up(self) -> None:
        if self._waits_for is not _Wait.END:
            self.transport.close()
            self._mind_client()
        elif self._unsent_bytes():  # `_look` closes it if the client receives nothing
            self._timer = self.loop.call_later(self.limits.end_seconds_max, self._give_up)
        else:
            self.transport.abort()

    def _look(self) -> None:
        is_stuck = self.flow.write_paused or self.transport.is_closing()
        unsent_bytes = self._unsent_bytes()
        if is_stuck and self._stuck_bytes is not None and unsent_bytes >= self._stuck_bytes:
            self.transport.abort()
            return
        self._stuck_bytes = unsent_bytes if is_stuck else None
        self._watch = self.loop.call_later(self.limits.stuck_seconds, self._look)

    def _unsent_bytes(self) -> int:
        beneath = 0 if self.carrier is None else self.carrier.get_write_buffer_size()
        return beneath + self.transport.get_write_buffer_size()
