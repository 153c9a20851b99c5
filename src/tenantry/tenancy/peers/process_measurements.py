"""Asks all processes that have a data directory open for their numbers.

The numbers of several processes are not added up, because the sum of a counter would fall when a process ends.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from tenantry.errors import TenantryError
from tenantry.eventlog import EventLog
from tenantry.tenancy.measurements.families import Family, Series
from tenantry.tenancy.measurements.measurements import Measurements
from tenantry.tenancy.peers.connections import messages
from tenantry.tenancy.peers.connections.messages import Measure, SentMeasurements
from tenantry.tenancy.peers.connections.owner_connection import (
    ANSWER_GRACE_SECONDS,
    ConnectionEndedError,
    NoAnswerError,
    NotOwnerError,
)
from tenantry.tenancy.peers.peers import Peers, own_version
from tenantry.tenancy.peers.process_slots import SlotHolder
from tenantry.tenancy.peers.sent_measurements import unpack
from tenantry.threads import run_in_thread

NOT_MEASURED: Final = "tenantry.peers.not_measured"

MEASURE_TIMEOUT_SECONDS: Final = 1.0
"""The longest wait for the numbers of all other processes."""

_VERSION_LENGTH_MAX: Final = 64
_MEASURE: Final = messages.encode(Measure())


class ProcessMeasured(NamedTuple):
    """The numbers of one process.

    Attributes:
        number: The number of the process in its data directory; None if the process has none, because it does not listen to others.
        pid: The process id.
        version: The process's version of tenantry; None if the process never answered.
        series: The numbers, by the name of their family; None if the process did not answer in time.
    """

    number: int | None
    pid: int
    version: str | None
    series: dict[str, Series] | None


class ProcessMeasurements:
    """The numbers of all processes that have the data directory open."""

    def __init__(
        self, measurements: Measurements, peers: Peers, *, now: Callable[[], float], log: EventLog
    ) -> None:
        self._measurements = measurements
        self._peers = peers
        self._now = now
        self._log = log

    async def of_all(
        self, timeout_seconds: float = MEASURE_TIMEOUT_SECONDS
    ) -> tuple[Sequence[Family], Sequence[ProcessMeasured]]:
        """Return the families, and the numbers of each process; this process is the first."""
        slots = self._peers.slots
        holders = await run_in_thread(slots.others) if slots.number is not None else []
        tasks = [
            asyncio.create_task(self._ask(holder, timeout_seconds), name="tenantry measure")
            for holder in holders
        ]
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=timeout_seconds)
        finally:
            for task in tasks:
                task.cancel()
        measured = self._measurements.measured()
        families = [family for family, _ in measured]
        series = {family.name: series for family, series in measured}
        found = [ProcessMeasured(slots.number, os.getpid(), own_version(), series)]
        for holder, task in zip(holders, tasks, strict=True):
            process = self._measured(holder, task, families)
            if process is not None:
                found.append(process)
        return families, found

    async def _ask(self, holder: SlotHolder, timeout_seconds: float) -> tuple[str, bytes] | None:
        """Return the process's version and its answer; None if the process has ended.

        Raises:
            NoAnswerError: The process takes no connections, or did not answer in time.
            ConnectionEndedError: The connection ended before the answer.
            TenantryError, NotOwnerError, TypeError: The process refuses this one, or breaks the protocol.
        """
        until = self._now() + max(timeout_seconds - ANSWER_GRACE_SECONDS, 0.0)
        connection = await self._peers.connection_to(holder.socket_name)
        if connection is None:
            if await run_in_thread(self._peers.slots.is_held, holder.number):
                raise NoAnswerError(was_started=False)
            return None
        assert connection.welcome is not None
        answer = await connection.ask(_MEASURE, until)
        if not isinstance(answer, SentMeasurements):
            raise TypeError(f"the answer is a {type(answer).__name__}")
        return connection.welcome.version[:_VERSION_LENGTH_MAX], answer.families

    def _measured(
        self,
        holder: SlotHolder,
        task: "asyncio.Task[tuple[str, bytes] | None]",
        families: Sequence[Family],
    ) -> ProcessMeasured | None:
        no_answer = ProcessMeasured(holder.number, holder.pid, None, None)
        if not task.done() or task.cancelled():
            return no_answer
        try:
            answer = task.result()
            if answer is None:
                return None
            its_version, sent = answer
            return ProcessMeasured(holder.number, holder.pid, its_version, unpack(sent, families))
        except (NoAnswerError, ConnectionEndedError):
            return no_answer
        except (TenantryError, NotOwnerError, TypeError, msgspec.DecodeError) as error:
            self._log.warning(NOT_MEASURED, pid=holder.pid, error=str(error))
            return no_answer
