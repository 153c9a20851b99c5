"""A call of another process in the mailbox of its tenant."""

from collections.abc import Callable
from typing import Any

from tenantry.tenancy.actors.actor import SubmittedCall
from tenantry.tenancy.actors.lease import Lease


class ServedCall:
    """Takes the result of a call in place of a future, and answers the call at once.

    A future would tell of its result one step of the event loop later, and would need a callback of the event loop for each call.

    Args:
        number: The number of the call.
        lease: The lease of the call's tenant.
        is_full: Whether the other process has no place for another tenant.
        on_done: The function that is called once, with the result or the error, or with neither if the call was cancelled. It must not
            raise an error.

    Attributes:
        submitted: The call in the tenant's mailbox; set when it is there.
    """

    __slots__ = ("_is_cancelled", "_is_done", "_on_done", "is_full", "lease", "number", "submitted")

    submitted: SubmittedCall

    def __init__(
        self,
        number: int,
        lease: Lease,
        *,
        is_full: bool,
        on_done: Callable[["ServedCall", Any, Exception | None], None],
    ) -> None:
        self.number = number
        self.lease = lease
        self.is_full = is_full
        self._on_done = on_done
        self._is_done = self._is_cancelled = False

    def done(self) -> bool:
        """Return whether the call has a result or an error, or was cancelled."""
        return self._is_done

    def cancelled(self) -> bool:
        """Return whether the call was cancelled."""
        return self._is_cancelled

    def set_result(self, result: Any, /) -> None:
        """Answer the call with its result."""
        self._is_done = True
        self._on_done(self, result, None)

    def set_exception(self, error: Exception, /) -> None:
        """Answer the call with its error."""
        self._is_done = True
        self._on_done(self, None, error)

    def cancel(self) -> None:
        """Take the call back from the tenant's mailbox, and give no answer; a no-op if the call is done."""
        if self._is_done:
            return
        self._is_done = self._is_cancelled = True
        self._on_done(self, None, None)
        self.submitted.take_back()
