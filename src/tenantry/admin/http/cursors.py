"""Signs the cursors of pages with a secret of the service, so that callers cannot make or change one."""

import base64
import hashlib
import hmac
from typing import Final

from tenantry.admin.http.problems import ProblemError

_SIGNATURE_BYTES: Final = 16
CURSOR_CHARACTERS_MAX: Final = 4096


class CursorSigner:
    """Signs the cursors of pages, and checks those that come back.

    Args:
        secret: The service's secret.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def sign(self, cursor: str | None, query: str) -> str | None:
        """Return a page's cursor as callers get it; it is valid for the same query only."""
        if cursor is None:
            return None
        signed = self._signature(cursor, query) + cursor.encode("ascii")
        return base64.urlsafe_b64encode(signed).rstrip(b"=").decode("ascii")

    def check(self, given: str | None, query: str) -> str | None:
        """Return the page's cursor.

        Raises:
            ProblemError: 400, the cursor was not made by this service, or for another query.
        """
        if given is None:
            return None
        try:
            padded = given.encode("ascii") + b"=" * (-len(given) % 4)
            signed = base64.b64decode(padded, altchars=b"-_", validate=True)
            cursor = signed[_SIGNATURE_BYTES:].decode("ascii")
        except ValueError as error:
            raise _refused() from error
        # Signed anew and compared as text: base64 has more than one text for some bytes.
        if not hmac.compare_digest((self.sign(cursor, query) or "").encode(), given.encode()):
            raise _refused()
        return cursor

    def _signature(self, cursor: str, query: str) -> bytes:
        text = f"{query}\0{cursor}".encode()
        return hmac.digest(self._secret, text, hashlib.sha256)[:_SIGNATURE_BYTES]


def _refused() -> ProblemError:
    return ProblemError(
        400,
        "cursor",
        "Invalid cursor",
        "this cursor was not made by this service for this query: pass next_cursor unchanged, with the same filters",
    )
