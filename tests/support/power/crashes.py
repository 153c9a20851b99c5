"""Lets the power go at chosen moments of a recorded workload, and checks what is on the disk then."""

import random
import shutil
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from power.checking import Expectation
from power.choices import EXTREMES, MINIMAL, Choice, RandomChoice
from power.disk import Disk
from power.tracing import Operation, Record, read_trace
from power.trees import Tree, digest, write_tree
from power.workers import Workers


@dataclass(frozen=True)
class Recording:
    """A workload that was run.

    Attributes:
        workload: Its name.
        before: The directory as it was before, all of it durable.
        trace: What happened.
        outcome: What the worker says about it.
        marks_before: What programs said before the trace begins.
        marks_after: What they would have said later.
    """

    workload: str
    before: Disk
    trace: list[Record]
    outcome: Any
    marks_before: tuple[Any, ...] = ()
    marks_after: tuple[Any, ...] = ()

    @property
    def acknowledgements(self) -> list[int]:
        """The places in the trace at which something was acknowledged."""
        return [place for place, record in enumerate(self.trace) if _is_acknowledgement(record.mark)]

    def marks(self, place: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Return the marks before a place in the trace, and those after it."""
        before, after = (
            tuple(record.mark for record in some if record.operation is Operation.MARK)
            for some in (self.trace[:place], self.trace[place:])
        )
        return self.marks_before + before, after + self.marks_after


@dataclass(frozen=True)
class Crash:
    """A moment at which the power goes.

    Attributes:
        place: How many records of the trace have happened.
        choice: What reaches the disk.
    """

    place: int
    choice: Choice


def record(workers: Workers, workload: str, directory: Path, **job: Any) -> Recording:
    """Run a workload on a new directory and return what happened."""
    root = directory / workload
    root.mkdir()
    return _record(workers, root, {"do": "run", "workload": workload, **job})


def record_recovery(workers: Workers, recording: Recording, place: int, tree: Tree, root: Path) -> Recording:
    """Let tenantry recover what a power failure left of a workload, and return what happened in that."""
    write_tree(tree, root)
    before, after = recording.marks(place)
    recovery = _record(workers, root, {"do": "recover", "workload": recording.workload})
    return replace(recovery, marks_before=before, marks_after=after)


def _record(workers: Workers, root: Path, job: dict[str, Any]) -> Recording:
    trace, before = root.with_suffix(".trace"), Disk(root)
    ((_, outcome),) = workers.do([{**job, "root": root, "trace": trace}])
    return Recording(job["workload"], before, read_trace(trace), outcome)


def acknowledged(recording: Recording, *choices: Choice) -> Iterator[Crash]:
    """Let the power go right after each acknowledgement."""
    for place in recording.acknowledgements:
        yield from (Crash(place + 1, choice) for choice in choices or [MINIMAL])


def at_every_sync(recording: Recording, *choices: Choice) -> Iterator[Crash]:
    """Let the power go right before and right after each sync."""
    for place, happened in enumerate(recording.trace):
        if happened.operation is Operation.SYNC:
            for choice in choices or EXTREMES:
                yield from (Crash(place, choice), Crash(place + 1, choice))


def at_random(recording: Recording, seed: int, count: int) -> Iterator[Crash]:
    """Let the power go anywhere, with anything on the disk."""
    chosen = random.Random(f"{seed} {recording.workload}")
    for number in range(count):
        place = chosen.randrange(len(recording.trace) + 1)
        yield Crash(place, RandomChoice(f"{seed} {recording.workload} {number}"))


@dataclass
class Report:
    """What was checked.

    Attributes:
        images: How many different images.
        acknowledgements: How many acknowledgements had to hold, all images together.
        findings: What did not hold.
    """

    images: int = 0
    acknowledgements: int = 0
    findings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([f"{self.images} images, {self.acknowledgements} acknowledgements", *self.findings])

    def __add__(self, other: "Report") -> "Report":
        return Report(
            self.images + other.images,
            self.acknowledgements + other.acknowledgements,
            self.findings + other.findings,
        )


def check(recording: Recording, crashes: Iterable[Crash], workers: Workers, directory: Path) -> Report:
    """Check what each crash leaves on the disk; images that are equal, and of which the same is expected, only once."""
    directory.mkdir(exist_ok=True)
    report, findings = Report(), []
    for job, problems in workers.do(_jobs(recording, crashes, directory, report)):
        if problems:
            findings.append((job["place"], f"{job['about']}: {'; '.join(problems)} ({job['root']})"))
        else:
            shutil.rmtree(job["root"])
    report.findings = tuple(finding for _, finding in sorted(findings))
    return report


def _jobs(
    recording: Recording, crashes: Iterable[Crash], directory: Path, report: Report
) -> Iterator[dict[str, Any]]:
    seen = set()
    for crash, tree in images(recording, crashes):
        marks, later = recording.marks(crash.place)
        expected = Expectation.at(marks, later).as_json()
        known = (digest(tree), repr(expected))
        if known in seen:
            continue
        seen.add(known)
        root = directory / f"{recording.workload}-{crash.place}-{len(seen)}"
        write_tree(tree, root)
        report.images += 1
        report.acknowledgements += sum(map(_is_acknowledgement, marks))
        about = f"{recording.workload}, after {crash.place} changes, {crash.choice.name}, {_under_way(marks)}"
        yield {
            "do": "check",
            "workload": recording.workload,
            "root": root,
            "expected": expected,
            "place": crash.place,
            "about": about,
        }


def images(recording: Recording, crashes: Iterable[Crash]) -> Iterator[tuple[Crash, Tree]]:
    """Yield what is on the disk after each crash, in the order of the trace."""
    disk, done = deepcopy(recording.before), 0
    for crash in sorted(crashes, key=lambda crash: crash.place):
        for happened in recording.trace[done : crash.place]:
            disk.apply(happened)
        done = crash.place
        yield crash, disk.image(crash.choice)


def _is_acknowledgement(mark: Any) -> bool:
    return mark is not None and bool({"must", "worlds"} & set(mark))


def _under_way(marks: Sequence[Any]) -> str:
    last = next((mark for mark in reversed(marks) if {"begin", "after"} & set(mark)), {})
    if "begin" in last:
        return f"during {last['begin']}"
    return f"after {last.get('after', 'nothing')}"
