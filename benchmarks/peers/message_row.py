"""A message, and its row: every side builds the one and serializes it to the other with the same code."""

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import cycle

from tenantry.company import Message, MessageType

# Private to tenantry, and used all the same: a peer with serialization of its own would be compared by that.
from tenantry.company.messages import _INSERT as INSERT
from tenantry.company.messages import _MESSAGE
from tenantry.company.messages import _parameters as row_of

__all__ = ["COLUMNS", "INSERT", "message_builder", "row_of"]

COLUMNS = _MESSAGE.inserted
_CHANNELS = 16
_CONTENT = (
    "The review of the storage layer is done: two findings, both small, both with a test that shows them."
)


def message_builder() -> Callable[[], Message]:
    """Return what builds, and so validates, the next message."""
    channels = cycle([f"project-{number:02}" for number in range(_CHANNELS)])

    def build() -> Message:
        return Message(
            timestamp=datetime.now(UTC),
            sender="ada",
            to="grace",
            channel=next(channels),
            content=_CONTENT,
            type=MessageType.STATUS_REPORT,
        )

    return build
