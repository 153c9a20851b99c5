"""What a user's repository gives to the log can neither break its calls nor hide what tenantry says of them."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture, capture_logs

from stores import open_store, rows, run
from tenantry import Repository, TenantRegistry
from tenantry.errors import ConstraintViolationError, DuplicateRecordError, QueryError
from tenantry.eventlog import EventLog
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.storage.standalone import StoreSession

KEYS = [
    *("event", "error", "error_type", "level", "logger", "timestamp", "tenant_id", "self", "method_name"),
    *("exc_info", "exception", "extra", "positional_args", "stack", "stack_info", "stacklevel"),
    *(
        "statement",
        "statements",
        "context",
        "data",
        "record_id",
        "name",
        "args",
        "kwargs",
        "",
        "a b",
        "class",
    ),
]
TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)"
INSERT = run("INSERT INTO t VALUES (1, 1)")


def capture_with_stdlib() -> LogCapture:
    """Configure structlog for a host that uses the standard library's levels and loggers, and return what it logs."""
    capture = LogCapture()
    structlog.configure(
        processors=[structlog.stdlib.add_log_level, capture], wrapper_class=structlog.stdlib.BoundLogger
    )
    return capture


def capture_filtered() -> LogCapture:
    """Configure structlog for a host that filters by level, and return what it logs."""
    capture = LogCapture()
    structlog.configure(
        processors=[capture], wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG)
    )
    return capture


@pytest.mark.parametrize("configure", [capture_with_stdlib, capture_filtered])
@pytest.mark.parametrize("key", KEYS)
async def test_any_key_can_name_a_record(tmp_path: Path, configure: Callable[[], LogCapture], key: str):
    """A write that is committed returns, and one that fails raises the database's error, whatever its context is called."""
    async with open_store(SQLiteOptions(path=tmp_path / "a.db"), TABLE) as store:
        repository = Repository(StoreSession(store, EventLog(tenant_id="acme")))
        capture = configure()
        context: dict[str, Any] = {key: "login"}
        assert await repository.write(INSERT, done="any.written", failed="any.write_failed", **context) == [
            None
        ]
        with pytest.raises(DuplicateRecordError) as duplicate:
            await repository.write(INSERT, failed="any.write_failed", **context)
        with pytest.raises(ConstraintViolationError):
            await repository.write(
                run("INSERT INTO t VALUES (2, NULL)"), failed="any.write_failed", **context
            )
        with pytest.raises(QueryError):
            await repository.read(rows("SELECT * FROM nowhere"), failed="any.read_failed", **context)
        assert await repository.read(rows("SELECT * FROM t"), **context) == [(1, 1)]
    assert duplicate.value.record_id == "login"
    events = [entry for entry in capture.entries if entry["event"].startswith("any.")]
    assert [entry["event"] for entry in events] == [
        *("any.written", "any.write_failed", "any.write_failed", "any.read_failed")
    ]
    for entry in events:
        assert entry["tenant_id"] == "acme"
        assert "login" in (entry.get(key), entry.get(f"{key}_"))
    errors = [(entry["error_type"], "constraint" in entry["error"]) for entry in events[1:]]
    assert errors == [
        ("DuplicateRecordError", True),
        ("ConstraintViolationError", True),
        ("QueryError", False),
    ]


async def test_events_without_names(tmp_path: Path):
    """Without names of events a failure is logged as the statement's name with ``_failed``, and success is not logged."""
    async with open_store(SQLiteOptions(path=tmp_path / "a.db"), TABLE) as store:
        repository = Repository(StoreSession(store, EventLog()))
        with capture_logs() as logs:
            assert await repository.write(INSERT) == [None]
            with pytest.raises(DuplicateRecordError, match=r"test\.run: UNIQUE constraint failed: t\.id"):
                await repository.write(INSERT)
            with pytest.raises(
                DuplicateRecordError, match="row 1 was not written: another record has the same"
            ):
                await repository.write(INSERT, row=1)
            with pytest.raises(QueryError):
                await repository.read(rows("SELECT * FROM nowhere"))
        events = [entry["event"] for entry in logs if entry["event"].startswith("test.")]
        assert events == ["test.run_failed", "test.run_failed", "test.rows_failed"]


async def test_a_key_does_not_hide_the_tenant(registry: TenantRegistry):
    """An event of a tenant's call says which tenant it was, also where the record is named by a tenant's id."""
    await registry.create("acme")
    with capture_logs() as logs:
        await (
            registry.tenant("acme")
            .repository(Repository)
            .write(run(TABLE), done="any.written", tenant_id="someone-else")
        )
    [written] = [entry for entry in logs if entry["event"] == "any.written"]
    assert (written["tenant_id"], written["tenant_id_"]) == ("acme", "someone-else")


def test_bound_keys_can_be_anything():
    """A log can be bound to any key, and bound again."""
    log = EventLog(self=1, event=2).bind(self=3, level=4, tenant_id="acme")
    with capture_logs() as logs:
        log.info("it.happened", count=5)
    assert logs == [
        {
            "event": "it.happened",
            "log_level": "info",
            "count": 5,
            "tenant_id": "acme",
            "self_": 3,
            "event_": 2,
            "level_": 4,
        }
    ]


def test_structlog_is_being_loaded(monkeypatch: pytest.MonkeyPatch):
    """While another thread loads structlog, no event fails for want of what it has not defined yet."""
    monkeypatch.setitem(sys.modules, "structlog", ModuleType("structlog"))
    EventLog().debug("an.event")
    EventLog().info("an.event")
    EventLog().warning("an.event")
