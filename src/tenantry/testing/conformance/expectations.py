"""What the checks say things with: plain asserts that tell both sides, without a test framework."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

CheckT = TypeVar("CheckT")
ErrorT = TypeVar("ErrorT", bound=Exception)


class Checks(list[CheckT]):
    """The checks of a module, in the order of their definitions."""

    def add(self, check: CheckT) -> CheckT:
        """Add a check: a decorator."""
        self.append(check)
        return check


def check_name(check: Callable[..., Any]) -> str:
    """Return the name of a check, for the ids of a parametrized test."""
    return check.__name__.removeprefix("check_").replace("_", "-")


def expect(actual: object, expected: object) -> None:
    """Assert that both are equal."""
    assert actual == expected, f"expected {expected!r}, not {actual!r}"


def expect_error(outcome: object, error_type: type[ErrorT]) -> ErrorT:
    """Assert that an outcome is an error of this type, and return it."""
    assert isinstance(outcome, error_type), f"expected a {error_type.__name__}, not {outcome!r}"
    return outcome


@contextmanager
def expect_raised(error_type: type[ErrorT]) -> Iterator[list[ErrorT]]:
    """Assert that the block raises an error of this type; it is in the list afterwards."""
    raised: list[ErrorT] = []
    try:
        yield raised
    except error_type as error:
        raised.append(error)
    else:
        raise AssertionError(f"expected a {error_type.__name__}, but nothing was raised")
