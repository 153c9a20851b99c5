"""Pages and cursors: what a cursor carries, and that nothing else passes for one."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.errors import QueryError
from tenantry.pages import PAGE_ROWS_MAX, Page, decode_cursor, encode_cursor, page_rows

INT64 = st.integers(-(2**63), 2**63 - 1)


def forged(payload: object) -> str:
    """Return a cursor that holds this instead."""
    return base64.urlsafe_b64encode(json.dumps(payload).encode()).rstrip(b"=").decode()


class TestPage:
    """A page is a tuple."""

    def test_is_a_tuple_with_a_cursor(self):
        """Programs that know nothing of pages compare and iterate it as a tuple."""
        page = Page([1, 2], "next")
        assert page.next_cursor == "next"
        assert page == (1, 2)
        assert isinstance(page, tuple)

    def test_the_last_page_has_no_cursor(self):
        """None ends a walk."""
        assert Page([]).next_cursor is None


class TestPageRows:
    """How many rows a page may hold."""

    def test_none_is_as_many_as_a_page_can_hold(self):
        """No limit is a limit too."""
        assert page_rows(None) == PAGE_ROWS_MAX

    @pytest.mark.parametrize("limit", [1, PAGE_ROWS_MAX])
    def test_takes_the_ends_of_its_range(self, limit: int):
        """Both ends are allowed."""
        assert page_rows(limit) == limit

    @pytest.mark.parametrize("limit", [0, -1, PAGE_ROWS_MAX + 1, True, 1.0, "1"])
    def test_refuses_the_rest(self, limit: int):
        """Zero would page for ever; a bool or a float is a mistake."""
        with pytest.raises(QueryError, match="limit must be"):
            page_rows(limit)


class TestCursor:
    """What goes in comes out; what did not go in does not."""

    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200), INT64)
    def test_gives_back_its_key(self, text: str, number: int):
        """Any text and any 64-bit number survive, in characters that a URL takes unescaped."""
        cursor = encode_cursor("things.list", text, number)
        assert decode_cursor("things.list", cursor, str, int) == (text, number)
        assert set(cursor) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")

    def test_of_another_query_is_refused(self):
        """Continuing costs with the cursor of messages would return the wrong rows silently."""
        cursor = encode_cursor("messages.get_history", "2026", 1)
        with pytest.raises(QueryError, match=r"does not continue cost_records\.query"):
            decode_cursor("cost_records.query", cursor, str, int)

    @pytest.mark.parametrize(
        "key",
        [
            [],
            ["a"],
            ["a", 1, 2],
            [1, "a"],
            ["a", "1"],
            ["a", 1.0],
            ["a", True],
            ["a", None],
            ["a", 2**63],
            ["a", [1]],
        ],
        ids=str,
    )
    def test_with_a_key_of_other_types_is_refused(self, key: list[object]):
        """What reaches the database has the types that the query compares."""
        with pytest.raises(QueryError, match="does not continue"):
            decode_cursor("things.list", forged(["things.list", *key]), str, int)

    @pytest.mark.parametrize(
        "cursor",
        [
            "",
            "x",
            "!!!!",
            "é",
            "a b",
            "A" * 9000,
            forged({}),
            forged(1),
            forged([]),
            forged("things.list")[:-3],
        ],
    )
    def test_that_is_none_is_refused(self, cursor: str):
        """Whatever is not a cursor ends in a QueryError, not in an error of base64 or JSON."""
        with pytest.raises(QueryError):
            decode_cursor("things.list", cursor, str, int)

    @pytest.mark.parametrize("cursor", [b"abcd", 12, ["a"]])
    def test_that_is_no_text_is_refused(self, cursor: str):
        """A caller's type mistake is a QueryError as well."""
        with pytest.raises(QueryError):
            decode_cursor("things.list", cursor, str, int)

    @given(st.text(max_size=60))
    def test_noise_never_raises_anything_else(self, noise: str):
        """Cursors come from outside: no input may surprise."""
        with pytest.raises(QueryError):
            decode_cursor("things.list", noise, str, int)

    @given(st.data())
    def test_tampered_with_never_surprises(self, data: st.DataObject):
        """One changed character gives another position of the same types, or a QueryError."""
        cursor = encode_cursor("things.list", "2026-01-31T12:00:00.000000Z", 42)
        at = data.draw(st.integers(0, len(cursor) - 1))
        tampered = cursor[:at] + data.draw(st.characters()) + cursor[at + 1 :]
        try:
            text, number = decode_cursor("things.list", tampered, str, int)
        except QueryError:
            return
        assert (type(text), type(number)) == (str, int)
