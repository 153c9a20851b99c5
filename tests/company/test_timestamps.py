"""Stored timestamps (rule 5): UTC in one width, so that text order is time order, and any offset is the same instant."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import offsets, timestamps
from tenantry.company.types import format_timestamp


@given(st.lists(timestamps(), max_size=8))
def test_text_order_is_time_order(instants: list[datetime]):
    """Sorted as text they are sorted in time, from the year 1 to 9999 and whatever offsets they were told with."""
    by_text = sorted(instants, key=format_timestamp)
    assert [instant.timestamp() for instant in by_text] == sorted(i.timestamp() for i in instants)
    assert [format_timestamp(i) for i in sorted(instants)] == [format_timestamp(i) for i in by_text]


@given(timestamps())
def test_text_has_one_form_and_comes_back(instant: datetime):
    """27 characters ending in Z, which Python reads as the same instant in UTC, to the microsecond."""
    text = format_timestamp(instant)
    assert (len(text), text[10], text[-1]) == (27, "T", "Z")
    back = datetime.fromisoformat(text)
    assert (back, back.utcoffset()) == (instant, timedelta(0))


@given(timestamps(), offsets())
def test_offset_changes_nothing(instant: datetime, offset: timezone):
    """The same instant told in another zone is the same text."""
    try:
        moved = instant.astimezone(offset)
    except OverflowError:
        return
    assert format_timestamp(moved) == format_timestamp(instant)


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00.000000Z"),
        (datetime(2026, 1, 31, 9, 30, tzinfo=timezone(timedelta(hours=-8))), "2026-01-31T17:30:00.000000Z"),
        (datetime.max.replace(tzinfo=UTC), "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_examples(instant: datetime, text: str):
    """What is in the files, and may never change."""
    assert format_timestamp(instant) == text


@pytest.mark.parametrize(
    "instant",
    [
        datetime(2026, 1, 1),  # noqa: DTZ001  # naive on purpose
        datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
    ],
    ids=["naive", "before-year-1", "after-year-9999"],
)
def test_what_is_no_instant_is_refused(instant: datetime):
    """Without a zone it is not known when it was; beyond the years it has no text."""
    with pytest.raises(ValueError, match="must"):
        format_timestamp(instant)
