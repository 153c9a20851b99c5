"""The dashboards as files: generated, complete, and about metrics that there are."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from dashboards import boards
from dashboards.panels import to_json
from grafana import FILES, board, board_exprs, fill, panels, rules, variable_exprs
from monitoring import DASHBOARDS, Service, promtool
from promql import named
from tenantry.errors import TenantryError

pytestmark = pytest.mark.unmeasured

# What every scrape has beside what the service exposes.
TARGET_LABELS = frozenset({"job", "instance"})
OF_PROMETHEUS = {"up": TARGET_LABELS, "ALERTS": TARGET_LABELS | {"alertname", "alertstate", "severity"}}
# Outcomes that are the caller's doing, a limit that somebody set, the end of the process, or no error of a call.
NO_FAULTS = frozenset(
    [
        "busy",
        "closed",
        "constraint",
        "deleted",
        "deletion_protected",
        "duplicate",
        "exists",
        "foreign_schema",
        "full",
        "grace_period",
        "idempotency_conflict",
        "invalid_id",
        "job",
        "key_refused",
        "no_tenant",
        "not_found",
        "not_movable",
        "overloaded",
        "rate_limited",
        "revision",
        "state",
        "suspended",
        "transaction_closed",
        "unsupported",
    ]
)


def recorded() -> dict[str, frozenset[str]]:
    """Return the metrics that rules record, with their labels: the level in the name says which."""
    return {
        rule["record"]: TARGET_LABELS & {"job"} | frozenset(rule["record"].split(":")[0].split("_"))
        for rule in rules()
        if "record" in rule
    }


def exposed(text: str) -> dict[str, frozenset[str]]:
    """Return the series' names of an exposition with the labels that they have after a scrape."""
    found: dict[str, frozenset[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, TARGET_LABELS) | frozenset(sample.labels)
    return found


@pytest.fixture(scope="module")
def known(service: Service) -> dict[str, frozenset[str]]:
    """Every metric that a Prometheus has which scrapes the service and evaluates the rules, with its labels."""
    return exposed(service.scrape()) | recorded() | OF_PROMETHEUS


def check_names(expr: str, known: Mapping[str, frozenset[str]]) -> None:
    """Fail if the expression names a metric, or a label of one, that there is not."""
    found = named(expr)
    assert found.metrics.keys() <= known.keys(), f"unknown in {expr}"
    for metric, labels in found.metrics.items():
        assert labels <= known[metric], f"{metric} has not all of {set(labels)}"
    assert found.grouped <= frozenset().union(*(known[metric] for metric in found.metrics)), expr


def test_the_files_are_what_the_generator_writes():
    """The JSON that is imported was not changed by hand, and none is left of a dashboard that is gone."""
    assert {path.name: path.read_text() for path in FILES} == {
        f"{board.uid}.json": to_json(board) for board in boards.ALL
    }


def test_every_dashboard_is_there():
    """The five views that operators were promised."""
    assert [board(path)["uid"] for path in FILES] == [
        f"tenantry-{name}" for name in ("fleet", "overview", "pool", "slo", "tenant")
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_panel_says_what_it_shows(path: Path):
    """Each panel has a title, a description that is a sentence, a unit and, but for words, something to show."""
    for panel in panels(board(path)):
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"] or panel["type"] == "text"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_panels_do_not_cover_each_other(path: Path):
    """Every panel has a place of its own within the page's width, and titles and ids of their own."""
    content = board(path)
    taken: set[tuple[int, int]] = set()
    for panel in content["panels"]:
        x, y, width, height = (panel["gridPos"][side] for side in "xywh")
        cells = {(x + right, y + down) for right in range(width) for down in range(height)}
        assert x + width <= 24
        assert not taken & cells, panel["title"]
        taken |= cells
    titles = [panel["title"] for panel in content["panels"]]
    assert len({panel["id"] for panel in content["panels"]}) == len(titles)
    assert len({panel["title"] for panel in panels(content)}) == len(panels(content))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_expression_parses(path: Path, tmp_path: Path):
    """Prometheus takes each expression of the panels and of the variables."""
    exprs = [*board_exprs(path), *(expr for expr, _ in variable_exprs(path))]
    group = {"name": path.stem, "rules": [{"record": f"panel:{n}", "expr": e} for n, e in enumerate(exprs)]}
    written = tmp_path / "panels.yml"
    written.write_text(json.dumps({"groups": [group]}))
    assert f"{len(exprs)} rules found" in promtool("check", "rules", "--lint=none", written)


def test_refusals_do_not_make_calls_look_quick():
    """A panel that shows how long calls take says of which outcomes: most refusals take no time."""
    shown = [expr for path in FILES for expr in board_exprs(path)]
    of_calls = [expr for expr in shown if re.search(r"tenantry_(call|query)_duration_seconds_bucket", expr)]
    assert of_calls
    assert [expr for expr in of_calls if "outcome" not in expr] == []


CALLS = 'tenantry_call_duration_seconds_count{job="tenantry",instance="a",outcome="%s"}'
SNAPSHOTS = 'tenantry_lifecycle_last_success_timestamp_seconds{job="tenantry",instance="a",action="snapshot"}'


@pytest.mark.parametrize(
    ("title", "series", "expected"),
    [
        pytest.param(
            "Budget left (that failed)",
            {CALLS % "ok": "0+9995x60", CALLS % "timeout": "0+5x60", CALLS % "rate_limited": "0+90000x60"},
            [0.5],
            id="refusals-leave-the-budget",
        ),
        pytest.param("Budget left (that failed)", {CALLS % "ok": "0+10x60"}, [1], id="no-failure"),
        pytest.param("Budget left (that failed)", {CALLS % "rate_limited": "0+9x60"}, [], id="no-call"),
        pytest.param("Budget left (that failed)", {CALLS % "ok": "7x60"}, [], id="no-call-any-more"),
        pytest.param("Last snapshot", {SNAPSHOTS: "600x20 stale"}, [3000], id="before-a-restart"),
        pytest.param("Last snapshot", {SNAPSHOTS: "600x20 1800x40"}, [1800], id="the-newest"),
    ],
)
def test_numbers_are_right(title: str, series: Mapping[str, str], expected: list[float], tmp_path: Path):
    """What a panel with one number shows after an hour."""
    [panel] = [panel for path in FILES for panel in panels(board(path)) if panel["title"] == title]
    [target] = panel["targets"]
    looked_at = {
        "expr": f"round({fill(target['expr'])}, 0.001)",
        "eval_time": "1h",
        "exp_samples": [{"labels": "{}", "value": value} for value in expected],
    }
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    tried = {"interval": "1m", "input_series": inputs, "promql_expr_test": [looked_at]}
    written = tmp_path / "numbers.yml"
    written.write_text(json.dumps({"tests": [tried]}))
    assert "SUCCESS" in promtool("test", "rules", written)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_panels_name_metrics_that_exist(path: Path, known: Mapping[str, frozenset[str]]):
    """A metric or a label that is renamed takes the panels along, or this fails."""
    for expr in board_exprs(path):
        check_names(expr, known)
    for expr, label in variable_exprs(path):
        check_names(expr, known)
        [metric] = named(expr).metrics
        assert label in known[metric]


def test_rules_name_metrics_that_exist(known: Mapping[str, frozenset[str]]):
    """The same of recording rules and alerts."""
    for rule in rules():
        check_names(rule["expr"], known)


@pytest.mark.parametrize(
    "expr",
    [
        "tenantry_no_such_metric",
        "rate(tenantry_calls_refused_total{tenant_id='acme'}[5m])",
        "sum by (tenant) (tenantry_ready)",
        'tenantry_ready{probe="disk"} unless on (nothing) up offset 5m',
    ],
)
def test_names_that_do_not_exist_are_found(expr: str, known: Mapping[str, frozenset[str]]):
    """The two tests above would fail."""
    with pytest.raises(AssertionError):
        check_names(expr, known)


def test_every_metric_is_shown_or_alerted_on(known: Mapping[str, frozenset[str]]):
    """No metric of ours is exported for nobody: each is in a panel or a rule, in one of its parts."""
    used = {metric for path in FILES for expr in board_exprs(path) for metric in named(expr).metrics}
    used |= {metric for rule in rules() for metric in named(rule["expr"]).metrics}
    part = re.compile(r"_(bucket|sum|count|created)$")
    families = {part.sub("", name) for name in known if name.startswith("tenantry_")}
    assert families - {part.sub("", name) for name in used} == set()


def test_the_design_page_lists_every_metric(known: Mapping[str, frozenset[str]]):
    """The table of metrics in the documentation has each metric that the service exposes, and no other."""
    page = (DASHBOARDS.parent / "docs" / "design.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`(tenantry_\w+)`", page[page.index("## Observability") :]))
    part = re.compile(r"_(bucket|sum|count|created)$")
    exposed = {part.sub("", name) for name in known if name.startswith("tenantry_")}
    # Only a service with TLS has a certificate.
    assert listed == exposed | {"tenantry_certificate_expiry_timestamp_seconds"}


def test_a_dot_leads_to_its_tenant():
    """The data source that is provisioned links exemplars to a dashboard, and to a variable of it, that there are."""
    path = DASHBOARDS / "grafana" / "provisioning" / "datasources" / "tenantry.yml"
    source = yaml.safe_load(path.read_text())["datasources"][0]
    [link] = source["jsonData"]["exemplarTraceIdDestinations"]
    found = re.fullmatch(r"/d/([\w-]+)\?var-(\w+)=\$\$\{__value\.raw\}", link["url"])
    assert found
    content = board(DASHBOARDS / "grafana" / f"{found[1]}.json")
    assert (link["name"], found[1]) == ("tenant_id", content["uid"])
    assert found[2] in {variable["name"] for variable in content["templating"]["list"]}


def test_each_outcome_is_somebody_s_fault():
    """An outcome that is added is thought about: it counts against the objective, or it does not."""
    faults = set(boards.FAULTS.split("|"))
    outcomes = {error.outcome for error in _all_errors(TenantryError)}
    assert faults & NO_FAULTS == set()
    assert outcomes == faults | NO_FAULTS


def test_rules_and_dashboards_agree_on_faults():
    """Wherever a rule lists outcomes that are the service's fault, it lists those.

    For lifecycle operations a full disk is one too; that a quarantined tenant refuses them is not, as with any other state.
    """
    lists = {
        frozenset(text.split("|"))
        for rule in rules()
        for text in re.findall(r'outcome=~"([^"]*)"', rule["expr"])
    }
    faults = frozenset(boards.FAULTS.split("|"))
    of_lifecycle = faults - {"quarantined"} | {"full"}
    assert lists == {faults, faults | {"ok"}, of_lifecycle, frozenset({"ok", "timeout"})}


@pytest.mark.parametrize(
    ("rule", "ratio_max"),
    [("calls_failed", boards.FAILED_RATIO_MAX), ("writes_slow", boards.SLOW_RATIO_MAX)],
)
def test_rules_and_dashboards_agree_on_objectives(rule: str, ratio_max: float):
    """What the alerts compare with is what the page of objectives shows."""
    compared = [
        text
        for alert in rules()
        if "alert" in alert
        for text in re.findall(rf"tenantry_{rule}:ratio_rate\w+ > (?:[\d.]+ \* )?([\d.]+)", alert["expr"])
    ]
    assert len(compared) == 6
    assert {float(text) for text in compared} == {ratio_max}
    slow = [r["expr"] for r in rules() if r.get("record", "").startswith("job:tenantry_writes_slow")]
    assert all(f'le="{boards.SLOW_SECONDS:g}"' in expr for expr in slow)


def _all_errors(error: type[TenantryError]) -> Iterator[type[TenantryError]]:
    yield error
    for kind in error.__subclasses__():
        yield from _all_errors(kind)
