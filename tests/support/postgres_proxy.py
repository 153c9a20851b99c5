"""A proxy in front of a PostgreSQL server that loses connections at chosen moments.

Import it by name (``tests/support`` is on pytest's path): ``from postgres_proxy import open_proxy``.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

_PORT = 5432
_CHUNK_BYTES = 65_536
_ANSWERS = 3
_READY = b"Z\x00\x00\x00\x05"
"""The beginning of the message with which the server ends its answer to a Sync."""


class Fault(Enum):
    """What happens to the next message of the client."""

    PASSED = auto()
    """Nothing happens."""
    LOST = auto()
    """The message does not reach the server, and the connection ends."""
    ANSWER_LOST = auto()
    """The server runs the message; when the server has answered, the connection ends without the answer."""
    ANSWER_CUT = auto()
    """The same, but the client gets the answers to the first three transactions."""
    END_CUT = auto()
    """The same, but the client gets the whole answer except for the message that says that the transaction was committed."""
    LATE = auto()
    """The connection ends for the client, and the message reaches the server when the test says so."""


@dataclass
class Proxy:
    """The proxy's faults, and what it has seen.

    Attributes:
        url: The address of the database through the proxy.
        marker: Only messages that contain this text are affected.
        faults: The faults of the next messages, in order.
        release: Lets the late message through.
        delivered: Set when the server has answered the late message.
    """

    url: str
    marker: bytes = b""
    faults: list[Fault] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    delivered: asyncio.Event = field(default_factory=asyncio.Event)

    def next_fault(self, message: bytes) -> Fault | None:
        """Return the fault of a message of the client."""
        return self.faults.pop(0) if self.faults and self.marker in message else None


@asynccontextmanager
async def open_proxy(url: str) -> AsyncIterator[Proxy]:
    """Open a proxy in front of a server that listens on a Unix socket."""
    parts = urlsplit(url)
    options = parse_qs(parts.query)
    server = f"{options['host'][0]}/.s.PGSQL.{options['port'][0]}"
    with tempfile.TemporaryDirectory(prefix="proxy-") as directory:
        query = f"host={quote(directory, safe='')}&port={_PORT}"
        proxy = Proxy(urlunsplit(parts._replace(query=query)))
        tasks: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            with suppress(ConnectionError, asyncio.CancelledError):
                await _serve(proxy, server, reader, writer)
            writer.close()

        listener = await asyncio.start_unix_server(serve, Path(directory) / f".s.PGSQL.{_PORT}")
        try:
            yield proxy
        finally:
            listener.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _serve(
    proxy: Proxy, server: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    from_server, to_server = await asyncio.open_unix_connection(server)
    answers = asyncio.create_task(_copy(from_server, writer))
    try:
        while message := await reader.read(_CHUNK_BYTES):
            fault = proxy.next_fault(message)
            if fault is not None and fault is not Fault.PASSED:
                answers.cancel()
                await asyncio.gather(answers, return_exceptions=True)
                await _lose(proxy, fault, message, from_server, to_server, writer)
                return
            to_server.write(message)
            await to_server.drain()
    finally:
        answers.cancel()
        to_server.close()


async def _lose(
    proxy: Proxy,
    fault: Fault,
    message: bytes,
    from_server: asyncio.StreamReader,
    to_server: asyncio.StreamWriter,
    writer: asyncio.StreamWriter,
) -> None:
    if fault is Fault.LOST:
        return
    if fault is Fault.LATE:
        writer.close()
        await proxy.release.wait()
    to_server.write(message)
    answer = b""
    wanted = _ANSWERS if fault is Fault.ANSWER_CUT else 1
    while answer.count(_READY) < wanted and (chunk := await from_server.read(_CHUNK_BYTES)):
        answer += chunk
    if fault is Fault.LATE:
        proxy.delivered.set()
    elif fault is Fault.ANSWER_CUT:
        # One byte of the message comes after its beginning.
        *parts, _ = answer.split(_READY, wanted)
        writer.write(_READY.join([*parts, b"I"]))
    elif fault is Fault.END_CUT:
        writer.write(answer.partition(_READY)[0])
    await writer.drain()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
    writer.close()
