"""The connections between a registry and the other processes that have the same data directory open."""

import asyncio
import contextvars
import os
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.metadata import version
from typing import Final
from weakref import WeakSet

import anyio

from tenantry.errors import TenantError
from tenantry.eventlog import EventLog
from tenantry.files.lock_file import HOST
from tenantry.forks import disconnect, left_in_children
from tenantry.schemas.schema import Schema
from tenantry.tenancy.peers.connections.messages import PROTOCOL_VERSION, Hello, Welcome
from tenantry.tenancy.peers.connections.owner_connection import ConnectionEndedError, OwnerConnection
from tenantry.tenancy.peers.connections.peer_socket import PeerSocket, is_socket_name
from tenantry.tenancy.peers.process_slots import ProcessSlots
from tenantry.tenancy.peers.sent_units import SentUnits
from tenantry.tenancy.peers.serving.peer_limits import PeerLimits
from tenantry.tenancy.peers.serving.served_connection import ServedConnection
from tenantry.tenancy.peers.serving.served_operations import ServedOperations
from tenantry.tenancy.peers.serving.served_tenants import ServedTenants
from tenantry.threads import run_in_thread

PEERS_MANY: Final = "tenantry.peers.many"

_DIALECT: Final = "sqlite"  # the only back end whose tenants have one owner


class Peers:
    """Connects to the owners of tenants, and accepts the connections of processes that need tenants of this one.

    There is one connection to each other process, and one from each. If a process connects again, its older connection ends.

    Args:
        slots: The numbers of the processes, for their metrics.
        sent_units: Has the token of this registry.
    """

    def __init__(
        self,
        socket: PeerSocket,
        slots: ProcessSlots,
        served: ServedTenants,
        operations: ServedOperations,
        schemas: Sequence[Schema],
        *,
        sent_units: SentUnits,
        connect_timeout_seconds: float,
        now: Callable[[], float],
        log: EventLog,
        limits: PeerLimits | None = None,
    ) -> None:
        self._socket = socket
        self.slots = slots
        self._served = served
        self._operations = operations
        self._schemas = tuple(schemas)
        self._sent_units = sent_units
        self._connect_timeout_seconds = connect_timeout_seconds
        self._now = now
        self._log = log
        self._limits = limits or PeerLimits()
        self._owners: dict[str, OwnerConnection] = {}
        self._connecting: dict[str, asyncio.Task[OwnerConnection]] = {}
        self._accepted: dict[ServedConnection, None] = {}  # the oldest first
        self._is_crowded = False  # the limit of accepted connections was reached, and the log says so
        self._by_token: dict[bytes, ServedConnection] = {}
        _all_peers.add(self)

    def is_reachable(self, name: str | None) -> bool:
        """Return whether a lock file's name of a socket may be the name of another registry's socket."""
        return name is not None and is_socket_name(name) and name != self._socket.name()

    def may_have_others(self) -> bool:
        """Return whether another registry may have the data directory open; see `PeerSocket.may_have_others`."""
        return self._socket.may_have_others()

    async def open(self, measure: Callable[[], bytes]) -> None:
        """Choose the token of this registry, and listen for other processes.

        Args:
            measure: Returns the numbers of this registry, as another process gets them.
        """
        self._sent_units.open()
        await self._socket.open(partial(self._accept, measure))
        if (name := self._socket.name()) is not None:
            await run_in_thread(self.slots.take, name)

    def counts(self) -> tuple[int, int]:
        """Return the number of connections to other processes, and the number of those from them."""
        return len(self._owners), len(self._by_token)

    async def wait_answered(self, timeout_seconds: float) -> None:
        """Wait until this registry's forwarded calls have their answers."""
        with anyio.move_on_after(timeout_seconds):
            for owner in list(self._owners.values()):
                await owner.wait_idle()

    def close(self) -> None:
        """End every connection, and stop listening; idempotent."""
        self._socket.close()
        self.slots.release()
        for task in self._connecting.values():
            task.cancel()
        for connection in [*self._owners.values(), *self._accepted]:
            connection.end()

    def abandon(self) -> None:
        """Close the sockets of a registry that was lost without a close, from any thread."""
        self._socket.close()
        self.slots.release()
        self.close_descriptors()

    def close_descriptors(self) -> None:
        """Disconnect every socket, without a word to the other processes or to the event loop.

        The descriptors stay open, but on nothing, because the objects that own the descriptors close them later.
        """
        connections = [*self._owners.values(), *self._accepted]
        descriptors = [self._socket.fileno(), *(one.fileno() for one in connections)]
        disconnect(descriptor for descriptor in descriptors if descriptor is not None and descriptor >= 0)

    def leave_in_child(self) -> None:
        """Disconnect a forked child: otherwise the calls of other processes would wait for the child after the parent's death."""
        self.close_descriptors()
        for connection in [*self._owners.values(), *self._accepted]:
            connection.leave_in_child()

    async def connection_to(self, name: str) -> OwnerConnection | None:
        """Return the connection to the process that listens at this name; None if nobody listens there, or this registry does.

        Raises:
            TenantError: The other process runs a release that this one cannot talk to.
            NoAnswerError: The other process did not introduce itself in time.
        """
        found = self._owners.get(name)
        if found is not None and not found.is_ended:
            return found
        if name == self._socket.name():
            return None
        task = self._connecting.get(name)
        if task is None:
            # The connection stays open, and must not keep the context of the caller that needs it first.
            task = asyncio.create_task(self._connect(name), context=contextvars.Context())
            self._connecting[name] = task
            task.add_done_callback(partial(self._connecting_ended, name))
        await asyncio.wait([task])
        if task.cancelled():  # by `close`
            return None
        try:
            return task.result()
        except (OSError, ConnectionEndedError):
            return None

    def _connecting_ended(self, name: str, task: "asyncio.Task[OwnerConnection]") -> None:
        self._connecting.pop(name, None)
        if not task.cancelled():
            task.exception()  # the callers that wanted the connection may have gone

    def check_schemas(self, owner: OwnerConnection) -> None:
        """Raise an error unless the owner has the same version of each schema pack of this process.

        Raises:
            TenantError: The owner lacks a pack, or has another version of it.
        """
        assert owner.welcome is not None
        theirs, mine = owner.welcome.schemas, self._versions()
        if different := sorted(name for name in mine if theirs.get(name) != mine[name]):
            name = different[0]
            raise TenantError(
                f"process {owner.welcome.pid} has version {theirs.get(name, 'none')} of the schema pack {name!r}, but this process has "
                f"version {mine[name]}: run the same release in all processes, and name the same packs (schemas=, --schema)"
            )

    async def _connect(self, name: str) -> OwnerConnection:
        hello = Hello(PROTOCOL_VERSION, self._sent_units.token, os.getpid(), own_version(), self._versions())
        connection = OwnerConnection(name, hello, now=self._now, on_ended=self._owner_ended, log=self._log)
        await self._socket.connect(name, lambda: connection)
        try:
            await connection.greet(self._now() + self._connect_timeout_seconds)
            self._check_protocol(connection)
        except ConnectionEndedError as error:
            if connection.broken_off is not None:
                raise TenantError(connection.broken_off) from error
            raise
        except BaseException:
            connection.end()
            raise
        self._owners[name] = connection
        return connection

    @staticmethod
    def _check_protocol(connection: OwnerConnection) -> None:
        """Raise an error if the other process speaks another protocol, or if the connection has ended since its answer."""
        if connection.is_ended:
            raise ConnectionEndedError
        assert connection.welcome is not None
        if (theirs := connection.welcome).protocol != PROTOCOL_VERSION:
            raise TenantError(
                f"process {theirs.pid} runs tenantry {theirs.version} and speaks version {theirs.protocol} of the protocol between "
                f"processes, but this process with tenantry {own_version()} speaks version {PROTOCOL_VERSION}: run the same release in all "
                "processes"
            )

    def _accept(self, measure: Callable[[], bytes]) -> ServedConnection:
        welcome = Welcome(PROTOCOL_VERSION, os.getpid(), own_version(), self._versions(), HOST)
        connection = ServedConnection(
            self._served,
            self._operations,
            welcome,
            self._limits,
            measure=measure,
            on_greeted=self._greeted,
            on_ended=self._served_ended,
            log=self._log,
        )
        self._accepted[connection] = None
        if len(self._accepted) > self._limits.connections_max:
            if not self._is_crowded:
                self._log.warning(PEERS_MANY, connections_max=self._limits.connections_max)
            self._is_crowded = True
            # The new connection is the last that has not introduced itself.
            next(one for one in self._accepted if one.hello is None).end()
        return connection

    def _greeted(self, connection: ServedConnection) -> None:
        assert connection.hello is not None
        older = self._by_token.pop(connection.hello.token, None)
        self._by_token[connection.hello.token] = connection
        if older is not None:
            older.end()

    def _served_ended(self, connection: ServedConnection) -> None:
        self._accepted.pop(connection, None)
        if len(self._accepted) < self._limits.connections_max // 2:
            self._is_crowded = False
        hello = connection.hello
        if hello is not None and self._by_token.get(hello.token) is connection:
            del self._by_token[hello.token]

    def _owner_ended(self, connection: OwnerConnection) -> None:
        if self._owners.get(connection.name) is connection:
            del self._owners[connection.name]

    def _versions(self) -> dict[str, int]:
        return {schema.name: len(schema.migrations(_DIALECT)) for schema in self._schemas}


@cache
def own_version() -> str:
    """Return the version of tenantry in this process."""
    return version("tenantry")


_all_peers: Final[WeakSet[Peers]] = left_in_children()
