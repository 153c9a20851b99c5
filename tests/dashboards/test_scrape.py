"""A real Prometheus scrapes the real service: whatever is shown has data, and whatever is watched is evaluated."""

import json
import re
import time
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from grafana import FILES, board, board_exprs, fill, panels, rules
from monitoring import DASHBOARDS, Prometheus, Service, eventually, promtool

pytestmark = pytest.mark.unmeasured

TENANT = DASHBOARDS / "grafana" / "tenantry-tenant.json"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_panel_has_data(path: Path, scraped: Prometheus):
    """Each expression of the dashboard gives at least one number, through Prometheus' HTTP API."""
    empty = [expr for expr in board_exprs(path) if not eventually(lambda: scraped.values(expr))]  # noqa: B023
    assert empty == []


def test_every_rule_is_evaluated(scraped: Prometheus):
    """Prometheus evaluates each recording rule and each alert without an error."""
    found = [rule for group in scraped.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in found} == {rule.get("alert") or rule["record"] for rule in rules()}
    assert [rule for rule in found if rule["health"] != "ok" or rule.get("lastError")] == []


def test_every_recording_rule_has_data(scraped: Prometheus):
    """Each recorded series is there."""
    recorded = [rule["record"] for rule in rules() if "record" in rule]
    assert [name for name in recorded if not eventually(lambda: scraped.values(name))] == []  # noqa: B023


def test_what_is_wrong_is_alerted_on(scraped: Prometheus):
    """Of a service in which migrations fail and writes find no space, and that answers, just that is told."""

    def firing() -> set[str]:
        alerts = scraped.get("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    expected = {"TenantryMigrationsFailing", "TenantryStorageFull", "TenantryFleetJobFailing"}
    assert eventually(lambda: firing() == expected), firing()


def test_the_scrape_is_whole(scraped: Prometheus):
    """Prometheus takes the exposition without a warning about its target."""

    def told() -> tuple[str, str, str]:
        [target] = scraped.get("targets")["activeTargets"]
        return target["health"], target["lastError"], target["labels"]["job"]

    # A busy machine may let a single scrape take too long.
    assert eventually(lambda: told() == ("up", "", "tenantry")), told()


def test_processes_are_apart(scraped: Prometheus):
    """Both processes are there with their label. Calls that one forwards and the other answers are counted at both ends."""
    assert eventually(lambda: scraped.values("count(tenantry_process_up == 1)") == [2])
    ends = "count by (direction) (tenantry_forwarded_calls_total{outcome='ok'} > 0)"
    assert eventually(lambda: len(scraped.values(ends)) == 2)


def test_prometheus_keeps_exemplars(scraped: Prometheus):
    """Whose calls they were: exemplars of a panel's own query name tenants that there are."""
    [panel] = [
        panel for panel in panels(board(TENANT)) if panel["title"] == "Slowest of a hundred, by operation"
    ]
    query = fill(panel["targets"][0]["expr"])

    def tenants() -> set[str]:
        found = scraped.get("query_exemplars", query=query, start=time.time() - 600, end=time.time() + 60)
        return {exemplar["labels"]["tenant_id"] for series in found for exemplar in series["exemplars"]}

    assert eventually(lambda: any(re.fullmatch("(busy|quiet)-[0-9]+", tenant) for tenant in tenants()))


def test_openmetrics_is_served_when_asked_for(service: Service):
    """OpenMetrics has exemplars and its end mark; whoever does not ask for it gets the classic text."""
    text = service.scrape(OPENMETRICS)
    exemplars = [
        sample.exemplar.labels
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.exemplar
    ]
    assert text.endswith("# EOF\n")
    assert {"tenant_id"} == {label for labels in exemplars for label in labels}
    assert "tenant_id" not in service.scrape()


def test_the_exposition_is_clean(service: Service):
    """``promtool check metrics`` has nothing to say about names, types and help."""
    assert promtool("check", "metrics", stdin=service.scrape()) == ""


def test_the_log_has_what_the_queries_ask_for(service: Service):
    """The queries for Loki ask for fields that the log has, of events of tenants."""
    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    asked = set()
    for panel in panels(board(TENANT)):
        for target in panel["targets"]:
            if target["datasource"]["type"] == "loki":
                found = re.search(r"\| json \|(.*)", target["expr"])
                assert found
                asked |= set(re.findall(r"(\w+)=", found[1]))
                asked |= set(re.findall(r"by \((\w+)\)", target["expr"]))
    assert asked == {"tenant_id", "level", "event", "error_type"}
    warned = [line for line in lines if line["level"] == "warning" and line.get("tenant_id") == "newer"]
    assert warned
    assert asked <= warned[-1].keys()
