"""Encodes the results and errors of calls for the process that forwarded the calls."""

from typing import Any, Final

from tenantry.errors import QueryError, ResultLostError, TenantryError
from tenantry.storage.plain_results import as_plain
from tenantry.tenancy.peers.connections import messages
from tenantry.tenancy.peers.connections.messages import Done, Failed
from tenantry.tenancy.peers.connections.sent_errors import pack_error

_MESSAGE_CHARACTERS_MAX: Final = 10_000


def encode_result(result: Any, operation: str, *, is_unit: bool, room_bytes: int) -> bytes:
    """Return the answer with the result of a call.

    Args:
        result: The result of a statement, or the results of a unit.
        operation: The call's name, for errors.
        is_unit: Whether the call was a unit, which is committed whether its results can be sent or not.
        room_bytes: The size of the answers that may be sent now.

    Raises:
        ResultLostError: The unit was committed, but its results cannot be sent.
        QueryError: The result of a statement cannot be sent.
    """
    try:
        plain = [one if one is None else as_plain(one) for one in result] if is_unit else as_plain(result)
        answer = messages.encode(Done(plain))
    except QueryError as error:
        why = str(error)
    else:
        if len(answer) <= room_bytes:
            return answer
        why = (
            f"it has {len(answer)} bytes, but the process that asked has not read its earlier results, so that only {max(room_bytes, 0)} "
            "more bytes are kept for it: use smaller results, or fewer calls at a time"
        )
    # A read has no effect, so its caller can repeat it; a unit is committed.
    kind = ResultLostError if is_unit else QueryError
    raise kind(f"{operation} was done, but its result cannot be sent: {why}")


def encode_error(error: TenantryError) -> bytes:
    """Return the answer with an error. This never fails: what cannot be sent is left out."""
    failed = pack_error(error)
    try:
        return messages.encode(failed)
    except QueryError:
        return messages.encode(Failed(failed.classes, ascii(failed.message)[:_MESSAGE_CHARACTERS_MAX], {}))
