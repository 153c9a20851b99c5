"""The calls of a channel and the batches that they run in; see `tenantry.tenancy.actors.channel`."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from tenantry.errors import QueryError, TenantryError
from tenantry.tenancy.actors.limiter import Permit

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
Item_contra = TypeVar("Item_contra", contravariant=True)
Outcome_co = TypeVar("Outcome_co", covariant=True)


class Runner(Protocol[Item_contra, Outcome_co]):
    """Runs a batch of requests on a store: `Store.write` or `Store.read`."""

    def __call__(self, requests: Sequence[Item_contra], /) -> Awaitable[Sequence[Outcome_co | TenantryError]]:
        """Return one outcome for each request: its result, or its error.

        A runner that returns a future begins at once. Cancelling the future interrupts the batch.
        """


class Call(Generic[Item]):
    """One caller's request and the future of its reply.

    Attributes:
        operation: Its name in metrics.
        request: Given to the runner; None for a call that runs alone.
        submitted_seconds: When it was accepted.
        future: Of its result.
        alone: For a call that must run alone, in its place in the order: the function to await instead of a batch.
    """

    __slots__ = ("alone", "future", "operation", "request", "submitted_seconds")

    def __init__(
        self,
        operation: str,
        request: Item | None,
        submitted_seconds: float,
        future: asyncio.Future[Any],
        alone: Callable[[asyncio.Future[Any]], Awaitable[None]] | None = None,
    ) -> None:
        self.operation = operation
        self.request = request
        self.submitted_seconds = submitted_seconds
        self.future = future
        self.alone = alone


class Batch(Generic[Item, Outcome]):
    """The calls that run together, and how to interrupt them when all their callers have gone.

    Attributes:
        calls: In the order in which they were accepted.
        running: The future of the outcomes; a call alone sets its own result.
        permit: Its permit; a call alone has none, or acquires its own.
    """

    __slots__ = ("calls", "permit", "running", "started_seconds")

    def __init__(self, calls: list[Call[Item]], started_seconds: float, permit: Permit | None = None) -> None:
        self.calls = calls
        self.started_seconds = started_seconds
        self.permit = permit
        self.running: asyncio.Future[Any]

    def outcomes(self) -> Sequence[Outcome | TenantryError]:
        """Return the outcome of each call, once the batch has ended; none if it was interrupted because all callers had gone."""
        if self.running.cancelled():
            return []
        error = self.running.exception()
        if error is None:
            outcomes: Sequence[Outcome | TenantryError] = self.running.result()
            return outcomes
        # A batch that fails as a whole fails each of its calls.
        return [as_tenantry_error(error, call.operation) for call in self.calls]

    def interrupt_if_abandoned(self) -> None:
        """Interrupt the batch if no caller waits for it any more."""
        if self.permit is not None and all(call.future.done() for call in self.calls):
            self.running.cancel()


def as_tenantry_error(error: BaseException, operation: str) -> TenantryError:
    """Return an error for one caller: two callers must not raise the same instance."""
    if isinstance(error, TenantryError):
        return error.for_another_caller()
    unexpected = QueryError(f"{operation}: {error!r}", code=type(error).__name__)
    unexpected.__cause__ = error
    return unexpected
