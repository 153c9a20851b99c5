"""What the tests of series share: the names and labels of all samples, without those of the registry's own calls.

Import it by name (``tests`` is on pytest's path): ``from series import series_of``.
"""

from collections.abc import Iterable

from prometheus_client.core import Metric

_OWN_CALLS = ("catalog.", "fleet.")


def series_of(families: Iterable[Metric]) -> set[tuple[str, ...]]:
    """Return the name and the labels of each series, but for the calls that the registry makes by its clock.

    Every half second the registry looks at its catalog, and every ten seconds at its disk and its jobs. Where the first of these
    looks falls between two counts, the second count has series that no tenant made. The two gauges of the disk are such
    series too: wait until ``statistics().disk`` is there before the first count.
    """
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items())))
        for family in families
        for sample in family.samples
        if not sample.labels.get("operation", "").startswith(_OWN_CALLS)
    }
