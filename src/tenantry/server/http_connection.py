"""One connection of an HTTP server: uvicorn's, with an end to all waiting for its client.

Each thing that a client can leave undone has its time:

- the head of a request, `HEAD_SECONDS_MAX` from its first byte; of the first one, from the connection's beginning;
- to begin the next one, `IDLE_SECONDS_MAX` from the answer before;
- the rest of a body that was answered already and that nobody reads, `LEFT_BODY_SECONDS_MAX` in all, while no pause in it is as
  long as `LEFT_BODY_PAUSE_SECONDS_MAX`;
- to take what is sent, `STUCK_SECONDS`: looked at so often, a connection that is as stuck as the last time is cut. One that
  was closed, and still has something to send, is stuck too;
- to end TLS, when the connection was closed and all was taken, `END_SECONDS_MAX`.

A body that somebody reads has the time that the application gives it, and a stream that is taken goes on.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from tenantry.admin.http.address import network_of
from tenantry.admin.http.headers import SAFE_HEADERS
from tenantry.admin.http.problems import MEDIA_TYPE, ProblemError, too_many

HEAD_SECONDS_MAX: Final = 20.0
"""How long a client may take to send the head of a request."""

IDLE_SECONDS_MAX: Final = 75
"""How long a client may keep a connection between two requests. More than proxies do, usually 60 s: the side that sends requests
has to be the one that lets go, or it sends one while the other hangs up, and does not know what became of it."""

LEFT_BODY_SECONDS_MAX: Final = 30.0
"""How long a client may go on with a body after its answer. Most read it only when all is sent, and lose it if they are cut off
before."""

LEFT_BODY_PAUSE_SECONDS_MAX: Final = 2.0
"""How long it may send nothing of it meanwhile."""

STUCK_SECONDS: Final = 30.0
"""A client that takes nothing of an answer is cut off after so long, and before twice as long."""

END_SECONDS_MAX: Final = 2.0
"""How long a client may take to let go of a connection that was closed, and has nothing to send any more."""

CONNECTIONS_MAX: Final = 256
"""Further ones are refused."""

CONNECTIONS_PER_CLIENT_MAX: Final = 128
"""Further ones of the same address are refused, so that one client does not take them all."""


class _Wait(Enum):
    """What a client has its time for."""

    HEAD = auto()
    NEXT = auto()
    LEFT_BODY = auto()
    END = auto()


class TimeoutConnection(H11Protocol):
    """A connection that waits for its client for so long and no longer.

    Args:
        options: uvicorn's.
        is_shared: Whether many clients come from the same address: from a proxy in front.
        is_stopping: Whether its server stops.
    """

    def __init__(self, *, is_shared: bool, is_stopping: Callable[[], bool], **options: Any) -> None:
        super().__init__(**options)
        self.is_stopping = is_stopping
        self.network: str | None = None
        """Which of the clients it comes from; None if that is not known."""
        self.carrier: asyncio.Transport | None = None
        """What it is encrypted for; None if it is not."""
        self._is_shared = is_shared
        self._waits_for: _Wait | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._left_body_ends_at = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._stuck_bytes: int | None = None
        """What there was to send at the last look, if it was stuck."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Begin to wait for a head; refuse the connection if there are too many."""
        super().connection_made(transport)
        self.network = self.network_behind(transport)
        if self.is_stopping():  # nobody would tell it any more
            transport.abort()
        elif is_over(self.network, [getattr(one, "network", None) for one in self.connections]):
            self.connections.discard(self)
            # Also where the client does not let TLS end: nobody counts it any more.
            self._watch = self.loop.call_later(END_SECONDS_MAX, transport.abort)
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
        """Return which of the clients a connection comes from; None if its address does not tell."""
        address = transport.get_extra_info("peername")
        return network_of(address[0]) if isinstance(address, tuple) and not self._is_shared else None

    def data_received(self, data: bytes) -> None:
        """Take what came, and mind what is still to come."""
        if self.transport.is_closing():  # TLS lets through what was under way
            return
        super().data_received(data)
        self._mind_client()

    def on_response_complete(self) -> None:
        """Go on to the next request."""
        super().on_response_complete()
        self._mind_client()

    def resume_writing(self) -> None:
        """Go on with an answer: the client has taken what there was."""
        super().resume_writing()
        self._stuck_bytes = None

    def shutdown(self) -> None:
        """Close it now, or after the answer that is under way."""
        super().shutdown()
        self._mind_client()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._wait_for(None)
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        if self.cycle is not None and not self.cycle.response_complete:  # type: ignore[redundant-expr]  # None at first
            # Whoever works on the request whose body it is hears that there will be no more of it.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._end_with(ProblemError(400, "malformed-request", "Malformed request", msg))

    def _should_upgrade(self) -> bool:
        # RFC 9110, section 7.8: it may be ignored. Whoever takes the connection over would not keep these times.
        return False

    def _end_with(self, problem: ProblemError) -> None:
        """Answer and hang up; if an answer has begun, only hang up."""
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
        """Give the client its time for what it is to do next, unless that is running already."""
        theirs = self.conn.their_state
        if self.transport.is_closing():
            self._wait_for(_Wait.END, END_SECONDS_MAX)
        elif theirs is h11.IDLE and self._is_between_requests():
            self._wait_for(_Wait.NEXT, IDLE_SECONDS_MAX)
        elif theirs is h11.IDLE:
            self._wait_for(_Wait.HEAD, HEAD_SECONDS_MAX)
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
            self._left_body_ends_at = now + LEFT_BODY_SECONDS_MAX
        self._wait_for(None)  # something has come: its pause begins anew
        self._wait_for(_Wait.LEFT_BODY, min(LEFT_BODY_PAUSE_SECONDS_MAX, self._left_body_ends_at - now))

    def _give_up(self) -> None:
        if self._waits_for is not _Wait.END:
            self.transport.close()
            self._mind_client()
        elif self._unsent_bytes():  # `_look` ends it if nobody takes that
            self._timer = self.loop.call_later(END_SECONDS_MAX, self._give_up)
        else:
            self.transport.abort()

    def _look(self) -> None:
        is_stuck = self.flow.write_paused or self.transport.is_closing()
        unsent_bytes = self._unsent_bytes()
        if is_stuck and self._stuck_bytes is not None and unsent_bytes >= self._stuck_bytes:
            self.transport.abort()
            return
        self._stuck_bytes = unsent_bytes if is_stuck else None
        self._watch = self.loop.call_later(STUCK_SECONDS, self._look)

    def _unsent_bytes(self) -> int:
        beneath = 0 if self.carrier is None else self.carrier.get_write_buffer_size()
        return beneath + self.transport.get_write_buffer_size()


def is_over(network: str | None, networks: Sequence[str | None]) -> bool:
    """Return whether there are too many connections, or too many from this network."""
    is_over_share = network is not None and networks.count(network) > CONNECTIONS_PER_CLIENT_MAX
    return len(networks) > CONNECTIONS_MAX or is_over_share
