"""The preload library: no change of a file is missed, and calls fail as they are told to."""

import errno
from pathlib import Path

import pytest

from power.choices import MAXIMAL
from power.disk import Disk
from power.faults import Fault
from power.tracing import Kind, Operation, read_trace
from power.trees import read_tree, write_tree
from power.workers import Workers


def test_the_recorder_misses_no_change(power_workers: Workers, tmp_path: Path):
    """Played back, a trace gives the files that the program left, whatever calls it changed them with."""
    root, trace = tmp_path / "root", tmp_path / "trace"
    root.mkdir()
    disk = Disk(root)
    ((_, outcome),) = power_workers.do([{"do": "change-files", "root": root, "trace": trace}])
    assert outcome is None
    records = read_trace(trace)
    for record in records:
        disk.apply(record)
    assert disk.image(MAXIMAL) == read_tree(root)
    assert {record.operation for record in records} == set(Operation) - {Operation.MARK}
    write_tree(disk.image(MAXIMAL), tmp_path / "written")
    assert read_tree(tmp_path / "written") == read_tree(root)


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.READ])
def test_a_call_fails_as_it_is_told_to(kind: Kind, power_workers: Workers, tmp_path: Path):
    """The program gets the error, and what it had done before is there."""
    fail = Fault(kind, errno.EDQUOT, first=1).as_json()
    ((_, outcome),) = power_workers.do([{"do": "change-files", "root": tmp_path, "fail": fail}])
    assert outcome == errno.EDQUOT
    assert (tmp_path / "kept").exists() is (kind is not Kind.MKDIR)
    assert (tmp_path / "kept" / "written").exists() is (kind not in Kind.MKDIR | Kind.OPEN)


def test_a_short_write_goes_on(power_workers: Workers, tmp_path: Path):
    """A write that is cut short is not an error: Python writes the rest."""
    fail = Fault(Kind.WRITE, 0, first=1).as_json()
    ((_, outcome),) = power_workers.do([{"do": "change-files", "root": tmp_path, "fail": fail}])
    assert outcome is None
    assert (tmp_path / "kept" / "written").read_bytes() == b"a" * 10_000
