"""A table that no schema pack knows, in a form that every back end can create.

A repository or an operator may create such a table. A copy for another back end has no migration for the table, so the copy
creates the table from this description. A table with other properties, such as a CHECK constraint, cannot be copied: the copy would
silently lose the property.
"""

from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """The kind of a column's values."""

    INTEGER = "integer"
    REAL = "real"
    TEXT = "text"
    BLOB = "blob"


class PlainColumn(NamedTuple):
    """A column of a plain table."""

    name: str
    kind: Kind
    is_not_null: bool


class PlainIndex(NamedTuple):
    """An index on whole columns of a plain table."""

    columns: tuple[str, ...]
    is_unique: bool


class PlainTable(NamedTuple):
    """A table of columns, a primary key and indexes.

    Attributes:
        primary_key: The columns of the primary key; empty for a table without one.
        is_numbered: Whether the database numbers the rows in the only column of the primary key.
    """

    name: str
    columns: tuple[PlainColumn, ...]
    primary_key: tuple[str, ...]
    is_numbered: bool
    indexes: tuple[PlainIndex, ...]


class NotPlainError(Exception):
    """A table has a property that a copy for another back end would lose; the message names the property."""
