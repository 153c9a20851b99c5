"""The limits of an HTTP server on clients' time and on the number of connections and requests."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """The limits of one HTTP server.

    Attributes:
        handshake_seconds_max: The time for a client's TLS handshake.
        head_seconds_max: The time for a client to send the head of a request. If a response is sent before the request's body was
            read, the rest of the body must also arrive in this time.
        idle_seconds_max: The time for which a client may keep a connection open between two requests. The default exceeds the idle
            timeout of proxies, usually 60 s, so that the server does not close a connection just as a proxy uses the connection.
        end_seconds_max: The time for a client to end TLS after the server has sent all data and closed the connection.
        connections_max: The largest number of open connections; further connections are refused.
        connections_per_client_max: The largest number of open connections from one client's address.
        requests_max: The number of running requests; further requests get 503. A request of a disconnected client still counts.
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
"""The time after which the kernel ends a connection whose client does not receive sent data (TCP_USER_TIMEOUT, tcp(7))."""
