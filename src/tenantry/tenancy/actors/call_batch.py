"""The calls of a channel, and the batches of calls that run together; see `tenantry.tenancy.actors.channel`."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from tenantry.errors import QueryError, TenantryError
from tenantry.tenancy.actors.limiter import Permit

if TYPE_CHECKING:
    import asyncio

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
Item_contra = TypeVar("Item_contra", contravariant=True)
Outcome_co = TypeVar("Outcome_co", covariant=True)


class Runner(Protocol[Item_contra, Outcome_co]):
    """Runs a batch of requests on a store: `Store.write` or `Store.read`."""

    def __call__(self, requests: Sequence[Item_contra], /) -> Awaitable[Sequence[Outcome_co | TenantryError]]:
        """Return one outcome for each request: a result or an error.

        A runner that returns a future starts the batch immediately. Cancelling the future interrupts the batch.
        """


class Reply(Protocol):
    """What a call needs of the future of its result; a future, or what passes the result on at once."""

    def done(self) -> bool:
        """Return whether the call has a result or an error, or was cancelled."""

    def cancelled(self) -> bool:
        """Return whether the call was cancelled."""

    def set_result(self, result: Any, /) -> None:
        """Take the result. This must not raise an error, because the other calls of the batch still wait."""

    def set_exception(self, error: Exception, /) -> None:
        """Take the error; like `set_result`."""


class Call(Generic[Item]):
    """One caller's request and the reply that its result is given to.

    Attributes:
        operation: The call's name in metrics.
        request: The request for the runner; None for a call that runs alone.
        submitted_seconds: The time at which the call was accepted.
        reply: Where the call's result goes.
        alone: The function that runs the call without a batch; None for a call that runs in a batch.
    """

    __slots__ = ("alone", "operation", "reply", "request", "submitted_seconds")

    def __init__(
        self,
        operation: str,
        request: Item | None,
        submitted_seconds: float,
        reply: Reply,
        alone: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.operation = operation
        self.request = request
        self.submitted_seconds = submitted_seconds
        self.reply = reply
        self.alone = alone


class Batch(Generic[Item, Outcome]):
    """Calls that run together, and can be interrupted together.

    Attributes:
        calls: The calls, in the order in which they were accepted.
        running: The future of the outcomes. A call that runs alone sets its own result.
        permit: The batch's permit; None for a call that runs alone, which acquires its own permit.
    """

    __slots__ = ("calls", "permit", "running", "started_seconds")

    def __init__(self, calls: list[Call[Item]], started_seconds: float, permit: Permit | None = None) -> None:
        self.calls = calls
        self.started_seconds = started_seconds
        self.permit = permit
        self.running: asyncio.Future[Any]

    def outcomes(self) -> Sequence[Outcome | TenantryError]:
        """Return the outcome of each call after the batch has ended; empty if the batch was interrupted."""
        if self.running.cancelled():
            return []
        error = self.running.exception()
        if error is None:
            outcomes: Sequence[Outcome | TenantryError] = self.running.result()
            return outcomes
        # If a batch fails as a whole, each of its calls fails.
        return [as_tenantry_error(error, call.operation) for call in self.calls]

    def interrupt_if_abandoned(self) -> None:
        """Interrupt the batch if no caller waits for its results."""
        if self.permit is not None and all(call.reply.done() for call in self.calls):
            self.running.cancel()


def as_tenantry_error(error: BaseException, operation: str) -> TenantryError:
    """Return an error for one caller, because two callers must not raise the same instance."""
    if isinstance(error, TenantryError):
        return error.for_another_caller()
    unexpected = QueryError(f"{operation}: {error!r}", code=type(error).__name__)
    unexpected.__cause__ = error
    return unexpected
