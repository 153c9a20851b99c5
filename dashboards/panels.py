"""What a dashboard is made of, in Grafana's own JSON (schema version 39: Grafana 10 and later).

An expression may say ``$here`` for the processes that were chosen above the dashboard, ``$target`` for the targets of Prometheus
that were chosen, and ``$service`` for what is the same in all processes, like the tenants of the catalog.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

GRAFANA: Final = Path(__file__).parent / "grafana"

_COLUMNS: Final = 24
_SELECTORS: Final = {
    "$here": 'job="$job",instance=~"$instance",process=~"$process"',
    "$target": 'job="$job",instance=~"$instance"',
    "$service": 'job="$job"',
}
_METRICS: Final = {"type": "prometheus", "uid": "${datasource}"}
_LOGS: Final = {"type": "loki", "uid": "${logs}"}

Json = dict[str, Any]


@dataclass(frozen=True)
class Query:
    """One expression of a panel, and what its series are called."""

    expr: str
    legend: str = ""

    @property
    def text(self) -> str:
        """The expression as Grafana gets it."""
        text = " ".join(self.expr.split())
        for name, selector in _SELECTORS.items():
            text = text.replace(name, selector)
        return text


@dataclass(frozen=True)
class Panel:
    """A panel without its place."""

    body: Json
    width: int
    height: int


@dataclass(frozen=True)
class Board:
    """A dashboard."""

    uid: str
    title: str
    description: str
    panels: Sequence[Panel]
    variables: Sequence[Json] = ()


def rate(metric: str, by: str = "", where: str = "") -> str:
    """Return how often a counter counts in a second, added up over all labels but `by`."""
    grouping = f" by ({by}) " if by else ""
    return f"sum{grouping}(rate({metric}{_where(where)}[$__rate_interval]))"


def quantile(share: float, histogram: str, by: str = "", where: str = "") -> str:
    """Return the quantile of a histogram over the last moments, for each of `by`."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', labels, where)})"


def mean(histogram: str, by: str = "", where: str = "") -> str:
    """Return the mean of a histogram over the last moments, for each of `by`."""
    return f"{rate(f'{histogram}_sum', by, where)} / {rate(f'{histogram}_count', by, where)}"


def quantiles(histogram: str, by: str = "", where: str = "") -> tuple[Query, Query]:
    """Return the median and the slowest of a hundred."""
    name = f"{{{{{by}}}}} " if by else ""
    return (
        Query(quantile(0.5, histogram, by, where), f"{name}p50"),
        Query(quantile(0.99, histogram, by, where), f"{name}p99"),
    )


def row(title: str) -> Panel:
    """Return a heading over the panels that follow."""
    return Panel({"type": "row", "title": title, "collapsed": False, "panels": []}, _COLUMNS, 1)


def chart(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    width: int = 8,
    has_exemplars: bool = False,
) -> Panel:
    """Return a chart over time; with exemplars each dot on it names a tenant."""
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    custom = {"drawStyle": "line", "fillOpacity": 8, "lineWidth": 1, "showPoints": "never"}
    defaults = {"unit": unit, "min": 0, "custom": custom}
    targets = [_target(n, query, exemplar=has_exemplars) for n, query in enumerate(queries)]
    return _panel("timeseries", title, description, defaults, options, targets, (width, 8))


def number(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    warn: float | None = None,
    is_low_bad: bool = False,
    width: int = 3,
) -> Panel:
    """Return one number of now; it is red from `warn` on, or below it if low is bad."""
    colours = ("red", "green") if is_low_bad else ("green", "red")
    steps: list[Json] = [{"color": colours[0] if warn is not None else "green", "value": None}]
    if warn is not None:
        steps.append({"color": colours[1], "value": warn})
    defaults = {"unit": unit, "thresholds": {"mode": "absolute", "steps": steps}}
    options = {"colorMode": "value", "graphMode": "area", "reduceOptions": {"calcs": ["lastNotNull"]}}
    return _panel("stat", title, description, defaults, options, [_target(0, query)], (width, 4))


def heatmap(
    title: str, description: str, unit: str, histogram: str, where: str = "", *, width: int = 12
) -> Panel:
    """Return how a histogram's calls are spread, with exemplars."""
    query = Query(f"sum by (le) (increase({histogram}_bucket{_where(where)}[$__rate_interval]))", "{{le}}")
    options = {
        "calculate": False,
        "yAxis": {"unit": unit, "axisPlacement": "left"},
        "color": {"mode": "scheme", "scheme": "Blues", "steps": 64},
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "cellGap": 1,
        "tooltip": {"mode": "single", "yHistogram": True},
        "legend": {"show": True},
    }
    targets = [_target(0, query, exemplar=True) | {"format": "heatmap"}]
    return _panel("heatmap", title, description, {"unit": unit}, options, targets, (width, 8))


def logs(title: str, description: str, expr: str, *, width: int = 24) -> Panel:
    """Return lines of the log, from Loki."""
    options = {"showTime": True, "wrapLogMessage": True, "sortOrder": "Descending", "enableLogDetails": True}
    targets = [{"refId": "A", "datasource": _LOGS, "expr": expr, "queryType": "range"}]
    return _panel("logs", title, description, {"unit": "none"}, options, targets, (width, 10), _LOGS)


def log_chart(title: str, description: str, expr: str, legend: str, *, width: int = 12) -> Panel:
    """Return how many lines of the log there are over time, from Loki."""
    defaults = {"unit": "short", "min": 0, "custom": {"drawStyle": "bars", "fillOpacity": 60}}
    targets = [
        {"refId": "A", "datasource": _LOGS, "expr": expr, "legendFormat": legend, "queryType": "range"}
    ]
    return _panel("timeseries", title, description, defaults, {}, targets, (width, 8), _LOGS)


def text(title: str, description: str, content: str, *, width: int = 24, height: int = 5) -> Panel:
    """Return words, as Markdown."""
    options = {"mode": "markdown", "content": content}
    return _panel("text", title, description, {"unit": "none"}, options, [], (width, height))


def query_variable(name: str, label: str, metric: str) -> Json:
    """Return a choice among the values that a label of a metric has."""
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": _METRICS,
        "query": {"query": f"label_values({metric}, {name})", "refId": name},
        "refresh": 2,
        "sort": 1,
    }


def many(variable: Json) -> Json:
    """Let more than one value be chosen, or all."""
    everything = {"text": "All", "value": "$__all"}
    return variable | {"multi": True, "includeAll": True, "allValue": ".*", "current": everything}


def text_variable(name: str, label: str) -> Json:
    """Return a field for a word."""
    return {
        "type": "textbox",
        "name": name,
        "label": label,
        "query": "",
        "current": {"text": "", "value": ""},
    }


def source_variable(name: str, label: str, kind: str) -> Json:
    """Return a choice among the data sources of a kind."""
    return {"type": "datasource", "name": name, "label": label, "query": kind, "refresh": 1}


def to_json(board: Board) -> str:
    """Return the dashboard as it is imported into Grafana."""
    variables = [
        source_variable("datasource", "Metrics", "prometheus"),
        query_variable("job", "Service", "tenantry_pool_capacity_tenants"),
        many(query_variable("instance", "Target", 'tenantry_pool_capacity_tenants{job="$job"}')),
        many(query_variable("process", "Process", 'tenantry_pool_capacity_tenants{job="$job"}')),
        *board.variables,
    ]
    links = {"type": "dashboards", "title": "tenantry", "tags": ["tenantry"], "asDropdown": True}
    content = {
        "uid": board.uid,
        "title": board.title,
        "description": board.description,
        "tags": ["tenantry"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "timezone": "browser",
        "time": {"from": "now-1h", "to": "now"},
        "links": [links | {"includeVars": True, "keepTime": True}],
        "templating": {"list": variables},
        "panels": list(_placed(board.panels)),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _placed(panels: Sequence[Panel]) -> Iterator[Json]:
    """Fill lines from left to right; a panel that does not fit begins the next line."""
    x = y = line = 0
    for number_, panel in enumerate(panels, start=1):
        if x + panel.width > _COLUMNS:
            x, y, line = 0, y + line, 0
        place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
        yield {"id": number_, "gridPos": place, **panel.body}
        x, line = x + panel.width, max(line, panel.height)


def _panel(
    kind: str,
    title: str,
    description: str,
    defaults: Json,
    options: Json,
    targets: Sequence[Json],
    size: tuple[int, int],
    datasource: Json = _METRICS,
) -> Panel:
    body = {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": datasource,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": list(targets),
    }
    return Panel(body, *size)


def _target(number_: int, query: Query, *, exemplar: bool = False) -> Json:
    return {
        "refId": "ABCDEFGH"[number_],
        "datasource": _METRICS,
        "expr": query.text,
        "legendFormat": query.legend or "__auto",
        "range": True,
        "exemplar": exemplar,
    }


def _where(where: str) -> str:
    return f"{{$here,{where}}}" if where else "{$here}"
