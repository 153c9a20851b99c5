"""The dashboards and the rules as their tests read them.

Import it by name (``tests`` is on pytest's path): ``from grafana import board``.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from monitoring import DASHBOARDS

FILES = sorted((DASHBOARDS / "grafana").glob("*.json"))
RULES = sorted((DASHBOARDS / "rules").glob("*.yml"))
VARIABLES = {
    "$__rate_interval": "1m",
    "$__range": "1h",
    "$__interval": "1m",
    "$job": "tenantry",
    "$instance": ".*",
    "$process": ".*",
}
VARIABLES |= {"$operation": ".*", "$backend": ".*"}


def board(path: Path) -> dict[str, Any]:
    """Return a dashboard."""
    return json.loads(path.read_text())


def panels(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a dashboard's panels but for headings."""
    return [panel for panel in content["panels"] if panel["type"] != "row"]


def fill(expr: str) -> str:
    """Put a value in the place of every variable, as Grafana does."""
    for name in sorted(VARIABLES, key=len, reverse=True):
        expr = expr.replace(name, VARIABLES[name])
    assert "$" not in expr, expr
    return expr


def board_exprs(path: Path) -> Iterator[str]:
    """Yield the expressions for Prometheus of a dashboard."""
    for panel in panels(board(path)):
        for target in panel["targets"]:
            if target["datasource"]["type"] == "prometheus":
                yield fill(target["expr"])


def variable_exprs(path: Path) -> Iterator[tuple[str, str]]:
    """Yield what a dashboard's variables look through, and for which label."""
    for variable in board(path)["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            assert found
            yield fill(found[1]), found[2]


def rules() -> Iterator[dict[str, Any]]:
    """Yield every recording and alerting rule."""
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]
