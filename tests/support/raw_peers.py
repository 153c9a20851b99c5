"""A process that speaks the protocol between processes byte by byte, and may break it.

Import it by name (``tests/support`` is on pytest's path): ``from raw_peers import raw_peer``.
"""

import asyncio
import os
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec

from tenantry import TenantRegistry
from tenantry.sql.statements import Fetch
from tenantry.tenancy.peers.connections.messages import (
    PROTOCOL_VERSION,
    Answer,
    Hello,
    Read,
    Request,
    SentStatement,
    Welcome,
    Write,
    decode_answer,
    decode_request,
)
from tenantry.tenancy.peers.serving.peer_limits import PeerLimits
from tenants import HANG_SECONDS

HEAD: Final = struct.Struct("<II")
encode: Final = msgspec.msgpack.encode


def socket_of(registry: TenantRegistry) -> Path:
    """Return the path of the socket at which a registry listens."""
    name = registry._parts.peers._socket.name()
    assert name is not None
    return registry.config.data_dir / "peers" / name


def with_limits(registry: TenantRegistry, **limits: Any) -> TenantRegistry:
    """Give other limits to the connections that a registry accepts from now on, and return the registry."""
    registry._parts.peers._limits = replace(PeerLimits(), **limits)
    return registry


def array_of(length: int) -> bytes:
    """Return the head of an array that announces so many elements, as MessagePack has it."""
    return b"\xdd" + length.to_bytes(4, "big")


def frame(call: int, message: Any) -> bytes:
    """Return the bytes of a message; of bytes as they are, with a head in front."""
    body = message if isinstance(message, bytes) else encode(message)
    return HEAD.pack(len(body), call) + body


def hello(token: bytes | None = None, **fields: Any) -> Hello:
    """Return the first message of a connection."""
    values = {"protocol": PROTOCOL_VERSION, "pid": os.getpid(), "version": "test", "schemas": {}, **fields}
    return Hello(token=os.urandom(16) if token is None else token, **values)


def insert(text: object) -> SentStatement:
    """Return the statement that adds a note, and returns its id."""
    return SentStatement("notes.add", "INSERT INTO notes (text) VALUES (?) RETURNING id", (text,), Fetch.ONE)


def count_notes() -> SentStatement:
    """Return the statement that counts the notes."""
    return SentStatement("notes.count", "SELECT count(*) FROM notes", (), Fetch.ONE)


def write(uid: str, number: int, *statements: SentStatement, **fields: Any) -> Write:
    """Return the request for a unit of the tenant ``acme``."""
    values = {
        "tenant_id": "acme",
        "remaining_seconds": 30.0,
        "answered_to": 0,
        "is_repeated": False,
        "is_look_up": False,
        **fields,
    }
    return Write(uid=uid, number=number, statements=list(statements) or [insert(number)], **values)


def read(uid: str, **fields: Any) -> Read:
    """Return the request for the number of notes of the tenant ``acme``."""
    values = {"tenant_id": "acme", "remaining_seconds": 30.0, "statement": count_notes(), **fields}
    return Read(uid=uid, **values)


async def uid_of(registry: TenantRegistry, tenant_id: str = "acme") -> str:
    """Return the permanent key of a tenant."""
    return (await registry.get(tenant_id)).uid


class RawPeer:
    """One connection to a registry, on which a test writes what it wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *frames: bytes) -> None:
        """Send bytes."""
        self.writer.write(b"".join(frames))

    async def message(self) -> tuple[int, bytes]:
        """Return the next message with the number of its call; raise `EOFError` at the end of the connection."""
        try:
            length, call = HEAD.unpack(await self.reader.readexactly(HEAD.size))
            return call, await self.reader.readexactly(length)
        except ConnectionError as error:
            raise EOFError from error

    async def answer(self) -> tuple[int, Answer]:
        """Return the next answer with the number of its call; raise `EOFError` at the end of the connection."""
        async with asyncio.timeout(HANG_SECONDS):
            call, message = await self.message()
            return call, decode_answer(message)

    async def request(self) -> tuple[int, Request]:
        """Return the next request of the other process with the number of its call; for an owner (`raw_owner`)."""
        async with asyncio.timeout(HANG_SECONDS):
            length, call = HEAD.unpack(await self.reader.readexactly(HEAD.size))
            return call, decode_request(await self.reader.readexactly(length))

    async def answer_to(self, call: int) -> Answer:
        """Return the answer to a call, and skip the answers before it."""
        while True:
            number, answer = await self.answer()
            if number == call:
                return answer

    async def greet(self, token: bytes | None = None, **fields: Any) -> Welcome:
        """Introduce this process."""
        self.send(frame(0, hello(token, **fields)))
        answer = await self.answer_to(0)
        assert isinstance(answer, Welcome), answer
        return answer

    async def ended(self) -> bytes:
        """Wait until the other process has closed the connection; return what it sent before."""
        async with asyncio.timeout(HANG_SECONDS):
            received = bytearray()
            try:
                while part := await self.reader.read(2**20):
                    received += part
            except ConnectionError:
                pass  # bytes that the other process has not read reset the connection
            return bytes(received)

    def close(self) -> None:
        """Close the connection."""
        self.writer.transport.abort()


@asynccontextmanager
async def raw_peer(path: Path) -> AsyncIterator[RawPeer]:
    """Connect to the socket of a registry."""
    peer = RawPeer(*await asyncio.open_unix_connection(path, limit=2**26))
    try:
        yield peer
    finally:
        peer.close()


@asynccontextmanager
async def raw_owner(
    data_dir: Path, name: str, serve: Callable[[RawPeer], Any]
) -> AsyncIterator[list[RawPeer]]:
    """Listen as an owner of tenants would, and serve each connection with a function; yield the list of connections so far.

    Args:
        data_dir: The data directory, whose folder of sockets exists.
        name: The name of the socket.
        serve: A coroutine function.
    """
    served: list[RawPeer] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = RawPeer(reader, writer)
        served.append(peer)
        try:
            await serve(peer)
        except EOFError:
            pass  # the caller has gone
        finally:
            peer.close()

    server = await asyncio.start_unix_server(connected, data_dir / "peers" / name, limit=2**26)
    try:
        yield served
    finally:
        server.close()
        for peer in served:
            peer.close()
