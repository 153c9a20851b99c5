"""A prompt future: its end is passed on at once, or one step later if it was cancelled."""

import asyncio
import contextvars
from collections.abc import Callable

import pytest

from tenantry.prompt_future import PromptFuture

END: dict[str, Callable[[PromptFuture[int]], object]] = {
    "result": lambda future: future.set_result(7),
    "exception": lambda future: future.set_exception(OSError("no disk")),
}
_WHERE: contextvars.ContextVar[str] = contextvars.ContextVar("_WHERE", default="nowhere")


@pytest.mark.parametrize("end", END.values(), ids=END)
async def test_the_function_runs_before_the_result_is_set_for_anyone_else(
    end: Callable[[PromptFuture[int]], object],
) -> None:
    """What it does at the end is done before any callback of the future, in the step that sets the result."""
    future: PromptFuture[int] = PromptFuture()
    seen: list[str] = []
    future.add_done_callback(lambda _: seen.append("a step later"))
    future.call_at_end(lambda ended: seen.append(f"at once, done={ended.done()}"))
    end(future)
    assert seen == ["at once, done=True"]
    await asyncio.wait([future])
    assert seen == ["at once, done=True", "a step later"]
    future.exception()


async def test_a_cancelled_future_calls_the_function_a_step_later_in_an_empty_context() -> None:
    """The one who cancels may be in a loop over futures, and its context is not the function's."""
    future: PromptFuture[int] = PromptFuture()
    seen: list[str] = []
    _WHERE.set("at the one who cancels")
    future.call_at_end(lambda ended: seen.append(f"{_WHERE.get()}, cancelled={ended.cancelled()}"))
    assert future.cancel()
    assert not future.cancel()
    assert not seen
    await asyncio.sleep(0)
    assert seen == ["nowhere, cancelled=True"]


async def test_the_error_of_the_function_reaches_the_loop_and_not_the_one_who_sets_the_result() -> None:
    """A batch that cannot be answered must not keep the other batches of the step from their callers."""
    future: PromptFuture[int] = PromptFuture()
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
    error = ValueError("a bug")

    def fail(_: object) -> None:
        raise error

    future.call_at_end(fail)
    future.set_result(7)
    assert reported == [error]
    assert await future == 7


async def test_a_future_without_a_function_is_an_ordinary_future() -> None:
    """It can be awaited like any other."""
    future: PromptFuture[int] = PromptFuture()
    asyncio.get_running_loop().call_soon(future.set_result, 7)
    assert await future == 7
