"""Limits the rate of requests without a valid key, so that such requests cannot slow tenants' calls.

Every request costs event loop time, even a refused request. An immediate refusal does not protect the event loop, because the
client then sends its next request immediately. A request beyond the rate limit is therefore delayed. If the necessary delay
exceeds `wait_seconds_max`, the request is refused after `wait_seconds_max`. A client with one connection, such as Prometheus or
a load balancer's probe, still gets its response while other connections of the same address flood the service.

Each probe path has its own rate limit. Behind a network address translation, a load balancer and the kubelet share their address
with all clients. Without a separate limit, other clients would make probes time out, and Kubernetes would restart the process.
"""

import asyncio
import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tenantry.admin.http.address import network_of
from tenantry.admin.http.problems import ProblemError, send_problem, too_many
from tenantry.clock import Clock, SystemClock

_CLIENTS_MAX: Final = 4096
_PROBES: Final = frozenset(["healthz", "readyz", "metrics"])


@dataclass(frozen=True, slots=True)
class StrangerRate:
    """The rate limit of a client's requests without a valid key.

    Attributes:
        requests_per_second: The average rate over a long time.
        burst_requests_max: The maximum number of requests in a burst. The console loads about thirty files.
        wait_seconds_max: The longest delay of a request, below the timeouts of Prometheus and of most probes.
    """

    requests_per_second: float = 50.0
    burst_requests_max: int = 100
    wait_seconds_max: float = 2.0


STRANGER_RATE: Final = StrangerRate()


class Turns:
    """Computes the delay of each client's next request (GCRA, the leaky bucket as a meter)."""

    def __init__(self, rate: StrangerRate, clock: Clock) -> None:
        self._rate = rate
        self._now = clock.monotonic_seconds
        # The time at which each client's bucket becomes empty.
        self._empty_at: OrderedDict[str, float] = OrderedDict()

    def take(self, client: str) -> float | None:
        """Count a request and return its delay in seconds; if the delay is too long, return None and do not count the request."""
        now, interval = self._now(), 1.0 / self._rate.requests_per_second
        empty_at = max(self._empty_at.get(client, 0.0), now)
        seconds = empty_at - now - interval * (self._rate.burst_requests_max - 1)
        if seconds > self._rate.wait_seconds_max:
            return None
        self._empty_at[client] = empty_at + interval
        self._empty_at.move_to_end(client)
        while len(self._empty_at) > _CLIENTS_MAX:
            self._empty_at.popitem(last=False)
        return max(seconds, 0.0)


class Strangers:
    """Delays requests without a valid key according to the rate limit.

    Args:
        app: The application, which sets ``request.state.principal`` for a request with a valid key.
    """

    def __init__(self, app: ASGIApp, rate: StrangerRate = STRANGER_RATE, clock: Clock | None = None) -> None:
        self._app = app
        self._rate = rate
        self._turns = Turns(rate, clock or SystemClock())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle or refuse a request."""

        async def send_in_turn(message: Message) -> None:
            if message["type"] == "http.response.start" and "principal" not in scope.get("state", {}):
                await self._wait(scope)  # the request's key is not valid
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif any(name == b"authorization" for name, _ in scope["headers"]):
            await self._app(scope, receive, send_in_turn)
        elif await self._wait(scope):
            await self._app(scope, receive, send)
        else:
            await send_problem(self._too_often(), scope, receive, send)

    async def _wait(self, scope: Scope) -> bool:
        """Delay the request, and return whether to handle the request."""
        address, name = scope.get("client"), scope["path"].rpartition("/")[2]
        client = "unknown" if address is None else network_of(address[0])
        seconds = self._turns.take(f"{client} {name}" if name in _PROBES else client)
        if seconds != 0.0:
            await asyncio.sleep(self._rate.wait_seconds_max if seconds is None else seconds)
        return seconds is not None

    def _too_often(self) -> ProblemError:
        seconds = math.ceil(self._rate.wait_seconds_max)
        detail = (
            f"this address sends more than {self._rate.requests_per_second:g} requests per second without a valid key: try again "
            f"in {seconds} s"
        )
        return too_many("requests", detail, status=429, seconds=seconds)
