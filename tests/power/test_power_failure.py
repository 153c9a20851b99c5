"""The power goes at any moment of what tenantry does: nothing that was acknowledged is lost, and everything can be used again.

How it works: a worker process has a preload library (``recorder.c``) and runs a workload (`workloads`). The library writes a trace
of every change to the files, and the workload marks in it what begins and what is acknowledged (`script`). A model of a disk
(`disk`) plays the trace back up to a chosen moment, and says what may be on the disk if the power goes then. There are many such
images: nothing that was not synced, everything, and random ones in between. Each image is written out and opened with
tenantry, which has to find one of the worlds that are right at that moment (`checking`, `worlds`).

``make soak`` checks many more images. It prints its seed; ``SOAK_SEED`` gives it one and ``SOAK_IMAGES`` says how
many images of each workload.
"""

import errno
import random
from pathlib import Path

import pytest

from power.choices import EXTREMES, MAXIMAL, MINIMAL
from power.crashes import (
    Crash,
    Report,
    acknowledged,
    at_every_sync,
    at_random,
    check,
    images,
    record,
    record_recovery,
)
from power.faults import Fault, count_calls
from power.soak import figures, soak_seed, soak_size
from power.tracing import Kind, Operation
from power.workers import Workers

pytestmark = pytest.mark.unmeasured

SEED = 1
WORKLOADS = ("writes", "forwarded", "lifecycle", "copies", "placed-files", "fresh", "failed-log-sync")


@pytest.mark.parametrize("workload", WORKLOADS)
def test_the_power_goes(workload: str, power_workers: Workers, tmp_path: Path):
    """Whenever the power goes and whatever reaches the disk, what was acknowledged is there."""
    recording = record(power_workers, workload, tmp_path)
    assert recording.outcome["is_finished"], recording.outcome
    acknowledgements = list(acknowledged(recording))
    chosen = [*acknowledgements[:: -(-len(acknowledgements) // 8)], acknowledgements[-1]]
    chosen += at_random(recording, SEED, 8)
    report = check(recording, chosen, power_workers, tmp_path / "images")
    assert not report.findings, str(report)
    assert report.images > 5
    assert report.acknowledgements > 5


def test_the_sync_of_a_new_tenants_directory_fails(power_workers: Workers, tmp_path: Path):
    """Its write-ahead log is not lost with what was acknowledged, although SQLite does not look whether that sync failed."""
    for number in (2, 5, 7):
        directory = tmp_path / str(number)
        directory.mkdir()
        fault = Fault(Kind.SYNC, errno.EIO, number, name="/acme")
        recording = record(power_workers, "fresh", directory, fail=fault.as_json())
        assert recording.outcome["failed_what"].endswith("/acme")
        report = check(recording, acknowledged(recording), power_workers, directory / "images")
        assert not report.findings, str(report)


def test_the_sync_of_a_directory_fails_while_a_tenant_is_archived(power_workers: Workers, tmp_path: Path):
    """The write-ahead log of the compaction does not get lost: the tenant's database is whole when the power goes later."""
    failed = set()
    for number in (20, 21, 22):
        directory = tmp_path / str(number)
        directory.mkdir()
        fault = Fault(Kind.SYNC, errno.EIO, number, name="82/acme")
        recording = record(power_workers, "lifecycle", directory, fail=fault.as_json())
        failed.add(recording.outcome["failed_what"].rpartition("/")[2])
        after = [
            place
            for place in recording.acknowledgements
            if recording.trace[place].mark.get("after") == "archive"
        ]
        report = check(
            recording, [Crash(place + 1, MINIMAL) for place in after], power_workers, directory / "images"
        )
        assert not report.findings, str(report)
    assert "acme" in failed


def test_a_sync_fails_while_a_key_is_revoked(power_workers: Workers, tmp_path: Path):
    """The call is repeated and finds the key revoked: it is acknowledged only when no power failure can make the key good again."""
    recording = record(power_workers, "lifecycle", tmp_path)
    begun, ended = (
        next(
            place
            for place, happened in enumerate(recording.trace)
            if (happened.mark or {}).get(key) == "key.revoke"
        )
        for key in ("begin", "after")
    )
    syncs = [place for place, happened in enumerate(recording.trace) if happened.operation is Operation.SYNC]
    during = [number for number, place in enumerate(syncs, start=1) if begun < place < ended]
    assert during
    for number in during:
        directory = tmp_path / str(number)
        directory.mkdir()
        fault = Fault(Kind.SYNC, errno.EIO, number)
        failed = record(power_workers, "lifecycle", directory, fail=fault.as_json())
        after = max(
            place
            for place in failed.acknowledgements
            if failed.trace[place].mark.get("after") == "key.revoke"
        )
        report = check(failed, [Crash(after + 1, MINIMAL)], power_workers, directory / "images")
        assert not report.findings, str(report)


def test_what_is_not_synced_is_found(power_workers: Workers, tmp_path: Path):
    """The instrument sees losses: with durability "normal" the last acknowledged writes are gone, and nothing else."""
    recording = record(power_workers, "not-synced", tmp_path)
    report = check(recording, acknowledged(recording), power_workers, tmp_path / "images")
    assert len(report.findings) == 2
    assert ["first" in report.findings[0], "second" in report.findings[1]] == [True, True]
    assert (
        check(recording, acknowledged(recording, MAXIMAL), power_workers, tmp_path / "whole").findings == ()
    )


@pytest.mark.soak
@pytest.mark.parametrize("workload", [*WORKLOADS, "short", "openings"])
def test_the_power_goes_anywhere(workload: str, power_workers: Workers, tmp_path: Path):
    """Many more images: the extremes after every acknowledgement and around every sync, and random ones anywhere."""
    seed, images_max = soak_seed(), soak_size("IMAGES", 400)
    with figures(f"power failures in {workload}", seed) as found:
        recording = record(power_workers, workload, tmp_path)
        around = [*acknowledged(recording, *EXTREMES), *at_every_sync(recording)]
        random.Random(seed).shuffle(around)
        chosen = [*around[: images_max // 2], *at_random(recording, seed, images_max // 2)]
        report = check(recording, chosen, power_workers, tmp_path / "images")
        found |= {"images": report.images, "acknowledgements": report.acknowledgements}
    assert not report.findings, str(report)


@pytest.mark.soak
@pytest.mark.parametrize("workload", ["writes", "openings", "lifecycle", "copies", "placed-files"])
def test_a_sync_fails_and_later_the_power_goes(workload: str, power_workers: Workers, tmp_path: Path):
    """A sync fails once, whichever it is; the call is repeated; when the power goes later, what was acknowledged is there."""
    seed, runs, images_max = soak_seed(), soak_size("RUNS", 20), soak_size("IMAGES", 400)
    chosen = random.Random(seed)
    total = Report()
    with figures(f"failed syncs and power failures in {workload}", seed) as found:
        syncs = count_calls(workload, power_workers, tmp_path / "calls")[Kind.SYNC]
        for run in range(runs):
            fault = Fault(Kind.SYNC, errno.EIO, first=chosen.randrange(1, syncs + 1))
            directory = tmp_path / f"{run}-{fault.first}"
            directory.mkdir()
            recording = record(power_workers, workload, directory, fail=fault.as_json())
            crashes = [*acknowledged(recording), *at_random(recording, seed + run, images_max // runs)]
            some = chosen.sample(crashes, images_max // runs)
            total += check(recording, some, power_workers, directory / "images")
            found |= {"runs": run + 1, "images": total.images, "acknowledgements": total.acknowledgements}
    assert not total.findings, str(total)


@pytest.mark.soak
@pytest.mark.parametrize("workload", WORKLOADS)
def test_the_power_goes_again_while_it_is_recovered(workload: str, power_workers: Workers, tmp_path: Path):
    """The power goes, tenantry recovers, and the power goes again in the middle of that: still nothing is lost."""
    seed, runs, images_max = soak_seed(), soak_size("RUNS", 20), soak_size("IMAGES", 400)
    total = Report()
    with figures(f"power failures during recovery in {workload}", seed) as found:
        recording = record(power_workers, workload, tmp_path)
        for number, (crash, tree) in enumerate(images(recording, at_random(recording, seed, runs))):
            root = tmp_path / f"recovery-{number}"
            recovery = record_recovery(power_workers, recording, crash.place, tree, root)
            assert recovery.outcome is None, f"{crash}: {recovery.outcome}"
            chosen = [*acknowledged(recovery), *at_random(recovery, seed + number, images_max // runs)]
            total += check(recovery, chosen, power_workers, tmp_path / f"images-{number}")
            found |= {"images": total.images, "acknowledgements": total.acknowledgements}
    assert not total.findings, str(total)
