"""The log (rules 9, 10 and 15): which event at which level, with all that was asked for, and never a payload."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs
from structlog.typing import EventDict

from stores import make_backend, make_store, open_backend
from tenantry import events
from tenantry.company import AuditVerdict, MessageMetadata, RiskLevel, TaskStatus
from tenantry.errors import MalformedRowError, QueryError, TenantryError
from tenantry.schemas.schema import Schema
from tenantry.storage import PersistenceBackend, PersistenceConfig, create_backend
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.testing.conformance.samples import (
    at_minute,
    make_audit_entry,
    make_cost_record,
    make_message,
    make_task,
)
from tenants import query, write_pack

SECRET = "hunter2-payload"  # stands for what must never be logged
Call = Callable[[PersistenceBackend], Awaitable[Any]]

MESSAGE = make_message(SECRET, metadata=MessageMetadata(extra=(("token", SECRET),)))
TASK = make_task(title=SECRET, description=SECRET)
ENTRY = make_audit_entry("entry", reason=SECRET)
COST = make_cost_record(1234.5678, model=SECRET)
NAIVE = at_minute(0).replace(tzinfo=None)
WINDOW = {"since": at_minute(0), "until": at_minute(1)}
EMPTY_WINDOW = {"since": at_minute(1), "until": at_minute(0)}

COSTS_ASKED = {"agent_id": "ada", "task_id": "task", **WINDOW}
HISTORY_ASKED = {"sender": "ada", **WINDOW, "limit": 5, "cursor": None}
AUDIT_ASKED = {
    "agent_id": "ada",
    "action_type": "read",
    "verdict": AuditVerdict.ALLOW,
    "risk_level": RiskLevel.LOW,
    **WINDOW,
    "limit": 5,
    "cursor": None,
}
TASKS_ASKED = {
    "status": TaskStatus.CREATED,
    "assigned_to": "ada",
    "project": "apollo",
    "limit": 5,
    "cursor": None,
}

CALLS: dict[str, tuple[Call, str, str, dict[str, Any]]] = {
    "tasks.save": (
        lambda b: b.tasks.save(TASK),
        events.TASK_SAVED,
        events.TASK_SAVE_FAILED,
        {"task_id": "task"},
    ),
    "tasks.get": (
        lambda b: b.tasks.get("task"),
        events.TASK_FETCHED,
        events.TASK_FETCH_FAILED,
        {"task_id": "task"},
    ),
    "tasks.list_tasks": (
        lambda b: b.tasks.list_tasks(**TASKS_ASKED),
        events.TASK_LISTED,
        events.TASK_LIST_FAILED,
        TASKS_ASKED,
    ),
    "tasks.delete": (
        lambda b: b.tasks.delete("task"),
        events.TASK_DELETED,
        events.TASK_DELETE_FAILED,
        {"task_id": "task"},
    ),
    "cost_records.save": (
        lambda b: b.cost_records.save(COST),
        events.COST_RECORD_SAVED,
        events.COST_RECORD_SAVE_FAILED,
        {"agent_id": "ada", "task_id": "task"},
    ),
    "cost_records.save_many": (
        lambda b: b.cost_records.save_many([COST, COST]),
        events.COST_RECORD_SAVED,
        events.COST_RECORD_SAVE_FAILED,
        {"count": 2},
    ),
    "cost_records.query": (
        lambda b: b.cost_records.query(**COSTS_ASKED, limit=5),
        events.COST_RECORD_QUERIED,
        events.COST_RECORD_QUERY_FAILED,
        {**COSTS_ASKED, "limit": 5, "cursor": None},
    ),
    "cost_records.aggregate": (
        lambda b: b.cost_records.aggregate(**COSTS_ASKED),
        events.COST_RECORD_AGGREGATED,
        events.COST_RECORD_AGGREGATE_FAILED,
        COSTS_ASKED,
    ),
    "messages.save": (
        lambda b: b.messages.save(MESSAGE),
        events.MESSAGE_SAVED,
        events.MESSAGE_SAVE_FAILED,
        {"message_id": MESSAGE.id, "channel": "general"},
    ),
    "messages.save_many": (
        lambda b: b.messages.save_many([MESSAGE]),
        events.MESSAGE_SAVED,
        events.MESSAGE_SAVE_FAILED,
        {"count": 1},
    ),
    "messages.get_history": (
        lambda b: b.messages.get_history("general", **HISTORY_ASKED),
        events.MESSAGE_HISTORY_FETCHED,
        events.MESSAGE_HISTORY_FAILED,
        {"channel": "general", **HISTORY_ASKED},
    ),
    "audit_entries.save": (
        lambda b: b.audit_entries.save(ENTRY),
        events.AUDIT_ENTRY_SAVED,
        events.AUDIT_ENTRY_SAVE_FAILED,
        {"entry_id": "entry"},
    ),
    "audit_entries.query": (
        lambda b: b.audit_entries.query(**AUDIT_ASKED),
        events.AUDIT_ENTRY_QUERIED,
        events.AUDIT_ENTRY_QUERY_FAILED,
        AUDIT_ASKED,
    ),
}
"""Each call, the events of its success and failure, and the context that both carry."""

REFUSED: dict[str, tuple[Call, str, dict[str, Any]]] = {
    "tasks-limit": (
        lambda b: b.tasks.list_tasks(**{**TASKS_ASKED, "limit": 0}),
        events.TASK_LIST_FAILED,
        {**TASKS_ASKED, "limit": 0},
    ),
    "costs-window": (
        lambda b: b.cost_records.query(agent_id="ada", task_id="task", **EMPTY_WINDOW),
        events.COST_RECORD_QUERY_FAILED,
        {"agent_id": "ada", "task_id": "task", **EMPTY_WINDOW, "limit": None, "cursor": None},
    ),
    "sum-window": (
        lambda b: b.cost_records.aggregate(agent_id="ada", task_id="task", **EMPTY_WINDOW),
        events.COST_RECORD_AGGREGATE_FAILED,
        {"agent_id": "ada", "task_id": "task", **EMPTY_WINDOW},
    ),
    "history-cursor": (
        lambda b: b.messages.get_history("general", sender="ada", cursor="nonsense"),
        events.MESSAGE_HISTORY_FAILED,
        {"channel": "general", "sender": "ada", "cursor": "nonsense"},
    ),
    "audit-limit": (
        lambda b: b.audit_entries.query(agent_id="ada", limit=-1),
        events.AUDIT_ENTRY_QUERY_FAILED,
        {"agent_id": "ada", "limit": -1},
    ),
    "costs-count": (
        lambda b: b.cost_records.save_many([COST] * 10_001),
        events.COST_RECORD_SAVE_FAILED,
        {"count": 10_001},
    ),
    "messages-count": (
        lambda b: b.messages.save_many([MESSAGE] * 10_001),
        events.MESSAGE_SAVE_FAILED,
        {"count": 10_001},
    ),
    "history-of-no-channel": (
        lambda b: b.messages.get_history(None, sender="ada"),  # type: ignore[arg-type]
        events.MESSAGE_HISTORY_FAILED,
        {"channel": None, "sender": "ada"},
    ),
    "get-nothing": (
        lambda b: b.tasks.get(None),  # type: ignore[arg-type]
        events.TASK_FETCH_FAILED,
        {"task_id": None},
    ),
    "delete-a-number": (
        lambda b: b.tasks.delete(5),  # type: ignore[arg-type]  # which SQLite would find equal to the text '5'
        events.TASK_DELETE_FAILED,
        {"task_id": 5},
    ),
    "task-status": (
        lambda b: b.tasks.save(TASK.model_copy(update={"status": "assigned"})),
        events.TASK_SAVE_FAILED,
        {"task_id": "task"},
    ),
    "task-surrogate": (
        lambda b: b.tasks.save(TASK.model_copy(update={"reviewers": (f"\ud800{SECRET}",)})),
        events.TASK_SAVE_FAILED,
        {"task_id": "task"},
    ),
    "task-of-no-type": (
        lambda b: b.tasks.save("task"),  # type: ignore[arg-type]
        events.TASK_SAVE_FAILED,
        {"task_id": None},
    ),
    "cost-time": (
        lambda b: b.cost_records.save(COST.model_copy(update={"timestamp": NAIVE})),
        events.COST_RECORD_SAVE_FAILED,
        {"agent_id": "ada", "task_id": "task"},
    ),
    "costs-time": (
        lambda b: b.cost_records.save_many([COST, COST.model_copy(update={"timestamp": NAIVE})]),
        events.COST_RECORD_SAVE_FAILED,
        {"count": 2},
    ),
    "message-time": (
        lambda b: b.messages.save(MESSAGE.model_copy(update={"timestamp": NAIVE})),
        events.MESSAGE_SAVE_FAILED,
        {"message_id": MESSAGE.id, "channel": "general"},
    ),
    "messages-of-no-type": (
        lambda b: b.messages.save_many([1]),  # type: ignore[list-item]
        events.MESSAGE_SAVE_FAILED,
        {"count": 1},
    ),
    "entry-verdict": (
        lambda b: b.audit_entries.save(ENTRY.model_copy(update={"verdict": "allow"})),
        events.AUDIT_ENTRY_SAVE_FAILED,
        {"entry_id": "entry"},
    ),
}
"""Calls that are refused before any SQL runs, their event and its context."""

SPOILT: dict[str, tuple[str, Call, str, str]] = {
    "task": (
        f"UPDATE tasks SET reviewers = '{SECRET}'",
        lambda b: b.tasks.get("task"),
        events.TASK_DESERIALIZE_FAILED,
        "task",
    ),
    "tasks": (
        f"UPDATE tasks SET status = '{SECRET}'",
        lambda b: b.tasks.list_tasks(project="apollo"),
        events.TASK_DESERIALIZE_FAILED,
        "task",
    ),
    "task-json": (
        f"""UPDATE tasks SET artifacts_expected = '[{{"path": "{SECRET}"}}]'""",
        lambda b: b.tasks.get("task"),
        events.TASK_DESERIALIZE_FAILED,
        "task",
    ),
    "task-depth": (
        "UPDATE tasks SET reviewers = printf('%.*c', 100000, '[')",
        lambda b: b.tasks.get("task"),
        events.TASK_DESERIALIZE_FAILED,
        "task",
    ),
    "cost-record": (
        f"UPDATE cost_records SET call_category = '{SECRET}'",
        lambda b: b.cost_records.query(task_id="task"),
        events.COST_RECORD_QUERY_FAILED,
        "1",
    ),
    "cost-record-time": (
        "UPDATE cost_records SET timestamp = '2026'",
        lambda b: b.cost_records.query(),
        events.COST_RECORD_QUERY_FAILED,
        "1",
    ),
    "message": (
        f"""UPDATE messages SET metadata = '{{"{SECRET}": 1}}'""",
        lambda b: b.messages.get_history("general"),
        events.MESSAGE_DESERIALIZE_FAILED,
        str(MESSAGE.id),
    ),
    "message-id": (
        "UPDATE messages SET id = x'00ff'",
        lambda b: b.messages.get_history("general"),
        events.MESSAGE_DESERIALIZE_FAILED,
        "00ff",
    ),
    "audit-entry": (
        f"UPDATE audit_entries SET arguments_hash = '{SECRET}'",
        lambda b: b.audit_entries.query(verdict=AuditVerdict.ALLOW),
        events.AUDIT_ENTRY_DESERIALIZE_FAILED,
        "entry",
    ),
}
"""What someone else did to a row, the call that meets it, its event and the record's name."""


def only(logs: list[EventDict], event: str) -> EventDict:
    """Return the one event of this name."""
    (found,) = [entry for entry in logs if entry["event"] == event]
    return found


def check_no_payload(logs: list[EventDict]) -> None:
    """Assert that nothing of what was saved is in the log."""
    assert logs
    for payload in (SECRET, "1234.5678"):
        assert payload not in repr(logs)


async def save_all(backend: PersistenceBackend) -> None:
    """Save one of each."""
    await backend.tasks.save(TASK)
    await backend.cost_records.save(COST)
    await backend.messages.save(MESSAGE)
    await backend.audit_entries.save(ENTRY)


def carries(entry: EventDict, context: dict[str, Any]) -> bool:
    """Return whether an event has all of this context."""
    return {name: entry.get(name, "missing") for name in context} == context


@pytest.mark.parametrize("name", CALLS)
async def test_success_is_a_debug_event(name: str):
    """Each call writes its own event, with all that it was asked."""
    call, done, _, context = CALLS[name]
    async with open_backend(":memory:") as backend:
        await backend.tasks.save(TASK)
        with capture_logs() as logs:
            await call(backend)
    entry = only(logs, done)
    assert entry["log_level"] == "debug"
    assert carries(entry, context), entry
    check_no_payload(logs)


async def test_deleted_is_what_was_there():
    """A task that nobody has is not deleted, and the log does not say so."""
    async with open_backend(":memory:") as backend:
        with capture_logs() as logs:
            assert not await backend.tasks.delete("nobody")
    assert [entry["event"] for entry in logs] == []


@pytest.mark.parametrize("name", CALLS)
async def test_failing_driver_is_an_error_event(name: str, tmp_path: Path):
    """When SQLite fails, the event names the error and carries all the filters of the call (rule 10)."""
    call, _, failed, context = CALLS[name]
    table = name.partition(".")[0]
    async with open_backend(tmp_path / "a.db") as backend:
        query(tmp_path / "a.db", f"DROP TABLE {table}")
        with capture_logs() as logs, pytest.raises(QueryError):
            await call(backend)
    entry = only(logs, failed)
    assert (entry["log_level"], entry["error_type"]) == ("error", "QueryError")
    assert carries(entry, context), entry
    check_no_payload(logs)


@pytest.mark.parametrize("name", CALLS)
async def test_missing_connection_is_a_warning(name: str):
    """Rule 8: its own event, and the call's failure."""
    call, _, failed, context = CALLS[name]
    backend = make_backend(":memory:")
    await backend.connect()
    kept = {
        entity: getattr(backend, entity) for entity in ("tasks", "cost_records", "messages", "audit_entries")
    }
    await backend.disconnect()
    with capture_logs() as logs, pytest.raises(TenantryError):
        await call(type("Kept", (), kept))  # type: ignore[arg-type]
    assert only(logs, events.BACKEND_NOT_CONNECTED)["log_level"] == "warning"
    entry = only(logs, failed)
    assert entry["log_level"] == "warning"
    assert carries(entry, context), entry


@pytest.mark.parametrize("name", REFUSED)
async def test_refused_input_is_a_warning(name: str):
    """It is logged, with all the filters of the call, before it is raised."""
    call, failed, context = REFUSED[name]
    async with open_backend(":memory:") as backend:
        with capture_logs() as logs, pytest.raises(QueryError) as caught:
            await call(backend)
    entry = only(logs, failed)
    assert (entry["log_level"], entry["error"]) == ("warning", str(caught.value))
    assert carries(entry, context), entry
    check_no_payload(logs)


@pytest.mark.parametrize(
    ("save", "event"),
    [
        (lambda b: b.messages.save(MESSAGE), events.MESSAGE_DUPLICATE),
        (lambda b: b.messages.save_many([MESSAGE]), events.MESSAGE_DUPLICATE),
        (lambda b: b.audit_entries.save(ENTRY), events.AUDIT_ENTRY_SAVE_FAILED),
    ],
    ids=["message", "messages", "audit-entry"],
)
async def test_duplicate_is_a_warning(save: Call, event: str):
    """The caller's matter, not the driver's."""
    async with open_backend(":memory:") as backend:
        await save_all(backend)
        with capture_logs() as logs, pytest.raises(TenantryError):
            await save(backend)
    assert only(logs, event)["log_level"] == "warning"
    check_no_payload(logs)


@pytest.mark.parametrize("name", SPOILT)
async def test_malformed_row_is_named_and_logged_first(name: str, tmp_path: Path):
    """Rule 9: bad JSON, a failed validation or a missing key names the record and its fields, never their values."""
    spoil, call, event, record_id = SPOILT[name]
    async with open_backend(tmp_path / "a.db") as backend:
        await save_all(backend)
        query(tmp_path / "a.db", spoil)
        with capture_logs() as logs, pytest.raises(MalformedRowError) as caught:
            await call(backend)
    assert caught.value.record_id == record_id
    assert record_id in str(caught.value)
    entry = only(logs, event)
    assert (entry["log_level"], entry["record_id"]) == ("error", record_id)
    assert SECRET not in str(caught.value)
    check_no_payload(logs)


async def test_life_cycle_events():
    """Changes of state are info, the steps to them debug, and what was already so is said too."""
    with capture_logs() as logs:
        backend = make_backend(":memory:")
        for step in (
            backend.connect,
            backend.connect,
            backend.health_check,
            backend.migrate,
            backend.migrate,
            backend.disconnect,
            backend.disconnect,
        ):
            await step()
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        (events.BACKEND_CREATED, "debug"),
        (events.BACKEND_CONNECTING, "debug"),
        (events.BACKEND_CONNECTED, "info"),
        (events.BACKEND_ALREADY_CONNECTED, "debug"),
        (events.BACKEND_HEALTH_CHECK, "debug"),
        (events.MIGRATION_STARTED, "info"),
        (events.MIGRATION_COMPLETED, "info"),
        (events.MIGRATION_SKIPPED, "debug"),
        (events.BACKEND_DISCONNECTING, "debug"),
        (events.BACKEND_DISCONNECTED, "info"),
    ]


async def test_failed_connection_and_unknown_back_end(tmp_path: Path):
    """What cannot be opened, or is not known, is said at the level of who is at fault."""
    (tmp_path / "a.db").write_text("no database " * 100)
    with capture_logs() as logs, pytest.raises(TenantryError):
        await make_backend(tmp_path / "a.db").connect()
    assert only(logs, events.BACKEND_CONNECTION_FAILED)["log_level"] == "error"
    with capture_logs() as logs, pytest.raises(TenantryError):
        create_backend(PersistenceConfig(backend="oracle"))
    assert only(logs, events.BACKEND_UNKNOWN)["backend"] == "oracle"


async def test_failed_migration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The event has the step's name in its error."""
    monkeypatch.syspath_prepend(tmp_path)
    schema = Schema("pack", write_pack(tmp_path, "pack_that_fails_and_logs", "CREATE TABLE t (n); nonsense;"))
    store = make_store(SQLiteOptions(path=None, is_read_by_writer=True), [schema])
    await store.connect()
    with capture_logs() as logs, pytest.raises(TenantryError):
        await store.migrate()
    await store.disconnect()
    entry = only(logs, events.MIGRATION_FAILED)
    assert entry["log_level"] == "error"
    assert "pack 0001_step" in entry["error"]


async def test_silent_unless_the_host_configured_structlog(capsys: pytest.CaptureFixture[str]):
    """Structlog's default prints every event to standard output: only warnings and errors do, until it is configured."""
    assert not structlog.is_configured()
    async with open_backend(":memory:") as backend:
        await backend.messages.save(MESSAGE)
        assert capsys.readouterr().out == ""
        with pytest.raises(TenantryError):
            await backend.messages.save(MESSAGE)
    assert events.MESSAGE_DUPLICATE in capsys.readouterr().err
