"""Recording rules and alerts: right, tried out, and each with something to do."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from grafana import FILES, RULES, board, rules
from monitoring import DASHBOARDS, ROOT, promtool

pytestmark = pytest.mark.unmeasured

RULE_TESTS = sorted((DASHBOARDS / "rule_tests").glob("*.yml"))
ALERTS = [rule for rule in rules() if "alert" in rule]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def anchors(page: str) -> list[str]:
    """Return the anchors of a Markdown page's headings, as GitHub makes them."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE), flags=re.MULTILINE
    )
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_prometheus_takes_the_configuration():
    """The scrape configuration and the rules that it names are valid."""
    assert "2 rule files found" in promtool("check", "config", DASHBOARDS / "prometheus.yml")


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_rules_are_valid(path: Path):
    """Promtool finds nothing in the rules, duplicates included."""
    assert "SUCCESS" in promtool("check", "rules", "--lint=all", "--lint-fatal", path)


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_rules_do_what_they_should(path: Path):
    """Promtool's unit tests: each alert fires for what is wrong, and is silent for what is not."""
    assert "SUCCESS" in promtool("test", "rules", path)


def test_every_alert_is_tried_out_both_ways():
    """The unit tests have, for each alert, a moment in which it fires and one in which it does not."""
    fires, is_silent = set(), set()
    for path in RULE_TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for case in test.get("alert_rule_test", []):
                (fires if case["exp_alerts"] else is_silent).add(case["alertname"])
    names = {alert["alert"] for alert in ALERTS}
    assert (fires, is_silent) == (names, names)


def test_every_recording_rule_is_tried_out():
    """The unit tests look at each recorded series."""
    tried = "".join(path.read_text() for path in RULE_TESTS)
    recorded = [rule["record"] for rule in rules() if "record" in rule]
    assert [name for name in recorded if name not in tried] == []


def test_the_order_of_rule_groups_is_whole():
    """Where the unit tests give an order it has every group, recordings first: promtool takes the others at random."""
    groups = [
        group["name"] for path in reversed(RULES) for group in yaml.safe_load(path.read_text())["groups"]
    ]
    orders = [yaml.safe_load(path.read_text()).get("group_eval_order") for path in RULE_TESTS]
    assert [order for order in orders if order] == [groups, groups]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_tells_what_to_do(alert: dict[str, Any]):
    """Each alert has a summary, a description, a severity, and a runbook whose heading exists."""
    assert alert["labels"]["severity"] in {"page", "ticket"}
    assert alert["annotations"]["summary"]
    assert alert["annotations"]["description"].endswith(".")
    page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    assert page == "docs/operations.md"
    assert anchor == alert["alert"].lower()
    assert anchors(OPERATIONS).count(anchor) == 1


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_runbook_says_how_urgent_it_is(alert: dict[str, Any]):
    """A runbook begins with the alert's severity, and says what to look at or what to do."""
    [section] = re.findall(
        rf"^### {alert['alert']}\n\n(.*?)(?=^#|\Z)", OPERATIONS, flags=re.DOTALL | re.MULTILINE
    )
    assert section.startswith(f"*{alert['labels']['severity'].title()}.*")
    assert "- **" in section or "Proceed as for" in section


def test_every_runbook_is_an_alert_s():
    """No runbook is left of an alert that is gone."""
    alerts = OPERATIONS.split("\n## Alerts\n")[1]
    assert re.findall(r"^### (\w+)$", alerts, flags=re.MULTILINE) == [alert["alert"] for alert in ALERTS]


def test_links_within_the_page_lead_somewhere():
    """Every link to a heading of the operations page names one."""
    known = anchors(OPERATIONS)
    assert [link for link in re.findall(r"\]\(#([\w-]+)\)", OPERATIONS) if link not in known] == []


def test_runbooks_name_panels_that_exist():
    """A runbook that says where to look names dashboards and panels as Grafana shows them."""
    shown = {"Status / Targets"}
    for content in map(board, FILES):
        shown |= {content["title"], *(panel["title"] for panel in content["panels"])}
    alerts = OPERATIONS.split("\n## Alerts\n")[1]
    emphasized = re.findall(r"(?<!\*)\*([A-Z][^*\n]+|tenantry / [^*\n]+)\*(?!\*)", alerts)
    assert [text for text in emphasized if text not in shown | {"Page.", "Ticket."}] == []
