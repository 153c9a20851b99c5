"""Beside the 13: what another event loop, and another use of the garbage collector, make of works 1 and 3."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import uvloop

from benchmarks.comparison import Comparison, Sample
from benchmarks.harness import Load, Side, Work, compare
from benchmarks.one_tenant import get_side, save_side
from benchmarks.peers.tenantry_registry import open_tenantry

_CALLERS = 64


@contextmanager
def _frozen() -> Iterator[None]:
    """Keep what was imported out of collections, as servers do after start-up."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _disabled() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _run(load: Load) -> Sequence[Comparison]:
    return [
        compare(f"{what}, {_CALLERS} callers", _sides(make, load), load)
        for what, make in (("messages.save", save_side), ("tasks.get", get_side))
    ]


def _sides(make: Callable[..., Side], load: Load) -> list[Side]:
    on_uvloop = replace(load, loop_factory=uvloop.new_event_loop)
    return [
        make("asyncio", open_tenantry, _CALLERS, load),
        make("uvloop", open_tenantry, _CALLERS, on_uvloop),
        _within(_frozen, make("asyncio, gc.freeze()", open_tenantry, _CALLERS, load)),
        _within(_disabled, make("asyncio, gc.disable()", open_tenantry, _CALLERS, load)),
    ]


def _within(context: Callable[[], AbstractContextManager[None]], side: Side) -> Side:
    def run(directory: Path) -> Sample:
        with context():
            return side.run(directory)

    return Side(side.name, run)


WORK = Work(number="-", title="uvloop and the garbage collector, works 1 and 3", run=_run)
