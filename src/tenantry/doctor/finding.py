"""The findings of an examination."""

from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict

SUBJECTS_MAX: Final = 20
"""The maximum number of tenants or files that a finding names."""


class Level(StrEnum):
    """The severity of a finding."""

    OK = "ok"
    NOTE = "note"
    WRONG = "wrong"


class Finding(BaseModel):
    """The result of one check.

    Attributes:
        level: The severity: a ``note`` is worth knowing, ``wrong`` needs an action.
        to_do: The operator's next step; empty if no step is needed.
        subjects: The first `SUBJECTS_MAX` tenants or files that the finding concerns.
    """

    model_config = ConfigDict(frozen=True)

    check: str
    level: Level
    found: str
    to_do: str = ""
    subjects: Sequence[str] = ()


def ok(check: str, found: str) -> Finding:
    """Return a finding without a problem."""
    return Finding(check=check, level=Level.OK, found=found)


def note(check: str, found: str, to_do: str = "", subjects: Collection[str] = ()) -> Finding:
    """Return a finding that is worth knowing."""
    return _of(check, Level.NOTE, found, to_do, subjects)


def wrong(check: str, found: str, to_do: str, subjects: Collection[str] = ()) -> Finding:
    """Return a finding that needs an action."""
    return _of(check, Level.WRONG, found, to_do, subjects)


def counted(count: int, one: str, many: str) -> str:
    """Return a number with the singular or plural text: "1 tenant is quarantined", "2 tenants are quarantined"."""
    return f"{count:,} {one if count == 1 else many}"


def _of(check: str, level: Level, found: str, to_do: str, subjects: Collection[str]) -> Finding:
    named = tuple(sorted(subjects)[:SUBJECTS_MAX])
    return Finding(check=check, level=level, found=found, to_do=to_do, subjects=named)
