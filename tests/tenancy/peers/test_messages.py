"""Messages between processes: whatever is sent arrives, or is refused before it is sent."""

import sqlite3
from array import array
from collections.abc import Sequence
from enum import IntEnum, StrEnum
from inspect import Parameter, signature
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry import errors
from tenantry.errors import QueryError, TenantryError
from tenantry.lifecycle import TenantEvent, TenantState
from tenantry.sql.row import Columns, Row
from tenantry.sql.statements import Fetch, Statement
from tenantry.storage.plain_results import as_plain
from tenantry.storage.sent_parameters import plain_parameters
from tenantry.tenancy.peers.connections import messages
from tenantry.tenancy.peers.connections.messages import (
    Done,
    Failed,
    Read,
    Write,
    decode_answer,
    decode_request,
    received,
    sent,
)
from tenantry.tenancy.peers.connections.sent_errors import pack_error, unpack_error
from tenantry.tenancy.peers.forwarding.received_results import read_result, unit_results
from tenantry.tenancy.peers.serving.sent_results import encode_error, encode_result


class Number(int):
    """An integer with a method of its own, as enums and numpy's integers are."""

    def __repr__(self) -> str:
        return "a number"


class Kind(StrEnum):
    """A text that is a member of an enum."""

    A = "ä"


class Size(IntEnum):
    """An integer that is a member of an enum."""

    BIG = 7


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
VALUES = st.one_of(
    *(st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), TEXTS, st.binary(max_size=30)),
)
"""What SQLite can store and return."""

PARAMETERS = st.one_of(
    *(VALUES, st.floats(), st.booleans(), st.integers(), st.text(max_size=5)),
    *(st.integers(0, 9).map(Number), st.sampled_from([*Kind, *Size])),
    *(st.binary(max_size=9).map(bytearray), st.binary(max_size=9).map(memoryview)),
    *(st.just(array("b", [1, 2])), st.just(object()), st.just([1]), st.just(1j)),
)
"""What callers may pass."""

NAMES = st.lists(TEXTS, min_size=1, max_size=4)
ROWS = NAMES.flatmap(
    lambda names: st.tuples(st.just(names), st.lists(st.tuples(*[VALUES] * len(names)), max_size=5))
)
FETCHED = st.one_of(
    st.tuples(st.just(Fetch.NONE), st.none()),
    st.tuples(st.just(Fetch.ROWCOUNT), st.integers(-1, 2**40)),
    ROWS.map(lambda rows: (Fetch.ALL, rows[1])),
    ROWS.map(lambda rows: (Fetch.ONE, rows[1][0] if rows[1] else None)),
    ROWS.map(lambda rows: (Fetch.NAMED_ALL, [Row(Columns(tuple(rows[0])), one) for one in rows[1]])),
    ROWS.map(lambda rows: (Fetch.NAMED_ONE, Row(Columns(tuple(rows[0])), rows[1][0]) if rows[1] else None)),
)
"""A kind of result, and a result of it."""


class TestCalls:
    """Statements on their way to the owner."""

    @given(
        st.lists(
            st.tuples(TEXTS, TEXTS, st.lists(VALUES, max_size=5), st.sampled_from(Fetch)),
            min_size=1,
            max_size=4,
        )
    )
    def test_statements(self, fields: list[tuple[str, str, list[Any], Fetch]]):
        """What the owner gets is what was sent, with the parameters as a tuple."""
        unit = [Statement(name, sql, parameters, fetch) for name, sql, parameters, fetch in fields]
        request = Write("acme", "u", 1.5, 2**63 - 1, 0, True, False, [sent(one, "sqlite") for one in unit])
        decoded = decode_request(messages.encode(request))
        assert isinstance(decoded, Write)
        assert decoded == request
        assert received(decoded.statements) == tuple(
            Statement(one.name, one.sql, tuple(one.parameters), one.fetch) for one in unit
        )

    @given(PARAMETERS)
    def test_parameters_as_sqlite_binds_them(self, value: Any):
        """A parameter arrives as what SQLite would store of it here, or is refused, and then SQLite would refuse it here too."""
        with sqlite3.connect(":memory:") as connection:
            try:
                (stored,) = connection.execute("SELECT ?", (value,)).fetchone()
            except (sqlite3.Error, OverflowError, UnicodeEncodeError):
                with pytest.raises(QueryError):
                    plain_parameters((value,), name="n")
                return
            (plain,) = plain_parameters((value,), name="n")
            (carried,) = msgspec.msgpack.decode(msgspec.msgpack.encode((plain,)))
            assert connection.execute("SELECT ?", (carried,)).fetchone() == (stored,)
        connection.close()

    @pytest.mark.parametrize(
        "parameters",
        [{"a": 1}, {1, 2}, 5, None, iter([1])],
        ids=["mapping", "set", "number", "nothing", "iterator"],
    )
    def test_parameters_that_are_no_sequence(self, parameters: Sequence[object]):
        """They are refused before anything is sent."""
        with pytest.raises(QueryError):
            plain_parameters(parameters, name="n")

    @pytest.mark.parametrize("sql", ["SELECT '\ud800'", "\udfff"], ids=ascii)
    def test_a_text_that_cannot_be_encoded(self, sql: str):
        """The error is one of tenantry."""
        with pytest.raises(QueryError, match="cannot be sent"):
            messages.encode(Read("acme", "u", 1.0, sent(Statement("n", sql), "sqlite")))


class TestResults:
    """Results on their way back."""

    @given(st.lists(FETCHED, min_size=1, max_size=3))
    def test_of_units(self, fetched: list[tuple[Fetch, Any]]):
        """Rows are tuples or named rows again, and equal."""
        unit = tuple(Statement("n", "s", (), fetch) for fetch, _ in fetched)
        results = [result for _, result in fetched]
        answer = decode_answer(encode_result(results, "n", is_unit=True, room_bytes=10**6))
        assert isinstance(answer, Done)
        found = unit_results(unit, answer.result)
        assert found == results
        assert list(map(type, found)) == list(map(type, results))

    @given(FETCHED)
    def test_of_reads(self, fetched: tuple[Fetch, Any]):
        """The same for one statement."""
        fetch, result = fetched
        answer = decode_answer(encode_result(result, "n", is_unit=False, room_bytes=10**6))
        assert isinstance(answer, Done)
        assert read_result(Statement("n", "s", (), fetch), answer.result) == result

    @given(
        st.sampled_from(Fetch), st.recursive(VALUES, lambda inner: st.lists(inner, max_size=4), max_leaves=12)
    )
    def test_of_another_kind(self, fetch: Fetch, result: Any):
        """Whatever comes, the caller gets a result of the statement's kind, or an error of the query."""
        statement = Statement("n", "s", (), fetch)
        plain = msgspec.msgpack.decode(msgspec.msgpack.encode(result))
        try:
            found = read_result(statement, plain)
        except QueryError:
            return
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(as_plain(found))) in (plain, [])


def _error_classes() -> list[type[TenantryError]]:
    return [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, TenantryError)]


ATTRIBUTES: dict[str, Any] = {
    "retry_after_seconds": 1.5,
    "limit_value": 10.0,
    "timeout_seconds": 3.0,
    "version": 7,
    "pid": 4711,
    "is_retryable": True,
    "was_started": False,
    "is_transient": True,
    "is_step_failure": True,
    "revision": 3,
    "current_revision": 4,
    "missing_schemas": ("a", "b"),
    "tables": ("t",),
    "objects": ("view v",),
    "columns": ("users.email",),
    "state": TenantState.ACTIVE,
    "event": TenantEvent.ARCHIVE,
}
"""Values of attributes that are no texts."""


class TestErrors:
    """Errors on their way back."""

    @pytest.mark.parametrize("kind", _error_classes())
    def test_of_every_class(self, kind: type[TenantryError]):
        """An error of each class arrives with its class, its message, and all its attributes."""
        error = _made(kind)
        arrived = decode_answer(encode_error(error))
        assert isinstance(arrived, Failed)
        found = unpack_error(arrived)
        assert type(found) is kind
        assert str(found) == str(error)
        assert vars(found) == vars(error)
        assert (found.is_retryable, found.outcome, found.retry_after_seconds) == (
            *(error.is_retryable, error.outcome),
            error.retry_after_seconds,
        )
        assert str(found.for_another_caller()) == str(error)

    def test_attributes_that_cannot_be_sent(self):
        """They are left out: an error always arrives."""
        error = QueryError("a message with \ud800", code="c")
        vars(error).update(large=2**70, odd=object(), text="\udfff")
        found = unpack_error(decode_answer(encode_error(error)))  # type: ignore[arg-type]
        assert type(found) is QueryError
        assert "a message with" in str(found)
        assert pack_error(error).classes == ["QueryError", "PersistenceError", "TenantryError"]


def _made(kind: type[TenantryError]) -> TenantryError:
    """Return an error of a class, with a value for each argument of the constructor."""
    made: dict[str, Any] = {}
    for name, parameter in signature(kind.__init__).parameters.items():
        if parameter.kind is Parameter.KEYWORD_ONLY:
            made[name] = ATTRIBUTES.get(name, f"a {name}")
    return kind("a message: ä", **made)
