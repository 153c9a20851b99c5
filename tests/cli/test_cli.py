"""The command line and its demonstration, as processes."""

import json
import subprocess
from pathlib import Path

import pytest

from commands import tenantry
from engines import default_engine
from tenantry.storage.sqlite.engine.choice import choose

QUICK = ("--seconds", "0.5", "--quiet-companies", "6", "--callers", "4")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """One short demo that prints JSON."""
    return tenantry("demo", *QUICK, "--json", cwd=tmp_path_factory.mktemp("demo"), is_measured=True)


def test_demo_checks_every_acknowledged_write(demo: subprocess.CompletedProcess[str]):
    """The demo ends well: all that was acknowledged is there after opening again, each in its own company."""
    assert demo.returncode == 0, demo.stderr
    check = json.loads(demo.stdout)["check"]
    assert check["acknowledged"] > 0
    assert (check["missing"], check["foreign"], check["is_whole"]) == (0, 0, True)


def test_demo_reports_every_operation(demo: subprocess.CompletedProcess[str]):
    """The JSON has rates, percentiles by operation, the mean batch, the pool and the metric families."""
    data = json.loads(demo.stdout)
    assert {"messages.save", "cost_records.save", "tasks.save"} <= set(data["statements"])
    assert all(o["p50_ms"] <= o["p99_ms"] for o in data["statements"].values())
    assert data["pool"]["open_tenants_peak"] <= data["pool"]["open_tenants_max"]
    assert data["mean_batch_requests"]["write"] >= 1
    assert "tenantry_query_duration_seconds" in data["metric_families"]


def test_demo_names_its_engine(demo: subprocess.CompletedProcess[str]):
    """The JSON has the engine with the reason, and the percentiles of all writes and of all reads."""
    data = json.loads(demo.stdout)
    choice = choose(default_engine())
    assert (data["backend"], data["engine"], data["engine_reason"]) == ("sqlite", choice.name, choice.reason)
    assert data["writes"]["calls"] == sum(
        data["statements"][name]["calls"] for name in ("messages.save", "cost_records.save", "tasks.save")
    )
    assert data["writes"]["p50_ms"] <= data["writes"]["p99_ms"]
    assert "compared" not in data


def test_demo_compares_itself_with_aiosqlite(tmp_path: Path):
    """With --compare the same load runs on aiosqlite, is checked too, and stands beside the demo's figures."""
    ended = tenantry("demo", *QUICK, "--compare", "--json", cwd=tmp_path, is_measured=True)
    assert ended.returncode == 0, ended.stderr
    data = json.loads(ended.stdout)
    compared = data["compared"]
    assert compared["check"]["acknowledged"] > 0
    assert compared["check"]["is_whole"]
    ratio = data["writes"]["p50_ms"] / compared["writes"]["p50_ms"]
    assert compared["ratios"]["writes_p50_ms"] == pytest.approx(ratio, abs=0.001)
    assert list(tmp_path.iterdir()) == []


def test_demo_prints_the_comparison(tmp_path: Path):
    """People get a table with both sides."""
    ended = tenantry("demo", *QUICK, "--compare", cwd=tmp_path, is_measured=True)
    assert ended.returncode == 0, ended.stderr
    assert "Beside one aiosqlite connection for each company" in " ".join(ended.stdout.split())
    assert ended.stdout.count("acknowledged records exist") == 2


def test_demo_prints_tables_and_keeps_a_given_directory(tmp_path: Path):
    """People get tables on standard output; a directory that was named is kept, and not used twice."""
    first = tenantry("demo", *QUICK, "--data-dir", "kept", cwd=tmp_path, is_measured=True)
    assert first.returncode == 0, first.stderr
    assert "writes/s (durable)" in first.stdout
    assert "acknowledged records exist" in first.stdout
    assert (tmp_path / "kept" / "catalog.db").is_file()
    second = tenantry("demo", *QUICK, "--data-dir", "kept", cwd=tmp_path, is_measured=True)
    assert second.returncode == 2
    assert "is not empty" in second.stderr


def test_demo_runs_on_a_postgresql_server_of_its_own(tmp_path: Path):
    """The companies are in a server that the demo starts and ends; a database in the environment is not touched."""
    variables = {"TENANTRY_BACKEND": "postgres", "TENANTRY_DATABASE": "postgresql://nobody@127.0.0.1:1/none"}
    ended = tenantry("demo", *QUICK, "--json", cwd=tmp_path, env=variables)
    assert ended.returncode == 0, ended.stderr
    data = json.loads(ended.stdout)
    assert (data["backend"], data["engine"], data["engine_reason"]) == ("postgres", None, None)
    assert data["check"]["is_whole"]
    assert list(tmp_path.iterdir()) == []


def test_demo_leaves_nothing_behind(tmp_path: Path):
    """Without a directory to keep, nothing is left where it ran."""
    assert tenantry("demo", *QUICK, "--json", cwd=tmp_path).returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--version"], 0, "tenantry 0."),
        (["--help"], 0, "demo"),
        (["--log-level", "loud", "demo"], 2, "use debug, info, warning or error"),
        (["demo", "--seconds", "0"], 2, "--seconds"),
        (["unknown"], 2, "No such command"),
        (["demo", "--data-dir", "/dev/null/x"], 2, "cannot be used"),
        (["demo", "--compare", "--backend", "postgres"], 2, "aiosqlite has no PostgreSQL"),
        (["demo", "--compare", "--quiet-companies", "1001"], 2, "at most 1000 quiet companies"),
    ],
)
def test_command_line_says_what_is_wrong(tmp_path: Path, arguments: list[str], code: int, said: str):
    """Each use has its exit code and its sentence."""
    done = tenantry(*arguments, cwd=tmp_path, is_measured=True)
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
