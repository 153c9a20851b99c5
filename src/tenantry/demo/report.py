"""The demo's result, as tables for people and as JSON for programs."""

import json
from statistics import quantiles
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tenantry.demo.company import READS
from tenantry.demo.run import DemoResult

_MILLISECONDS: Final = 1000.0
_PERCENT: Final = 100


def as_data(result: DemoResult) -> dict[str, Any]:
    """Return the result as plain data, with times in milliseconds and rates per second."""
    seconds = result.elapsed_seconds
    return {
        "elapsed_seconds": round(seconds, 3),
        "writes_per_second": round(result.timings.count(is_read=False) / seconds),
        "reads_per_second": round(result.timings.count(is_read=True) / seconds),
        "statements": {name: _statement(values) for name, values in sorted(result.timings.seconds.items())},
        "mean_batch_requests": {
            channel: round(calls / batches, 1) for channel, (batches, calls) in sorted(result.batches.items())
        },
        "pool": {
            "open_tenants_max": result.pool.open_tenants_max,
            "open_tenants_peak": result.pool.open_tenants_peak,
            "opened": result.pool.opened,
            "evictions": result.pool.evictions,
            "waits": result.pool_waits,
        },
        "check": {
            "acknowledged": result.check.checked,
            "missing": result.check.missing,
            "foreign": result.check.foreign,
            "is_whole": result.is_whole,
        },
        "metric_families": list(result.metric_families),
    }


def as_json(result: DemoResult) -> str:
    """Return the result as one JSON document."""
    return json.dumps(as_data(result), indent=2)


def print_tables(result: DemoResult, console: Console) -> None:
    """Print the result for people."""
    data = as_data(result)
    console.print(_statements_table(data))
    console.print(_totals_table(data))
    console.print(f"[bold]Metric families exported[/] ({len(result.metric_families)}):")
    console.print("  " + ", ".join(result.metric_families), soft_wrap=False)
    check = result.check
    if result.is_whole:
        console.print(
            f"[green]Checked after reopening:[/] all {check.checked:,} acknowledged records exist, each in its own company. "
            "A record that was written several times counts once."
        )
    else:
        console.print(
            f"[bold red]Lost or mixed up:[/] {check.missing:,} of {check.checked:,} acknowledged records are missing, and "
            f"records of {check.foreign:,} companies are in another company's file."
        )


def _statements_table(data: dict[str, Any]) -> Table:
    table = Table(
        "statement", "kind", title=f"Calls in {data['elapsed_seconds']:.1f} s", title_justify="left"
    )
    for column in ("calls", "p50 ms", "p99 ms"):
        table.add_column(column, justify="right")
    for name, values in data["statements"].items():
        kind = "read" if name in READS else "write"
        table.add_row(
            name, kind, f"{values['calls']:,}", f"{values['p50_ms']:.2f}", f"{values['p99_ms']:.2f}"
        )
    return table


def _totals_table(data: dict[str, Any]) -> Table:
    table = Table("total", title="Altogether", title_justify="left")
    table.add_column("value", justify="right")
    table.add_row("writes/s (durable)", f"{data['writes_per_second']:,}")
    table.add_row("reads/s", f"{data['reads_per_second']:,}")
    for channel, mean in data["mean_batch_requests"].items():
        table.add_row(f"mean {channel} batch, calls", f"{mean:g}")
    pool = data["pool"]
    table.add_row("open tenants, peak of limit", f"{pool['open_tenants_peak']} of {pool['open_tenants_max']}")
    for name in ("opened", "evictions", "waits"):
        table.add_row(name, f"{pool[name]:,}")
    return table


def _statement(seconds: list[float]) -> dict[str, float]:
    cuts = quantiles(seconds, n=_PERCENT) if len(seconds) > 1 else seconds * (_PERCENT - 1)
    return {
        "calls": len(seconds),
        "p50_ms": round(cuts[49] * _MILLISECONDS, 3),
        "p99_ms": round(cuts[98] * _MILLISECONDS, 3),
    }
