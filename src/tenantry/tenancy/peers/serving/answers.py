"""Sends the answers to the calls of another process."""

import asyncio
from typing import Any, Final

from tenantry.errors import TenantryError
from tenantry.tenancy.peers.connections.frames import FrameConnection
from tenantry.tenancy.peers.connections.message_spin import MessageSpin
from tenantry.tenancy.peers.connections.messages import NotOwner, UnitsDone, encode
from tenantry.tenancy.peers.serving.running_calls import RunningCalls
from tenantry.tenancy.peers.serving.sent_results import encode_error, encode_result
from tenantry.tenancy.peers.serving.served_tenants import ServedTenants

_NOT_OWNER: Final = encode(NotOwner())

_UNITS_PER_MESSAGE: Final = 16
"""As many as other messages in one system call (`frames`): the other process handles these answers while the next units are answered."""


class Answers:
    """The answers of one connection. Each method answers a call, and removes it from the running calls.

    Args:
        calls: The running calls of the connection.
        unread_bytes_max: See `PeerLimits`.
    """

    def __init__(
        self,
        connection: FrameConnection,
        calls: RunningCalls,
        tenants: ServedTenants,
        *,
        unread_bytes_max: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._calls = calls
        self._tenants = tenants
        self._unread_bytes_max = unread_bytes_max
        # The calls of units without results that are answered in this step of the event loop, or at its end.
        self._done_units: list[int] = []
        self._spin = MessageSpin(self._loop, lambda: not calls and not connection.is_ended)

    @property
    def is_spinning(self) -> bool:
        """Whether the event loop stays awake for the next call."""
        return self._spin.is_spinning

    def send_not_owner(self, call: int) -> None:
        """Answer that this process does not have the tenant open."""
        self._send(call, "not_owner", _NOT_OWNER)

    def send_error(self, call: int, error: TenantryError) -> None:
        """Answer with an error."""
        self._send(call, error.outcome, encode_error(error))

    def send_result(self, call: int, result: Any, operation: str, *, is_unit: bool) -> None:
        """Answer with a result, or with an error if the result cannot be sent. See `encode_result` for the arguments."""
        if is_unit and result.count(None) == len(result):
            self._send_done(call)
            return
        room_bytes = self._unread_bytes_max - self._connection.unread_bytes
        try:
            answer = encode_result(result, operation, is_unit=is_unit, room_bytes=room_bytes)
        except TenantryError as error:
            self.send_error(call, error)
        else:
            self._send(call, "ok", answer)

    def _send(self, call: int, outcome: str, message: bytes) -> None:
        self._calls.remove(call)
        self._connection.send(call, message, is_lone=not self._calls)
        self._note(outcome)

    def _send_done(self, call: int) -> None:
        """Answer a unit without results, together with others."""
        self._calls.remove(call)
        self._done_units.append(call)
        if not self._calls or len(self._done_units) == _UNITS_PER_MESSAGE:
            self._send_done_units()
        elif len(self._done_units) == 1:
            self._loop.call_soon(self._send_done_units)
        self._note("ok")

    def _send_done_units(self) -> None:
        calls, self._done_units = self._done_units, []
        if calls:
            self._connection.send(calls[0], encode(UnitsDone(calls)), is_lone=True)

    def _note(self, outcome: str) -> None:
        """Count the outcome, and expect the next call if this one was alone."""
        self._tenants.count_answer(outcome)
        if self._calls:
            self._spin.note_other_calls()
        else:
            self._spin.begin()
