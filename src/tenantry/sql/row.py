"""Rows with column names, which `Fetch.NAMED_ONE`, `Fetch.NAMED_ALL` and the `fetch_…` methods of a tenant return."""

from collections.abc import Iterator, Mapping
from typing import Any, overload


class Columns:
    """The names of a result's columns. All rows of the result share one instance.

    Attributes:
        names: The names, in the order of the values. Two columns may have the same name.
        positions: The position of each name in `names`. If several columns have the same name, the last position counts.
    """

    __slots__ = ("names", "positions")

    names: tuple[str, ...]
    positions: Mapping[str, int]

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.positions = {name: position for position, name in enumerate(names)}

    def position(self, name: str) -> int:
        """Return the position of a column.

        Raises:
            LookupError: No column, or more than one column, has this name.
        """
        position = self.positions.get(name)
        if position is None:
            raise LookupError(f"the result has no column {name!r}; its columns are {', '.join(self.names)}")
        if len(self.positions) != len(self.names) and self.names.count(name) > 1:
            raise LookupError(
                f"the result has {self.names.count(name)} columns named {name!r}; give each a different name with AS, or use "
                f"the position; the columns are {', '.join(self.names)}"
            )
        return position


class Row:
    """One row of a result: ``row.title``, ``row["title"]``, ``row[0]``, ``tuple(row)``, ``dict(row)``.

    A row is not a tuple, so columns named ``count`` or ``index`` are attributes as usual. The only public method is `keys`, which
    `dict` needs. A column named ``keys``, or a column whose name begins with ``_``, is available only as ``row["keys"]``.
    """

    __slots__ = ("_columns", "_values")

    _columns: Columns
    _values: tuple[Any, ...]

    def __init__(self, columns: Columns, values: tuple[Any, ...]) -> None:
        self._columns = columns
        self._values = values

    def __getattr__(self, name: str) -> Any:
        """Return the value of a column.

        Raises:
            AttributeError: No column, or more than one column, has this name.
        """
        try:
            return self._values[self._columns.position(name)]
        except LookupError as error:
            raise AttributeError(str(error), name=name, obj=self) from None

    @overload
    def __getitem__(self, key: int | str) -> Any: ...

    @overload
    def __getitem__(self, key: slice) -> tuple[Any, ...]: ...

    def __getitem__(self, key: int | str | slice) -> Any:
        """Return the value of a column by its name or position, or a tuple of values by a slice.

        Raises:
            KeyError: No column, or more than one column, has this name.
            IndexError: The row has no value at this position.
        """
        if not isinstance(key, str):
            return self._values[key]
        try:
            return self._values[self._columns.position(key)]
        except LookupError as error:
            raise KeyError(str(error)) from None

    def keys(self) -> tuple[str, ...]:
        """Return the names of the columns, in the order of the values."""
        return self._columns.names

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Row):
            return NotImplemented
        return self._values == other._values and self._columns.names == other._columns.names

    def __hash__(self) -> int:
        return hash((self._columns.names, self._values))

    def __repr__(self) -> str:
        pairs = zip(self._columns.names, self._values, strict=True)
        return f"Row({', '.join(f'{name}={value!r}' for name, value in pairs)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self._columns.names, self._values)


def _rebuilt(names: tuple[str, ...], values: tuple[Any, ...]) -> Row:
    return Row(Columns(names), values)
