"""Work 22: calls to a tenant that another process has open, against calls of a process that has the tenant open itself."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.comparison import Comparison, Measure, Sample, Target
from benchmarks.harness import BenchmarkError, Caller, Load, Side, Work, check_rows, compare, measure
from benchmarks.one_tenant import TASKS, plural
from benchmarks.peers import Durability
from benchmarks.peers.message_row import message_builder
from benchmarks.peers.task_row import build_tasks, task_id_picker
from benchmarks.peers.tenantry_registry import TenantryStore, open_tenantry, open_tenantry_forwarded

_MESSAGES = 100
"""The messages of the tenant before the first call, of which `get_history` returns the newest."""

_HISTORY = 20
_FORWARDED, _OWN = "forwarded", "own"
_OPENED_BY = {_FORWARDED: open_tenantry_forwarded, _OWN: open_tenantry}
_SYNCHRONOUS = {"full": 2, "normal": 1}


def _save(store: TenantryStore) -> Caller:
    return Caller(message_builder(), store.save)


def _get(store: TenantryStore) -> Caller:
    return Caller(task_id_picker(build_tasks(TASKS)), store.get)


def _history(store: TenantryStore) -> Caller:
    async def call(channel: str) -> None:
        found = await store.tenant.messages.get_history(channel, limit=_HISTORY)
        assert len(found) == _HISTORY

    return Caller(lambda: "history", call)


def _transaction(store: TenantryStore) -> Caller:
    async def call(message: Any) -> None:
        async with store.tenant.transaction() as tx:
            await tx.messages.save(message)

    return Caller(message_builder(), call)


class _Calls(NamedTuple):
    what: str
    caller: Callable[[TenantryStore], Caller]
    callers: int
    durability: str = "full"

    @property
    def setting(self) -> str:
        durability = "" if self.durability == "full" else f", durability {self.durability}"
        return f"{plural(self.callers, 'caller')}, {self.what}{durability}"

    @property
    def is_write(self) -> bool:
        return self.caller in (_save, _transaction)


_LONE_SAVE = _Calls("save", _save, 1)
_LONE_GET = _Calls("get", _get, 1)
_SAVE = _Calls("save", _save, 64)
_GET = _Calls("get", _get, 64)
_ALL = (
    _LONE_SAVE,
    _LONE_GET,
    _Calls(f"get_history(limit={_HISTORY})", _history, 1),
    _Calls("a transaction of one save", _transaction, 1),
    _Calls("save", _save, 1, durability="normal"),
    _SAVE,
    _GET,
    _Calls("save", _save, 64, durability="normal"),
)


def _run(load: Load) -> Sequence[Comparison]:
    return [
        compare(calls.setting, [Side(name, partial(_round, load, name, calls)) for name in _OPENED_BY], load)
        for calls in _ALL
    ]


def _round(load: Load, side: str, calls: _Calls, directory: Path) -> Sample:
    return load.run(_measure(load, side, calls, directory))


async def _measure(load: Load, side: str, calls: _Calls, directory: Path) -> Sample:
    tasks = build_tasks(TASKS)
    async with _OPENED_BY[side](directory, tasks, durability=calls.durability) as store:
        durability = await store.durability()
        if durability != Durability("wal", _SYNCHRONOUS[calls.durability]):
            raise BenchmarkError(f"a side writes with {durability}, not with durability {calls.durability}")
        if calls.caller is _history:
            await _fill_history(store.tenant.messages.save)
        before = store.stored_messages()
        measured = await measure([calls.caller(store) for _ in range(calls.callers)], load)
    acknowledged = measured.answered if calls.is_write else 0
    check_rows(store.stored_messages() - before, acknowledged, measured.failed)
    return measured.sample(durability._asdict())


async def _fill_history(save: Callable[[Any], Awaitable[object]]) -> None:
    build = message_builder()
    for _ in range(_MESSAGES):
        await save(build().model_copy(update={"channel": "history"}))


WORK = Work(
    number="22",
    title="one tenant, calls forwarded to the process that has it open, against that process's own calls",
    run=_run,
    targets=(
        Target(_LONE_SAVE.setting, _OWN, must=1.6, measure=Measure.P50),
        Target(_LONE_GET.setting, _OWN, must=2.6, measure=Measure.P50),
        Target(_SAVE.setting, _OWN, must=0.55),
        Target(_GET.setting, _OWN, must=0.45),
    ),
)
