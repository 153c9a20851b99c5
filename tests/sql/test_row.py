"""Rows with names: whatever the columns are called, every value can be reached, and an error says which columns there are."""

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry import Row
from tenantry.sql.row import Columns

VALUES = st.none() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
NAMES = st.text(max_size=8) | st.sampled_from(
    ["id", "count", "index", "keys", "values", "_values", "__class__"]
)


def make_row(**values: Any) -> Row:
    """Return a row with these columns."""
    return Row(Columns(tuple(values)), tuple(values.values()))


def test_every_way_to_a_value():
    """A value is found by attribute, by name, by position and by slice; a row iterates over its values."""
    row = make_row(id=1, title="x", done=None)
    assert (row.id, row["title"], row[2], row[-1], row[:2]) == (1, "x", None, None, (1, "x"))
    assert (tuple(row), dict(row), len(row), row.keys()) == (
        (1, "x", None),
        {"id": 1, "title": "x", "done": None},
        3,
        ("id", "title", "done"),
    )
    assert repr(row) == "Row(id=1, title='x', done=None)"
    assert "x" in row


@given(pairs=st.lists(st.tuples(NAMES, VALUES), max_size=5, unique_by=lambda pair: pair[0]))
def test_any_names_and_values(pairs: list[tuple[str, Any]]):
    """Columns of any names give their values by name, and a row is equal to its copies."""
    row = Row(Columns(tuple(name for name, _ in pairs)), tuple(value for _, value in pairs))
    assert dict(row) == dict(pairs)
    assert [row[name] for name, _ in pairs] == list(row) == [value for _, value in pairs]
    for again in (copy.copy(row), copy.deepcopy(row), pickle.loads(pickle.dumps(row))):
        assert again == row
        assert hash(again) == hash(row)


@pytest.mark.parametrize("name", ["count", "index", "values", "items", "get", "class", "title"])
def test_columns_with_the_names_of_methods(name: str):
    """A row has no methods of tuples and dictionaries that would hide a column."""
    assert getattr(make_row(**{name: 5}), name) == 5


def test_a_column_named_keys():
    """`keys` stays the method that dict() calls; the column is reached by its name."""
    row = make_row(keys=5, id=1)
    assert (row["keys"], dict(row)) == (5, {"keys": 5, "id": 1})


def test_what_is_equal():
    """Rows are equal if names and values are; a row is not a tuple."""
    assert make_row(id=1, n=2) == make_row(id=1, n=2)
    assert make_row(id=1, n=2) != make_row(id=1, m=2)
    assert make_row(id=1, n=2) != make_row(id=1, n=3)
    assert make_row(id=1) != (1,)
    assert not isinstance(make_row(id=1), tuple)


def test_a_name_that_is_no_column():
    """The error is the one that Python expects, and lists the columns."""
    row = make_row(id=1, title="secret")
    with pytest.raises(AttributeError, match="the result has no column 'titel'; its columns are id, title"):
        _ = row.titel
    with pytest.raises(KeyError, match="the result has no column 'titel'; its columns are id, title"):
        _ = row["titel"]
    with pytest.raises(IndexError):
        _ = row[2]
    assert getattr(row, "titel", None) is None


def test_two_columns_of_one_name():
    """They are an error only for who asks by that name."""
    row = Row(Columns(("id", "id", "n")), (1, 2, 3))
    assert (tuple(row), row.n, row["n"], row[1]) == ((1, 2, 3), 3, 3, 2)
    assert repr(row) == "Row(id=1, id=2, n=3)"
    with pytest.raises(AttributeError, match="2 columns named 'id'; give each a different name with AS"):
        _ = row.id
    with pytest.raises(KeyError, match="2 columns named 'id'"):
        _ = row["id"]
    with pytest.raises(KeyError, match="2 columns named 'id'"):
        dict(row)


def test_a_row_cannot_be_changed():
    """A value cannot be set, neither by attribute nor by name."""
    row: Any = make_row(id=1)
    with pytest.raises(AttributeError):
        row.id = 2
    with pytest.raises(TypeError):
        row["id"] = 2
