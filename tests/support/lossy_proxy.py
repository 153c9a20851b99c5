"""A proxy between tenantry and a PostgreSQL server that loses the server's answers when the test says so.

Import it by name (``tests/support`` is on pytest's path): ``from lossy_proxy import lossy_proxy``.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from postgres_processes import PORT, make_directory

_READY_FOR_QUERY: Final = ord("Z")
_BYTES_MAX: Final = 2**16


class LossyProxy:
    """A proxy that listens at a Unix socket.

    Attributes:
        directory: The directory of the proxy's socket; the port is the server's usual one.
        lost: The number of answers that were lost.
        is_armed: Whether the next answer that ends a transaction is lost: the server has committed it, the client's connection ends
            without a byte of it.
        chance: The probability with which a connection ends at a message, in either direction.

    Args:
        server_directory: The directory of the server's socket.
        seed: The seed of the random numbers.
    """

    def __init__(self, server_directory: Path, seed: int = 0) -> None:
        self.directory = make_directory("proxy")
        self.lost = 0
        self.is_armed = False
        self.chance = 0.0
        self._choices = random.Random(seed)
        self._server_directory = server_directory
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a client in a task of its own."""
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        """End all connections."""
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect a client with the server until one of the two leaves."""
        server_path = self._server_directory / f".s.PGSQL.{PORT}"
        from_server, server = await asyncio.open_unix_connection(server_path)
        sending = asyncio.create_task(self._forward(reader, server))
        try:
            await self._answer(from_server, writer)
        finally:
            sending.cancel()
            server.close()
            writer.close()

    async def _answer(self, from_server: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        """Forward the server's messages, until one that is to be lost."""
        is_lost = False
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                # https://www.postgresql.org/docs/current/protocol-message-formats.html
                head = await from_server.readexactly(5)
                body = await from_server.readexactly(int.from_bytes(head[1:]) - 4)
                is_lost = is_lost or self.is_armed
                if self._ends():
                    return
                if not is_lost:
                    client.write(head + body)
                    await client.drain()
                elif head[0] == _READY_FOR_QUERY:
                    self.is_armed = False
                    self.lost += 1
                    return

    async def _forward(self, client: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        """Forward what the client sends, until the connection ends, perhaps within a message."""
        with suppress(OSError):
            while sent := await client.read(_BYTES_MAX):
                has_ended = self._ends()
                server.write(sent[: self._choices.randrange(len(sent))] if has_ended else sent)
                await server.drain()
                if has_ended:
                    break
        server.close()

    def _ends(self) -> bool:
        """Return whether the connection ends now."""
        has_ended = self._choices.random() < self.chance
        self.lost += has_ended
        return has_ended


@asynccontextmanager
async def lossy_proxy(server_directory: Path, *, seed: int = 0) -> AsyncIterator[LossyProxy]:
    """Run a proxy in front of the server whose socket is in the directory. Connections must not be encrypted."""
    proxy = LossyProxy(server_directory, seed)
    path = proxy.directory / f".s.PGSQL.{PORT}"
    server = await asyncio.start_unix_server(proxy.serve, path)
    try:
        yield proxy
    finally:
        server.close()
        proxy.stop()
        with suppress(OSError):
            path.unlink()
        proxy.directory.rmdir()
