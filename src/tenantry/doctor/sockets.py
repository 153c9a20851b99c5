"""Asks each process that listens in a data directory who it is."""

import asyncio
import os
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import Final, NamedTuple

from tenantry.doctor.process import ProcessState
from tenantry.errors import TenantryError
from tenantry.eventlog import EventLog
from tenantry.tenancy.peers.connections.messages import PROTOCOL_VERSION, Hello, Welcome
from tenantry.tenancy.peers.connections.owner_connection import (
    ANSWER_GRACE_SECONDS,
    ConnectionEndedError,
    NoAnswerError,
    OwnerConnection,
)
from tenantry.tenancy.peers.connections.peer_socket import PeerSocket

ANSWER_SECONDS_MAX: Final = 1.0
"""The longest wait for the answer of a process."""

_ASKED_MAX: Final = 64
"""The largest number of processes that are asked at the same time."""


class SocketAnswer(NamedTuple):
    """The answer at a socket.

    Attributes:
        name: The name of the socket.
        state: How the process treats the calls of other processes; None if no process listens at the socket any more.
        reason: Why the process does not answer.
        pid: The process id, as this machine sees it; None if the process is not visible here.
        welcome: The answer of the process, if it answers.
    """

    name: str
    state: ProcessState | None
    reason: str = ""
    pid: int | None = None
    welcome: Welcome | None = None


async def ask_sockets(data_dir: Path) -> list[SocketAnswer]:
    """Return the answer at each socket of the data directory. The answers take `ANSWER_SECONDS_MAX` for each 64 sockets at most."""
    socket = PeerSocket(data_dir, is_wanted=False, log=EventLog())
    limiter = asyncio.Semaphore(_ASKED_MAX)

    async def ask(name: str) -> SocketAnswer | None:
        async with limiter:
            return await _ask(socket, name)

    answers = await asyncio.gather(*map(ask, socket.others()))
    return [answer for answer in answers if answer is not None]


async def _ask(socket: PeerSocket, name: str) -> SocketAnswer | None:
    """Return the answer at a socket; None if the socket has just been removed."""
    loop = asyncio.get_running_loop()
    # Without schema packs: the doctor asks for no tenants.
    hello = Hello(PROTOCOL_VERSION, uuid.uuid4().bytes, os.getpid(), version("tenantry"), {})
    connection = OwnerConnection(name, hello, now=loop.time, on_ended=lambda _: None, log=EventLog())
    state, reason = ProcessState.ANSWERING, ""
    until = loop.time() + ANSWER_SECONDS_MAX
    try:
        async with asyncio.timeout_at(until):
            await socket.connect(name, lambda: connection)
            await connection.greet(until - ANSWER_GRACE_SECONDS)
    except FileNotFoundError:
        return None
    except ConnectionRefusedError:
        return SocketAnswer(name, None)
    except BlockingIOError:
        state, reason = ProcessState.SILENT, "too many connections wait at its socket"
    except (TimeoutError, NoAnswerError):
        state, reason = ProcessState.SILENT, f"no answer within {ANSWER_SECONDS_MAX:g} s"
    except ConnectionEndedError:
        if name not in socket.others():
            return None  # the process has just closed its registry
        state, reason = ProcessState.REFUSING, _ended(connection)
    except (OSError, TenantryError) as error:
        state, reason = ProcessState.REFUSING, str(error)
    finally:
        connection.end()
    return SocketAnswer(name, state, reason, connection.peer_pid, connection.welcome)


def _ended(connection: OwnerConnection) -> str:
    """Return the reason for which a connection has ended."""
    if connection.peer_uid != os.geteuid():
        return f"it answers only to its own user {connection.peer_uid}"
    return "it closed the connection"
