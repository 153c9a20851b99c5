"""The demo's result, as tables for people and as JSON for programs."""

import json
from statistics import quantiles
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tenantry.demo.company import READS
from tenantry.demo.load import LoadResult
from tenantry.demo.run import DemoResult

AIOSQLITE: Final = "one aiosqlite connection for each company"
_MILLISECONDS: Final = 1000.0
_PERCENT: Final = 100


def as_data(result: DemoResult, compared: LoadResult | None = None) -> dict[str, Any]:
    """Return the result as plain data, with times in milliseconds and rates per second.

    Args:
        result: The result of the demo.
        compared: The result of the same load on aiosqlite, if it was run.
    """
    data = {
        "backend": result.backend,
        "engine": result.engine,
        "engine_reason": result.engine_reason,
        "durability": result.durability,
        **_load(result),
        "statements": {name: _calls(values) for name, values in sorted(result.timings.seconds.items())},
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
        "metric_families": list(result.metric_families),
    }
    if compared is not None:
        data["compared"] = {"side": AIOSQLITE, **_load(compared), "ratios": _ratios(result, compared)}
    return data


def as_json(result: DemoResult, compared: LoadResult | None = None) -> str:
    """Return the result as one JSON document."""
    return json.dumps(as_data(result, compared), indent=2)


def print_tables(result: DemoResult, compared: LoadResult | None, console: Console) -> None:
    """Print the result for people."""
    data = as_data(result, compared)
    console.print(_statements_table(data))
    console.print(_totals_table(data))
    if result.engine_reason is not None:
        console.print(f"The engine is not native: {result.engine_reason}.", markup=False)
    if compared is not None:
        console.print(_compared_table(data))
    console.print(f"[bold]Metric families exported[/] ({len(result.metric_families)}):")
    console.print("  " + ", ".join(result.metric_families), soft_wrap=False)
    console.print(_check_words("", result))
    if compared is not None:
        console.print(_check_words(" on aiosqlite", compared))


def _check_words(where: str, result: LoadResult) -> str:
    check = result.check
    if result.is_whole:
        return (
            f"[green]Checked{where} after reopening:[/] all {check.checked:,} acknowledged records exist, each in its own company. "
            "A record that was written several times counts once."
        )
    return (
        f"[bold red]Lost or mixed up{where}:[/] {check.missing:,} of {check.checked:,} acknowledged records are missing, and "
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
    table.add_row("back end", data["backend"])
    if data["engine"] is not None:
        table.add_row("engine", data["engine"])
    for name, value in _figures(data).items():
        table.add_row(name, value)
    for channel, mean in data["mean_batch_requests"].items():
        table.add_row(f"mean {channel} batch, calls", f"{mean:g}")
    pool = data["pool"]
    table.add_row("open tenants, peak of limit", f"{pool['open_tenants_peak']} of {pool['open_tenants_max']}")
    for name in ("opened", "evictions", "waits"):
        table.add_row(name, f"{pool[name]:,}")
    return table


def _compared_table(data: dict[str, Any]) -> Table:
    """Return the load on tenantry beside the same load on aiosqlite, with tenantry's values as multiples of aiosqlite's."""
    compared = data["compared"]
    table = Table(
        "the same load",
        title=f"Beside {AIOSQLITE}, with the same SQL and durability ({data['durability']})",
        title_justify="left",
    )
    for column in (f"tenantry ({data['engine']})", "aiosqlite", "tenantry / aiosqlite"):
        table.add_column(column, justify="right")
    ours, theirs = _figures(data), _figures(compared)
    for (name, value), ratio in zip(ours.items(), compared["ratios"].values(), strict=True):
        table.add_row(name, value, theirs[name], "-" if ratio is None else f"{ratio:.2f}")
    return table


def _figures(load: dict[str, Any]) -> dict[str, str]:
    """Return the figures of a load in the order of `_ratios`, as text."""
    return {
        "writes/s (durable)": f"{load['writes_per_second']:,}",
        "reads/s": f"{load['reads_per_second']:,}",
        "write p50, ms": f"{load['writes']['p50_ms']:.2f}",
        "write p99, ms": f"{load['writes']['p99_ms']:.2f}",
        "read p50, ms": f"{load['reads']['p50_ms']:.2f}",
        "read p99, ms": f"{load['reads']['p99_ms']:.2f}",
    }


def _ratios(result: LoadResult, compared: LoadResult) -> dict[str, float | None]:
    """Return tenantry's figures as multiples of the compared side's; None for a figure that is 0 there."""
    ours, theirs = _numbers(result), _numbers(compared)
    return {name: round(ours[name] / value, 3) if value else None for name, value in theirs.items()}


def _numbers(result: LoadResult) -> dict[str, float]:
    load = _load(result)
    rates = {name: load[name] for name in ("writes_per_second", "reads_per_second")}
    return rates | {
        f"{kind}_{name}": load[kind][name] for kind in ("writes", "reads") for name in ("p50_ms", "p99_ms")
    }


def _load(result: LoadResult) -> dict[str, Any]:
    writes, reads = result.timings.of(is_read=False), result.timings.of(is_read=True)
    return {
        "elapsed_seconds": round(result.elapsed_seconds, 3),
        "writes_per_second": round(len(writes) / result.elapsed_seconds),
        "reads_per_second": round(len(reads) / result.elapsed_seconds),
        "writes": _calls(writes),
        "reads": _calls(reads),
        "check": {
            "acknowledged": result.check.checked,
            "missing": result.check.missing,
            "foreign": result.check.foreign,
            "is_whole": result.is_whole,
        },
    }


def _calls(seconds: list[float]) -> dict[str, float]:
    cuts = quantiles(seconds, n=_PERCENT) if len(seconds) > 1 else (seconds or [0.0]) * (_PERCENT - 1)
    return {
        "calls": len(seconds),
        "p50_ms": round(cuts[49] * _MILLISECONDS, 3),
        "p99_ms": round(cuts[98] * _MILLISECONDS, 3),
    }
