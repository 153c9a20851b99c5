"""Callers of one tenant: a side's round of saving messages, and of getting tasks."""

from functools import partial
from pathlib import Path

from benchmarks.comparison import Sample
from benchmarks.harness import Caller, Load, Side, check_durable, check_rows, measure
from benchmarks.peers import OpenStore
from benchmarks.peers.message_row import message_builder
from benchmarks.peers.task_row import build_tasks, task_id_picker

TASKS = 1000


def save_side(name: str, open_store: OpenStore, callers: int, load: Load) -> Side:
    """Return the side whose callers save messages.

    The latency is that of `save`: serializing the message and all that follows, not building it.
    """

    def run(directory: Path) -> Sample:
        return load.run(save_round(open_store, callers, load, directory))

    return Side(name, run)


def get_side(name: str, open_store: OpenStore, callers: int, load: Load) -> Side:
    """Return the side whose callers get tasks by id, each validated as a model."""

    def run(directory: Path) -> Sample:
        return load.run(get_round(open_store, callers, load, directory))

    return Side(name, run)


async def save_round(
    open_store: OpenStore, callers: int, load: Load, directory: Path, *, rows_before: int = 0
) -> Sample:
    """Save messages, and check that all that were acknowledged are there."""
    build = message_builder()
    async with open_store(directory, ()) as store:
        durability = check_durable(await store.durability())
        measured = await measure([Caller(build, store.save)] * callers, load)
    check_rows(store.stored_messages() - rows_before, measured.answered, measured.failed)
    return measured.sample(durability)


async def get_round(open_store: OpenStore, callers: int, load: Load, directory: Path) -> Sample:
    """Get tasks, and check that they are what was stored."""
    tasks = build_tasks(TASKS)
    pick = task_id_picker(tasks)
    async with open_store(directory, tasks) as store:
        assert await store.get(tasks[-1].id) == tasks[-1]
        durability = check_durable(await store.durability())
        measured = await measure([Caller(pick, store.get)] * callers, load)
    return measured.sample(durability)


def postgres_sides(load: Load) -> dict[str, OpenStore]:
    """Return the sides on PostgreSQL; a server is started when the first of them runs."""
    # Imported late: where only SQLite is compared, as by the guard, it need not be installed.
    from benchmarks.peers.postgres import open_asyncpg, open_psycopg  # noqa: PLC0415

    return {"asyncpg": partial(open_asyncpg, load), "psycopg": partial(open_psycopg, load)}


def plural(count: int, noun: str) -> str:
    """Return ``1 caller``, ``2 callers``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
