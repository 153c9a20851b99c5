"""Sends the numbers of a registry to the process that Prometheus asks.

The other process is not trusted: only numbers and the values of labels come from it. The names, descriptions and labels of the families
are those of this process, and a series that does not fit them is left out. In a rolling upgrade, a family that only the newer release has
is therefore shown by the processes of the newer release.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Final, TypeAlias

import msgspec

from tenantry.tenancy.measurements.families import (
    Distribution,
    Example,
    Family,
    Kind,
    Labels,
    Measured,
    Series,
    Value,
)

SERIES_MAX: Final = 10_000
"""The largest number of series of a family. `tenantry.tenancy.measurements.event_counts` makes at most 200 operations with about ten outcomes each."""

_TEXT_MAX: Final = 1_024
_LABELS_MAX: Final = 8
_BUCKETS_MAX: Final = 64
_FAMILIES_MAX: Final = 256

_Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=_TEXT_MAX)]
_Texts: TypeAlias = Annotated[list[_Text], msgspec.Meta(max_length=_LABELS_MAX)]
_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
_Example: TypeAlias = tuple[_Text, float, float]


class _Distribution(msgspec.Struct, array_like=True):
    counts: Annotated[list[_Count], msgspec.Meta(max_length=_BUCKETS_MAX)]
    total: float
    examples: Annotated[list[_Example | None], msgspec.Meta(max_length=_BUCKETS_MAX)]


_Pairs: TypeAlias = Annotated[list[tuple[_Texts, float | _Distribution]], msgspec.Meta(max_length=SERIES_MAX)]
_Families: TypeAlias = Annotated[dict[_Text, _Pairs], msgspec.Meta(max_length=_FAMILIES_MAX)]

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Families)


def pack(measured: Iterable[Measured]) -> bytes:
    """Return the families with their numbers as they are sent."""
    return _encoder.encode({family.name: list(series.items()) for family, series in measured})


def unpack(sent: bytes, known: Iterable[Family]) -> dict[str, Series]:
    """Return the numbers of the known families, by the name of the family.

    Raises:
        msgspec.DecodeError: The other process sent something else.
    """
    families = _decoder.decode(sent)
    return {family.name: _fitting(family, families.get(family.name, ())) for family in known}


def _fitting(
    family: Family, pairs: Iterable[tuple[list[str], float | _Distribution]]
) -> Mapping[Labels, Value]:
    series: dict[Labels, Value] = {}
    for labels, value in pairs:
        found = _value(family, value)
        if found is not None and len(labels) == len(family.labels):
            series[tuple(labels)] = found
    return series


def _value(family: Family, value: float | _Distribution) -> Value | None:
    """Return the value if it is one of this family; None otherwise."""
    is_histogram = family.kind is Kind.HISTOGRAM
    if not isinstance(value, _Distribution):
        return None if is_histogram else value
    buckets = len(family.bounds) + 1
    if not is_histogram or len(value.counts) != buckets or len(value.examples) != buckets:
        return None
    examples = [None if one is None else Example(*one) for one in value.examples]
    return Distribution(value.counts, value.total, examples)
