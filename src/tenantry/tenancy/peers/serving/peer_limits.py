"""The limits within which a process serves other processes, whatever they send."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PeerLimits:
    """The limits of the connections from other processes. They protect this process from a peer that fails or is stopped.

    Attributes:
        connections_max: The largest number of connections. One more ends the oldest connection that has not introduced itself, or is
            refused.
        hello_seconds_max: The time in which a connection must introduce itself.
        calls_max: The largest number of unanswered calls of one connection. This process then reads no more of that connection.
        transactions_max: The largest number of transactions of one connection whose end was not asked for.
        frames_per_step: The largest number of calls of one connection that are taken in one step of the event loop. With all calls in
            one step, a flood of forwarded reads multiplied the p99 latency of a quiet tenant by 3, and with 16 by 1.4.
        unread_bytes_max: The largest size of the answers that a connection has not read. A result that exceeds it is not sent, and its
            call gets an error. While answers are unread, this process reads no more calls of the connection.
        unread_seconds_max: The time after which a connection ends that does not read its answers.
    """

    connections_max: int = 256
    hello_seconds_max: float = 5.0
    calls_max: int = 1_024
    transactions_max: int = 1_024
    frames_per_step: int = 16
    unread_bytes_max: int = 256 * 1024 * 1024
    unread_seconds_max: float = 60.0
