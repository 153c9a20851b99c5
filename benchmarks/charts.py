"""Cost curves as SVG, for the docs."""

from collections.abc import Sequence
from pathlib import Path

import pygal
from pygal.style import CleanStyle

from benchmarks.comparison import Comparison, Measure
from benchmarks.verdict import Outcome

_WIDTH, _HEIGHT = 800, 420
_MILLISECONDS, _MICROSECONDS = 1e3, 1e6


def draw_curve(outcome: Outcome, directory: Path) -> list[Path]:
    """Draw the rate, the 99th percentile and the processor time of a call over the size, one line for each side; return the files."""
    axis = outcome.work.curve_axis
    drawn = {
        "rate": _chart("calls per second", axis, outcome.curve, Measure.RATE, 1.0),
        "p99": _chart("99th percentile, ms", axis, outcome.curve, Measure.P99, _MILLISECONDS),
    }
    if any(
        Measure.CPU.of(sample)
        for point in outcome.curve
        for side in point.samples.values()
        for sample in side
    ):
        drawn["cpu"] = _chart("processor time of a call, µs", axis, outcome.curve, Measure.CPU, _MICROSECONDS)
    directory.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for kind, chart in drawn.items():
        path = directory / f"{outcome.name}_{kind}.svg"
        path.write_bytes(chart.render())
        files.append(path)
    return files


def _chart(
    title: str, axis: str, curve: Sequence[Comparison], measure: Measure, factor: float
) -> pygal.graph.graph.Graph:
    chart = pygal.Line(
        title=title,
        x_title=axis,
        width=_WIDTH,
        height=_HEIGHT,
        # Sizes grow by factors and sides differ by factors: both axes are logarithmic in effect.
        logarithmic=True,
        style=CleanStyle,
        # A page that shows the chart as an image runs no scripts and loads no fonts.
        js=[],
        disable_xml_declaration=False,
        value_formatter=lambda value: f"{value:,.0f}" if value >= 1 else f"{value:.2g}",
        legend_at_bottom=True,
    )
    chart.x_labels = [f"{int(comparison.setting):,}" for comparison in curve]
    for side in curve[0].samples:
        values = [comparison.value(measure, side) for comparison in curve]
        chart.add(side, [None if value is None else value.median * factor for value in values])
    return chart
