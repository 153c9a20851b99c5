"""The socket at which a registry takes calls of other processes, in the folder ``peers`` of the data directory.

The socket has a random name. The lock file of each tenant that the registry owns has that name, so that other processes find the
owner. A process id would not do, because each container may have a process 1.

A Unix socket's address has at most 107 bytes. The socket of a directory with a longer path is bound and connected through the
descriptor of its folder: ``/proc/self/fd/<descriptor>/<name>``. Only such a directory needs ``/proc``.

The folder is open to its user only, and both ends of a connection check the other's user (`frames`). A folder of another user, or a
symbolic link, is not used.
"""

import asyncio
import contextlib
import os
import re
import socket
import stat
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tenantry.eventlog import EventLog

PEERS_NOT_HEARD: Final = "tenantry.peers.not_heard"

_BACKLOG: Final = 128
_DIRECTORY_MODE: Final = 0o700
_SOCKET_MODE: Final = 0o600
_UNBOUND: Final = ".new"
"""The end of the name of a socket that does not listen yet."""
_UNBOUND_SECONDS_MAX: Final = 60.0
"""The age at which a socket that never listened is removed, because its process has died."""
_NAME: Final = re.compile(rf"[0-9a-f]{{12}}({re.escape(_UNBOUND)})?")
"""The folder also has the lock files of `tenantry.tenancy.peers.process_slots`."""
_ADDRESS_BYTES_MAX: Final = 107
_SETTLED_NS: Final = 100_000_000
"""The age at which a change of the folder is certain to have another time than the next change: the kernel's clock ticks every 10 ms."""


class PeerSocket:
    """The socket of one registry. The constructor does no I/O."""

    def __init__(self, data_dir: Path, *, is_wanted: bool, log: EventLog) -> None:
        self._directory = data_dir / "peers"
        self._is_wanted = is_wanted
        self._log = log
        self._name = ""
        self._server: asyncio.Server | None = None
        self._socket: socket.socket | None = None
        # The time of the folder's last change when `_has_others` was read from the folder; None if the folder must be read again.
        self._listed_ns: int | None = None
        self._has_others = True

    def name(self) -> str | None:
        """Return the name of the socket; None while the registry does not listen."""
        return None if self._socket is None else self._name

    def fileno(self) -> int | None:
        """Return the descriptor of the listening socket; None while the registry does not listen."""
        return None if self._socket is None else self._socket.fileno()

    async def open(self, factory: Callable[[], asyncio.BaseProtocol]) -> None:
        """Listen, if forwarding is wanted. If that fails, other processes are refused as without forwarding, and a warning is logged.

        Only Linux listens: other systems have no SO_PEERCRED, or return its fields in another order. A caller that is cancelled calls
        `close`.

        Args:
            factory: Creates the protocol of each connection.
        """
        if not self._is_wanted:
            return
        if sys.platform != "linux":
            self._warn(f"{sys.platform} has no SO_PEERCRED, which tells whose process has connected")
            return
        # Processes that are forked before their registries open need different names.
        self._name = uuid.uuid4().hex[:12]
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._directory.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
            with self._opened_directory() as fd:
                _protect(fd, self._directory)
                self._remove_abandoned(fd)
                os.fchmod(listening.fileno(), _SOCKET_MODE)
                # A socket gets its name only when it listens, so that nobody takes it for the socket of a dead process.
                unbound = f"{self._name}{_UNBOUND}"
                listening.bind(self._address(unbound, fd))
                os.chmod(unbound, _SOCKET_MODE, dir_fd=fd)
                listening.listen(_BACKLOG)
                os.rename(unbound, self._name, src_dir_fd=fd, dst_dir_fd=fd)
        except OSError as error:
            listening.close()
            self._warn(str(error))
            return
        self._socket = listening
        # The server is kept before it watches the socket: `close` must end a server whose start is cancelled. Otherwise the event loop
        # would still know the closed descriptor, and would not watch the next file with the same descriptor.
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(factory, sock=listening, start_serving=False)
        await self._server.start_serving()

    def close(self) -> None:
        """Stop listening, and remove the socket's name; idempotent."""
        listening, self._socket = self._socket, None
        server, self._server = self._server, None
        if server is not None:
            server.close()
        if listening is not None:
            listening.close()
            with contextlib.suppress(OSError):
                (self._directory / self._name).unlink()

    async def connect(self, name: str, factory: Callable[[], asyncio.BaseProtocol]) -> asyncio.BaseProtocol:
        """Connect to the socket with this name.

        Raises:
            OSError: Nobody listens at this name.
        """
        if not is_socket_name(name):
            raise FileNotFoundError(f"{name!r} is not the name of a socket")
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            with self._opened_directory() as fd:
                # This never waits: if too many connections wait to be accepted, the error is EAGAIN.
                connecting.connect(self._address(name, fd))
            _, protocol = await asyncio.get_running_loop().create_unix_connection(factory, sock=connecting)
        except BaseException:
            connecting.close()
            raise
        return protocol

    def others(self) -> list[str]:
        """Return the names of the sockets of all other registries, of this process too; empty if the folder cannot be read."""
        try:
            names = sorted(path.name for path in self._directory.iterdir())
        except OSError:
            return []
        return [name for name in names if is_socket_name(name) and name != self._name]

    def may_have_others(self) -> bool:
        """Return whether another registry may listen, without waiting: only a change of the folder needs a listing.

        A registry has its name in the folder before it opens a tenant. The folder's entry stays in the kernel's memory while this
        registry listens in it, so the status of the folder needs no disk.
        """
        try:
            changed_ns = self._directory.stat().st_mtime_ns
        except OSError:
            return True
        if changed_ns != self._listed_ns:
            is_settled = time.time_ns() - changed_ns > _SETTLED_NS
            self._has_others = bool(self.others())
            self._listed_ns = changed_ns if is_settled else None
        return self._has_others

    def _warn(self, error: str) -> None:
        self._log.warning(PEERS_NOT_HEARD, directory=str(self._directory), error=error)

    @contextmanager
    def _opened_directory(self) -> Iterator[int]:
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)

    def _address(self, name: str, fd: int) -> str:
        """Return the address of a socket in the folder, which has the descriptor."""
        address = str(self._directory / name)
        return address if len(os.fsencode(address)) <= _ADDRESS_BYTES_MAX else f"/proc/self/fd/{fd}/{name}"

    def _remove_abandoned(self, fd: int) -> None:
        """Remove the names of sockets at which no process listens any more."""
        for name in filter(_NAME.fullmatch, os.listdir(fd)):
            with contextlib.suppress(OSError):
                found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISSOCK(found.st_mode) and not self._is_heard(name, fd, found.st_mtime):
                    os.unlink(name, dir_fd=fd)

    def _is_heard(self, name: str, fd: int, made_at: float) -> bool:
        """Return whether a process listens at a socket, or is about to."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            try:
                probe.connect(self._address(name, fd))
            except ConnectionRefusedError:
                return name.endswith(_UNBOUND) and time.time() - made_at < _UNBOUND_SECONDS_MAX
        return True


def is_socket_name(name: str) -> bool:
    """Return whether a name is the name of a listening socket."""
    found = _NAME.fullmatch(name)
    return found is not None and not found[1]


def _protect(fd: int, directory: Path) -> None:
    """Let only this process's user use the folder.

    Raises:
        PermissionError: The folder belongs to another user.
    """
    found = os.fstat(fd)
    if found.st_uid != os.geteuid():
        raise PermissionError(
            f"{directory} belongs to user {found.st_uid}, and this process has user {os.geteuid()}: run all processes as one user"
        )
    if stat.S_IMODE(found.st_mode) != _DIRECTORY_MODE:
        os.fchmod(fd, _DIRECTORY_MODE)
