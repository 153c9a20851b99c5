"""The tables for people and the JSON for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table

from benchmarks.comparison import ITSELF, Comparison, Measure, Spread
from benchmarks.harness import Load
from benchmarks.verdict import Outcome, Verdict, bound, judge

_KIB = 1024


def as_table(outcome: Outcome) -> Table:
    """Return one row for each side of each setting, drawn as Markdown so that it can be pasted into the docs."""
    table = Table(
        title=f"{outcome.name} (work {outcome.work.number}): {outcome.work.title}", box=box.MARKDOWN
    )
    table.add_column("setting", no_wrap=True)
    table.add_column("side", no_wrap=True)
    for column in ("calls/s", "(quartiles)", "p50 µs", "p99 µs", "rate ratio", "(quartiles)", "p50 ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    shown = (*outcome.comparisons, *outcome.curve)
    has_memory = any(Measure.BYTES.of(s[0]) for c in shown for s in c.samples.values())
    if has_memory:
        table.add_column("KiB", justify="right")
    has_cpu = any(Measure.CPU.of(s[0]) for c in shown for s in c.samples.values())
    if has_cpu:
        table.add_column("CPU µs", justify="right", no_wrap=True)
        table.add_column("CPU ratio", justify="right", no_wrap=True)
    has_errors = any(c.errors(side) for c in shown for side in c.samples)
    if has_errors:
        table.add_column("errors", justify="right")
    for comparison in shown:
        for side in comparison.samples:
            cells = _cells(comparison, side)
            if has_memory:
                cells.append(_median(comparison.value(Measure.BYTES, side), ",.0f", 1 / _KIB))
            if has_cpu:
                cells.append(_median(comparison.value(Measure.CPU, side), ",.0f", 1e6))
                cells.append(_median(comparison.ratio(Measure.CPU, side), ".2f"))
            if has_errors:
                cells.append(str(comparison.errors(side)))
            table.add_row(comparison.setting, side, *cells)
    table.caption = (
        "rate ratio: how many times the side's rate the first side reaches; p50 ratio: the first side's median latency as "
        "a multiple of the side's; both are medians of the ratios of each round"
    )
    return table


def verdict_table(outcomes: Sequence[Outcome]) -> Table:
    """Return one row for each target, drawn as Markdown."""
    table = Table(title="targets", box=box.MARKDOWN)
    for column in ("work", "benchmark", "setting", "measure", "of", "against"):
        table.add_column(column, no_wrap=True)
    for column in ("ratio", "(quartiles)", "must", "reach"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for outcome in outcomes:
        for verdict in judge(outcome.work.targets, outcome.comparisons):
            target = verdict.target
            form = ".2f" if target.side != ITSELF else ".3g"
            table.add_row(
                *(outcome.work.number, outcome.name, target.setting, target.measure.value, verdict.subject),
                *(target.side, _median(verdict.ratio, form), _range(verdict.ratio, form)),
                *(bound(target.must, target.measure), bound(target.reach, target.measure), verdict.words),
            )
    return table


def as_json(outcome: Outcome, load: Load, facts: dict[str, Any]) -> str:
    """Return everything: the facts, the medians and each round's samples."""
    document = {
        "benchmark": outcome.name,
        "work": outcome.work.number,
        "title": outcome.work.title,
        "machine": facts,
        "is_quick": load.is_quick,
        "rounds": load.rounds,
        "seconds": load.seconds,
        "warm_up_seconds": load.warm_up_seconds,
        "targets": [_verdict(verdict) for verdict in judge(outcome.work.targets, outcome.comparisons)],
        "comparisons": [_comparison(comparison) for comparison in outcome.comparisons],
        "curve": [_comparison(comparison) for comparison in outcome.curve],
    }
    return json.dumps(document, indent=2) + "\n"


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        **asdict(verdict.target),
        "measure": verdict.target.measure.value,
        "subject": verdict.subject,
        "ratio": asdict(verdict.ratio),
        "errors": verdict.errors,
        "is_met": verdict.is_met,
        "is_reached": verdict.is_reached,
    }


def _cells(comparison: Comparison, side: str) -> list[str]:
    rate, ratio = comparison.value(Measure.RATE, side), comparison.ratio(Measure.RATE, side)
    return [
        _median(rate, ",.0f"),
        _range(rate, ",.0f"),
        _median(comparison.value(Measure.P50, side), ",.0f", 1e6),
        _median(comparison.value(Measure.P99, side), ",.0f", 1e6),
        _median(ratio, ".2f"),
        _range(ratio, ".2f"),
        _median(comparison.ratio(Measure.P50, side), ".2f"),
    ]


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        "setting": comparison.setting,
        "sides": {
            side: {
                **{measure.value: _spread(comparison.value(measure, side)) for measure in Measure},
                "ratios": {measure.value: _spread(comparison.ratio(measure, side)) for measure in Measure},
                "samples": [asdict(sample) for sample in samples],
            }
            for side, samples in comparison.samples.items()
        },
    }


def _spread(spread: Spread | None) -> dict[str, float] | None:
    return None if spread is None else asdict(spread)


def _median(spread: Spread | None, form: str, factor: float = 1.0) -> str:
    return "-" if spread is None else format(spread.median * factor, form)


def _range(spread: Spread | None, form: str) -> str:
    return "-" if spread is None else f"{spread.lower_quartile:{form}}-{spread.upper_quartile:{form}}"
