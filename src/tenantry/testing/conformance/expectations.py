"""The assertions of the checks: plain asserts, whose messages show both values, without a test framework."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

CheckT = TypeVar("CheckT")
ErrorT = TypeVar("ErrorT", bound=Exception)


class Checks(list[CheckT]):
    """The checks of a module, in the order of their definitions."""

    def add(self, check: CheckT) -> CheckT:
        """Add a check; use this method as a decorator."""
        self.append(check)
        return check


def check_name(check: Callable[..., Any]) -> str:
    """Return the name of a check, for the ids of a parametrized test."""
    return check.__name__.removeprefix("check_").replace("_", "-")


def expect(actual: object, expected: object) -> None:
    """Assert that two values are equal."""
    assert actual == expected, f"expected {expected!r}, not {actual!r}"


def expect_error(outcome: object, error_type: type[ErrorT]) -> ErrorT:
    """Assert that an outcome is an error of the given type, and return the error."""
    assert isinstance(outcome, error_type), f"expected a {error_type.__name__}, not {outcome!r}"
    return outcome


@contextmanager
def expect_raised(error_type: type[ErrorT]) -> Iterator[list[ErrorT]]:
    """Assert that the block raises an error of the given type; the yielded list then contains the error."""
    raised: list[ErrorT] = []
    try:
        yield raised
    except error_type as error:
        raised.append(error)
    else:
        raise AssertionError(f"expected a {error_type.__name__}, but nothing was raised")
