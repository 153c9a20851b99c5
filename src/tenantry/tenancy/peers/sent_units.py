"""Numbers the units that this process forwards, and knows which of them have no answer yet."""

import itertools
import uuid
from types import TracebackType
from typing import TypeAlias

_Unanswered: TypeAlias = dict[str, dict[int, None]]
"""The numbers of the units that have no answer yet, by the uid of their tenant, in ascending order."""


class _Numbered:
    """The block in which a unit has a number; a generator would take twice the time."""

    __slots__ = ("_number", "_uid", "_unanswered")

    def __init__(self, uid: str, number: int, unanswered: _Unanswered) -> None:
        self._uid = uid
        self._number = number
        self._unanswered = unanswered

    def __enter__(self) -> int:
        of_tenant = self._unanswered.get(self._uid)
        if of_tenant is None:
            self._unanswered[self._uid] = {self._number: None}
        else:
            of_tenant[self._number] = None
        return self._number

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        of_tenant = self._unanswered[self._uid]
        del of_tenant[self._number]
        if not of_tenant:
            del self._unanswered[self._uid]


class SentUnits:
    """The units that this process has forwarded.

    The owner of a tenant keeps the marks of units until their sender has the results (`tenantry.storage.protocol.MarkedRequest`). So a unit
    counts as unanswered until its caller has its result or an error, even while the unit is sent again to the next owner.

    Attributes:
        token: The name of this registry in marks, 16 random bytes.
    """

    def __init__(self) -> None:
        self.token = b""
        self._numbers = itertools.count(1)
        self._unanswered: _Unanswered = {}

    def open(self) -> None:
        """Choose the registry's token. Processes that are forked before their registries open get different tokens."""
        self.token = uuid.uuid4().bytes

    def numbered(self, uid: str) -> _Numbered:
        """Give the next number to a unit of a tenant; at the end of the block the unit counts as answered."""
        return _Numbered(uid, next(self._numbers), self._unanswered)

    def answered_to(self, uid: str) -> int:
        """Return the largest number up to which all units of the tenant are answered; at least one unit has no answer."""
        return next(iter(self._unanswered[uid])) - 1
