"""Restores and undoes restores of a tenant on PostgreSQL while two processes save to it, and reports the pauses.

``python -m benchmarks.restore_tenant [--rounds 20] [--dir DIR]``

A row is in the wrong generation if it was acknowledged before a restore and is in the restored database without being in the snapshot, or
if it was acknowledged after a restore and is not there.
"""

import argparse
import asyncio
import json
import multiprocessing
import sys
import time
from contextlib import ExitStack
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import Load
from benchmarks.machine import check_is_disk
from benchmarks.peers.postgres import PostgresServer
from benchmarks.peers.tenantry_postgres import create_tenant, postgres_config
from tenantry import TenantRegistry
from tenantry.errors import TenantryError
from tenantry.testing.conformance.samples import make_message

_CALLERS = 8
_PROCESSES = 2
_ROWS = 2_000
_ROUND_SECONDS = 0.5


def main() -> int:
    """Run the rounds and print the report as JSON; return 1 if a row is in the wrong generation or a call failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.restore_tenant")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--dir", type=Path, default=Path())
    options = parser.parse_args()
    check_is_disk(options.dir)
    with TemporaryDirectory(prefix=".benchmarks-", dir=options.dir) as directory, ExitStack() as resources:
        load = Load(Path(directory), rounds=options.rounds, seconds=_ROUND_SECONDS, resources=resources)
        report = asyncio.run(_run(load, options.rounds))
    print(json.dumps(report, indent=2))
    return 1 if report["wrong_generation"] or report["errors"] else 0


async def _run(load: Load, rounds: int) -> dict[str, object]:
    server = PostgresServer.of(load)
    data_dir = load.directory / "data"
    restores: list[tuple[float, float]] = []
    async with TenantRegistry(postgres_config(server, data_dir)) as registry:
        store = await create_tenant(registry, server, ())
        tenant_id = store.tenant.id
        await store.tenant.messages.save_many([make_message() for _ in range(_ROWS)])
        snapshot = await registry.snapshots.create(tenant_id)
        writers = [_Writer(server, data_dir, tenant_id) for _ in range(_PROCESSES)]
        for number in range(rounds):
            await asyncio.sleep(load.seconds)
            began = time.time()
            if number % 2:
                await registry.snapshots.undo_restore(tenant_id)
            else:
                await registry.snapshots.restore(tenant_id, snapshot.id)
            restores.append((began, time.time()))
        await asyncio.sleep(load.seconds)
        saved = [await asyncio.to_thread(writer.stop) for writer in writers]
        stored = {row[0] for row in await store.tenant.fetch_all("SELECT content FROM messages")}
    return _report(saved, stored, restores)


class _Writer:
    """A process whose callers save, each message with a content of its own."""

    def __init__(self, server: PostgresServer, data_dir: Path, tenant_id: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_write, args=(server.uri, data_dir, tenant_id, theirs))
        self._process.start()
        self._pipe.recv()

    def stop(self) -> dict[str, list[tuple[str, float, float]] | list[str]]:
        """End the callers, and return what was acknowledged, with the times of each call, and the errors."""
        self._pipe.send("stop")
        report: dict[str, list[tuple[str, float, float]] | list[str]] = self._pipe.recv()
        self._process.join()
        return report


def _write(uri: str, data_dir: Path, tenant_id: str, pipe: Connection) -> None:
    pipe.send(asyncio.run(_save(uri, data_dir, tenant_id, pipe)))


async def _save(uri: str, data_dir: Path, tenant_id: str, pipe: Connection) -> dict[str, list]:
    saved: list[tuple[str, float, float]] = []
    errors: list[str] = []
    is_stopped = asyncio.Event()
    async with TenantRegistry(postgres_config(PostgresServer(uri), data_dir)) as registry:
        messages = registry.tenant(tenant_id).messages

        async def call(caller: int) -> None:
            number = 0
            while not is_stopped.is_set():
                number += 1
                content = f"{multiprocessing.current_process().pid}-{caller}-{number}"
                message = make_message(content=content)
                began = time.time()
                try:
                    await messages.save(message)
                except TenantryError as error:
                    errors.append(f"{type(error).__name__}: {error}")
                else:
                    saved.append((content, began, time.time()))

        async with asyncio.TaskGroup() as group:
            for caller in range(_CALLERS):
                group.create_task(call(caller))
            pipe.send("ready")
            await asyncio.to_thread(pipe.recv)
            is_stopped.set()
    return {"saved": saved, "errors": errors}


def _report(
    reports: list[dict[str, list]], stored: set[str], restores: list[tuple[float, float]]
) -> dict[str, object]:
    """Compare with the last generation: of an even number of restores the last one undid a restore, so all but one are there."""
    saved = [call for report in reports for call in report["saved"]]
    errors = [error for report in reports for error in report["errors"]]
    last_began, last_ended = restores[-1]
    after = {content for content, began, _ in saved if began > last_ended}
    pauses = []
    for began, ended in restores:
        times = sorted(done for _, _, done in saved if began - 0.2 <= done <= ended + 1.0)
        pauses.append(max((b - a for a, b in pairwise(times)), default=0.0))
    return {
        "restores": len(restores),
        "acknowledged": len(saved),
        "wrong_generation": len(after - stored),
        "errors": len(errors),
        "first_error": errors[0] if errors else None,
        "longest_pause_seconds": round(max(pauses), 3),
        "median_pause_seconds": round(sorted(pauses)[len(pauses) // 2], 3),
        "last_restore_seconds": round(last_ended - last_began, 3),
    }


if __name__ == "__main__":
    sys.exit(main())
