"""Ports of the loopback for servers that have to be told one.

Import it by name (``tests/support`` is on pytest's path): ``from free_ports import reserved_port``.
"""

import socket


def reserved_port() -> int:
    """Return a port that a server can listen at, and that nobody else gets by chance for a minute.

    The end of a connection leaves the port in the state TIME_WAIT. The kernel then gives it to nobody who asks for any port, and lets
    a server have it that asks for this port with SO_REUSEADDR, as servers do.
    """
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as client,
    ):
        accepted, _ = listening.accept()
        # The side that closes first keeps the state.
        accepted.close()
        assert client.recv(1) == b""
        return int(listening.getsockname()[1])
