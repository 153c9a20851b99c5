"""Writes the dashboards: ``python -m dashboards``."""

from dashboards import boards
from dashboards.panels import GRAFANA, to_json

for board in boards.ALL:
    (GRAFANA / f"{board.uid}.json").write_text(to_json(board), encoding="utf-8")
