"""Handles the signals of a service, and stops its servers.

| signal | effect |
|---|---|
| SIGTERM, SIGINT | the service drains, then waits for requests; a second signal ends both |
| SIGHUP | the service reloads the certificate, or stops if its terminal was closed |
| SIGUSR1, SIGUSR2 | none |
"""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from tenantry.eventlog import EventLog
from tenantry.server.http_server import HttpServer

SERVICE_DRAINING: Final = "tenantry.service.draining"

_STOP: Final = (signal.SIGTERM, signal.SIGINT)
_STDIN: Final = 0


class Stopping:
    """Runs servers until a signal arrives.

    Args:
        drain_seconds: The time after the first signal for which the servers still accept requests.
        reload: The function to call at SIGHUP; None for no function.
    """

    def __init__(self, drain_seconds: float, reload: Callable[[], None] | None) -> None:
        self._drain_seconds = drain_seconds
        self._reload = reload
        self._has_terminal = os.isatty(_STDIN)
        self._is_asked = asyncio.Event()
        self._is_urgent = asyncio.Event()
        self._servers: Sequence[HttpServer] = ()
        self._log = EventLog()

    @contextmanager
    def at_signals(self) -> Iterator[None]:
        """Handle signals during the block."""
        loop = asyncio.get_running_loop()
        for number in _STOP:
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        try:
            yield
        finally:
            for number in (*_STOP, signal.SIGHUP):
                loop.remove_signal_handler(number)

    async def run(
        self,
        servers: Sequence[HttpServer],
        sockets: Sequence[socket.socket],
        *,
        is_ready: Callable[[], None],
        is_draining: Callable[[], None],
        is_stopping: Callable[[], None],
    ) -> None:
        """Run the servers, each with its socket, until all servers have stopped."""
        self._servers = servers
        async with asyncio.TaskGroup() as group:
            for server, made in zip(servers, sockets, strict=True):
                group.create_task(server.serve(made))
            is_ready()  # the kernel accepts connections already
            await self._is_asked.wait()
            is_draining()
            await self._drain()
            for server in servers:
                server.stop(is_urgent=self._is_urgent.is_set())
            is_stopping()

    async def _drain(self) -> None:
        if self._drain_seconds == 0:
            return
        self._log.info(SERVICE_DRAINING, seconds=self._drain_seconds)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain_seconds):
                await self._is_urgent.wait()

    def _stop(self) -> None:
        if self._is_asked.is_set():
            self._is_urgent.set()
            for server in self._servers:
                server.stop(is_urgent=True)
        self._is_asked.set()

    def _hang_up(self) -> None:
        # The kernel also sends SIGHUP when the process's terminal is closed.
        if self._has_terminal and not os.isatty(_STDIN):
            self._stop()
        elif self._reload is not None:
            self._reload()
