"""A future whose end is passed on in the same step of the event loop."""

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class PromptFuture(asyncio.Future[T]):
    """A future that may call one function at its end, in the step of the event loop in which its result is set.

    The callbacks of other futures run one step later, and for a call that waits alone this step is a tenth of the call's time. Whoever
    sets the result must expect the function to run at once. A cancelled future still calls the function one step later, because the
    one who cancels futures may be in a loop over them.
    """

    _at_end: Callable[[Any], object] | None = None

    def call_at_end(self, function: Callable[[asyncio.Future[T]], object]) -> None:
        """Call the function with this future at its end; the future has not ended yet, and has no such function."""
        self._at_end = function

    def set_result(self, result: T) -> None:
        """Set the result, and call the function."""
        super().set_result(result)
        self._pass_on()

    def set_exception(self, exception: type[BaseException] | BaseException) -> None:
        """Set the exception, and call the function."""
        super().set_exception(exception)
        self._pass_on()

    def cancel(self, msg: Any = None) -> bool:
        """Cancel the future, and call the function in the next step; return whether the future had not ended before."""
        is_cancelled = super().cancel(msg)
        if is_cancelled and self._at_end is not None:
            # The function must not run in the context of the one who cancels.
            self.get_loop().call_soon(self._pass_on, context=contextvars.Context())
        return is_cancelled

    def _pass_on(self) -> None:
        function, self._at_end = self._at_end, None
        if function is None:
            return
        try:
            function(self)
        except Exception as error:  # noqa: BLE001  # as for the callbacks of other futures
            message = f"the function at the end of {self!r} failed"
            self.get_loop().call_exception_handler({"message": message, "exception": error, "future": self})
