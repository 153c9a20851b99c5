"""The repository of messages, which are append-only and read as a channel's history, newest first."""

from collections.abc import Iterable
from datetime import datetime
from typing import ClassVar

from typing_extensions import override

from tenantry import events
from tenantry.company.models import NO_METADATA, Message
from tenantry.company.protocols import MessageRepository
from tenantry.company.queries import NEWEST_FIRST, Listing, Window
from tenantry.company.records import RecordRepository, RecordType, to_json
from tenantry.company.types import format_timestamp
from tenantry.errors import DuplicateRecordError
from tenantry.pages import Page

_MESSAGE = RecordType(
    entity="message",
    table="messages",
    model=Message,
    key=("timestamp", "seq"),
    columns=("id", "sender", "to", "channel", "content", "type", "priority", "attachments", "metadata"),
    json={"attachments": "[]", "metadata": "{}"},
    named={"message_id": "id", "channel": "channel"},
    malformed=events.MESSAGE_DESERIALIZE_FAILED,
)
_INSERT = _MESSAGE.insert
_HISTORY = Listing(
    "messages.get_history",
    _MESSAGE.select,
    NEWEST_FIRST,
    done=events.MESSAGE_HISTORY_FETCHED,
    failed=events.MESSAGE_HISTORY_FAILED,
    required=("channel",),
)


class SQLMessageRepository(RecordRepository[Message], MessageRepository):
    """Messages in SQL."""

    _record_type: ClassVar[RecordType[Message]] = _MESSAGE

    @override
    async def save(self, message: Message) -> None:
        await self.write(
            *self._statements(
                "messages.save", _INSERT, _parameters, (message,), failed=events.MESSAGE_SAVE_FAILED
            ),
            done=events.MESSAGE_SAVED,
            failed=events.MESSAGE_SAVE_FAILED,
            duplicate=events.MESSAGE_DUPLICATE,
            message_id=message.id,
            channel=message.channel,
        )

    @override
    async def save_many(self, messages: Iterable[Message]) -> None:
        messages = tuple(messages)
        self._check_count(messages, failed=events.MESSAGE_SAVE_FAILED)
        if not messages:
            return
        try:
            await self.write(
                *self._statements(
                    "messages.save_many", _INSERT, _parameters, messages, failed=events.MESSAGE_SAVE_FAILED
                ),
                done=events.MESSAGE_SAVED,
                failed=events.MESSAGE_SAVE_FAILED,
                duplicate=events.MESSAGE_DUPLICATE,
                count=len(messages),
            )
        except DuplicateRecordError as error:
            raise DuplicateRecordError(
                f"one of {len(messages)} messages already exists, or two of them have the same id; no message was saved",
                code=error.code,
                constraint=error.constraint,
                columns=error.columns,
            ) from error

    @override
    async def get_history(
        self,
        channel: str,
        *,
        limit: int | None = None,
        sender: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        cursor: str | None = None,
    ) -> Page[Message]:
        filters = {"channel": channel, "sender": sender}
        return await self._page(_HISTORY, filters, window=Window(since, until), limit=limit, cursor=cursor)


def _parameters(message: Message) -> tuple[object, ...]:
    # Messages are the most frequent writes: `_value_` is faster than the property `value`, and most messages need no JSON.
    attachments = message.attachments
    metadata = message.metadata
    return (
        format_timestamp(message.timestamp),
        message.id.bytes,
        message.sender,
        message.to,
        message.channel,
        message.content,
        message.type._value_,
        message.priority._value_,
        to_json(attachments) if attachments else "[]",
        "{}" if metadata is NO_METADATA else to_json(metadata),
    )
