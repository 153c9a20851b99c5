"""Explains the errors of an object store with the store's code and message, advice, and whether to retry.

obstore gives the store's response as text. S3, S3-compatible stores and Azure respond with XML that has a ``Code`` and
a ``Message`` (https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html). Google responds with JSON that has a
``message``.
"""

import html
import re
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final, NamedTuple

_SHOWN_CHARACTERS_MAX: Final = 1_000
_STATUS: Final = re.compile(r"non-2xx status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>\s*([\w.]+)\s*</Code>|\(code: (\w+)\)")
_MESSAGES: Final = (
    re.compile(r"<Message>(.*?)</Message>", re.DOTALL),
    re.compile(r"request failed for key \S+: (.*) \(code: \w+\)", re.DOTALL),
    re.compile(r'"(?:message|error_description)":\s*"((?:[^"\\]|\\.)*)"'),
)
_SERVER_TIME: Final = re.compile(r"<ServerTime>(.*?)</ServerTime>")

_CLOCK_CODES: Final = {"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"}
_EXPIRED_CODES: Final = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "TokenExpired"}
_PASSING_CODES: Final = {
    *("InternalError", "OperationAborted", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling"),
    *("InternalServerError", "OperationTimedOut", "ServerBusy"),
}
_PASSING_STATUSES: Final = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}


class StoreAnswer(NamedTuple):
    """The response of a store.

    Attributes:
        status: The HTTP status; None if obstore does not show the status, or if the store did not respond.
        code: The store's error code.
        message: The store's error message.
        server_time: The time of the store's clock, if the response has it.
        text: The whole text of obstore's error in one line.
    """

    status: int | None
    code: str | None
    message: str | None
    server_time: str | None
    text: str

    @classmethod
    def of(cls, error: Exception) -> "StoreAnswer":
        """Parse an error of obstore."""
        text = str(error).partition("\n\nDebug source:")[0]
        status, code, server_time = (pattern.search(text) for pattern in (_STATUS, _CODE, _SERVER_TIME))
        message = next((found for pattern in _MESSAGES if (found := pattern.search(text))), None)
        return cls(
            status=int(status[1]) if status else None,
            code=(code[1] or code[2]) if code else None,
            message=_one_line(html.unescape(message[1])) if message else None,
            server_time=_one_line(server_time[1]) if server_time else None,
            text=_one_line(text),
        )

    @property
    def shown(self) -> str:
        """The store's code and message, or the text of obstore's error if the response has neither."""
        if self.code is None and self.message is None:
            return self.text
        status = f" (status {self.status})" if self.status is not None else ""
        return f"{': '.join(filter(None, (self.code, self.message)))}{status}"

    @property
    def advice(self) -> str:
        """The advice for the operator, which ends an error's message."""
        if self.code in _CLOCK_CODES:
            there = f", and the store's clock shows {self.server_time}" if self.server_time else ""
            here = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
            return f"this machine's clock shows {here}{there}: synchronize this machine's clock"
        if self.code in _EXPIRED_CODES:
            return "the credentials in the environment have expired: renew them and start the process again"
        return "check that the bucket exists and that this process has the rights to use it"

    @property
    def is_refusal(self) -> bool:
        """Whether the store refused the request, for any reason except a missing object."""
        return (
            self.status is not None
            and HTTPStatus.BAD_REQUEST <= self.status < HTTPStatus.INTERNAL_SERVER_ERROR
            and self.status != HTTPStatus.NOT_FOUND
        )

    def may_pass(self, *, by_default: bool) -> bool:
        """Return whether the same call may succeed later.

        Args:
            by_default: The value to return if the store's response does not show whether a retry may succeed.
        """
        if self.code in _PASSING_CODES:
            return True
        if self.status is None:
            return by_default and self.code is None and "incorrectly configured region" not in self.text
        if self.status >= HTTPStatus.INTERNAL_SERVER_ERROR or self.status in _PASSING_STATUSES:
            return True
        # "Precondition failed" means that the object was replaced while it was read. Other refusals are final.
        return self.status == HTTPStatus.PRECONDITION_FAILED


def _one_line(text: str) -> str:
    """Return the text as one line, without the queries of URLs, which can contain a signature."""
    line = re.sub(r"\?\S*", "", " ".join(text.split()))
    return "".join(character for character in line if character.isprintable())[:_SHOWN_CHARACTERS_MAX]
