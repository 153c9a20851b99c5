"""The table for people and the JSON for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table

from benchmarks.harness import Comparison, Load, Spread


def as_table(name: str, comparisons: Sequence[Comparison]) -> Table:
    """Return one row for each side of each setting, drawn as Markdown so that it can be pasted into the docs."""
    table = Table(title=name, box=box.MARKDOWN)
    table.add_column("setting", no_wrap=True)
    table.add_column("side", no_wrap=True)
    for column in ("calls/s", "(least-most)", "p50 µs", "p99 µs", "rate ratio", "(least-most)", "p50 ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    for comparison in comparisons:
        for side in comparison.samples:
            table.add_row(comparison.setting, side, *_cells(comparison, side))
    subject = next(iter(comparisons[0].samples))
    table.caption = (
        f"rate ratio: how many times the side's rate {subject} reaches; p50 ratio: {subject}'s median latency as a "
        "multiple of the side's; both are medians of the ratios of each round"
    )
    return table


def as_json(name: str, load: Load, facts: dict[str, Any], comparisons: Sequence[Comparison]) -> str:
    """Return everything: the facts, the medians and each round's samples."""
    document = {
        "benchmark": name,
        "machine": facts,
        "rounds": load.rounds,
        "seconds": load.seconds,
        "warm_up_seconds": load.warm_up_seconds,
        "comparisons": [_comparison(comparison) for comparison in comparisons],
    }
    return json.dumps(document, indent=2) + "\n"


def _cells(comparison: Comparison, side: str) -> list[str]:
    rate, ratio = comparison.rate(side), comparison.rate_ratio(side)
    return [
        f"{rate.median:,.0f}",
        _range(rate, ",.0f"),
        _microseconds(comparison.p50(side)),
        _microseconds(comparison.p99(side)),
        f"{ratio.median:.2f}",
        _range(ratio, ".2f"),
        _or_dash(comparison.p50_ratio(side), ".2f"),
    ]


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        "setting": comparison.setting,
        "sides": {
            side: {
                "calls_per_second": asdict(comparison.rate(side)),
                "rate_ratio": asdict(comparison.rate_ratio(side)),
                "p50_seconds": comparison.p50(side),
                "p99_seconds": comparison.p99(side),
                "p50_ratio": comparison.p50_ratio(side),
                "samples": [{**asdict(s), "durability": s.durability._asdict()} for s in samples],
            }
            for side, samples in comparison.samples.items()
        },
    }


def _range(spread: Spread, form: str) -> str:
    return f"{spread.least:{form}}-{spread.most:{form}}"


def _microseconds(seconds: float | None) -> str:
    return _or_dash(None if seconds is None else seconds * 1e6, ",.0f")


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
