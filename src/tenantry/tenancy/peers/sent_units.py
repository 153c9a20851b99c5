"""Numbers the units that this process forwards, and knows which of them have no answer yet."""

import itertools
import uuid
from collections.abc import Iterator
from contextlib import contextmanager


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
        self._unanswered: dict[str, dict[int, None]] = {}

    def open(self) -> None:
        """Choose the registry's token. Processes that are forked before their registries open get different tokens."""
        self.token = uuid.uuid4().bytes

    @contextmanager
    def numbered(self, uid: str) -> Iterator[int]:
        """Give the next number to a unit of a tenant; at the end of the block the unit counts as answered."""
        unanswered = self._unanswered.setdefault(uid, {})
        number = next(self._numbers)
        unanswered[number] = None
        try:
            yield number
        finally:
            del unanswered[number]
            if not unanswered:
                self._unanswered.pop(uid, None)

    def answered_to(self, uid: str) -> int:
        """Return the largest number up to which all units of the tenant are answered; at least one unit has no answer."""
        return next(iter(self._unanswered[uid])) - 1
