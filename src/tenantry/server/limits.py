"""The limits of an HTTP server: how long clients may take, and how many connections and requests there may be."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """The limits of one HTTP server.

    Attributes:
        handshake_seconds_max: How long a client may take for the TLS handshake.
        head_seconds_max: How long a client may take to send the head of a request. After a response to a request whose body has not
            been read, the rest of that body must arrive in this time too.
        idle_seconds_max: How long a client may keep a connection open between two requests. Longer than proxies do, usually 60 s:
            if the server closed the connection first, a proxy could send a request at that moment, and would not know whether it
            was handled.
        end_seconds_max: How long a client may take to end TLS on a closed connection, after it has received everything.
        connections_max: Further connections are refused.
        connections_per_client_max: Further connections of the same address are refused, so that one client cannot take all of them.
        requests_max: Further requests get 503. A request counts until it has been handled, even if its client has disconnected.
    """

    handshake_seconds_max: float = 10.0
    head_seconds_max: float = 20.0
    idle_seconds_max: float = 75.0
    end_seconds_max: float = 2.0
    connections_max: int = 256
    connections_per_client_max: int = 128
    requests_max: int = 256


SERVER_LIMITS: Final = ServerLimits()

UNRECEIVED_SECONDS_MAX: Final = 30.0
"""The kernel ends a connection whose client receives nothing for so long although there is something to receive
(TCP_USER_TIMEOUT, tcp(7))."""
