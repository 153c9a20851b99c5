"""The limits of an HTTP server: how long clients may take, and how many connections and requests there may be."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """The limits of one HTTP server.

    Attributes:
        head_seconds_max: How long a client may take to send the head of a request.
        idle_seconds_max: How long a client may keep a connection open between two requests. Longer than proxies do, usually 60 s:
            if the server closed the connection first, a proxy could send a request at that moment, and would not know whether it
            was handled.
        left_body_seconds_max: How long a client may continue to send a body after the response. Most clients read the response
            only after they have sent the whole body, and lose it if the connection is closed before.
        left_body_pause_seconds_max: How long a client may pause in such a body.
        stuck_seconds: A client that receives nothing of a response is disconnected after one to two of these intervals.
        end_seconds_max: How long a client may take to close a connection that the server has closed and that has nothing left to
            send.
        handshake_seconds_max: How long a client may take for the TLS handshake.
        closed_seconds_max: How long a closed connection may take to send the rest. `TimeoutConnection` ends it sooner if the client
            receives nothing or has received everything; asyncio cannot tell the two apart, and would drop the rest.
        connections_max: Further connections are refused.
        connections_per_client_max: Further connections of the same address are refused, so that one client cannot take all of them.
        requests_max: Further requests get 503. A request counts until it has been handled, even if its client has disconnected.
    """

    head_seconds_max: float = 20.0
    idle_seconds_max: float = 75.0
    left_body_seconds_max: float = 30.0
    left_body_pause_seconds_max: float = 2.0
    stuck_seconds: float = 30.0
    end_seconds_max: float = 2.0
    handshake_seconds_max: float = 10.0
    closed_seconds_max: float = 60.0
    connections_max: int = 256
    connections_per_client_max: int = 128
    requests_max: int = 256

    def has_too_many(self, networks: Sequence[str | None], network: str | None) -> bool:
        """Return whether there are too many connections in all, or from one network.

        Args:
            networks: The network of each connection; None if it is unknown or shared.
            network: The network whose share is checked; None for no share.
        """
        is_over_share = network is not None and networks.count(network) > self.connections_per_client_max
        return len(networks) > self.connections_max or is_over_share


SERVER_LIMITS: Final = ServerLimits()
