"""The owner of a tenant dies under load: the other processes continue, nothing is lost, and nothing is done twice.

Three processes count in one tenant (`counting`). The owner is killed, another process becomes the owner, and a new process takes the place
of the dead one. ``make soak`` kills a hundred owners; it prints its seed and its figures, ``SOAK_SEED`` gives it a seed, and
``SOAK_KILLS`` a number of kills.
"""

import random
from pathlib import Path
from typing import Any

import pytest

from counting import Counting, Verdict, acts_of
from power.soak import figures, soak_seed, soak_size

pytestmark = pytest.mark.unmeasured

SEED = 1


def verdict_of(directory: Path, *acts: str, seed: int = SEED, looks: bool = True, **settings: Any) -> Verdict:
    """Return what becomes of the additions while this happens to the owner."""
    counting = Counting(directory, seed, looks=looks, **settings)
    with counting.running():
        acts_of(counting, acts)
    return counting.verdict


def test_owners_are_killed(tmp_path: Path):
    """Owners are killed at random moments, and between a commit and its answers."""
    verdict_of(tmp_path, "kill", "kill_after_commit", "kill", "kill_after_commit").check()


def test_without_marks_units_are_done_twice(tmp_path: Path):
    """The instrument sees it: a next owner that does not look for marks runs committed units again."""
    verdict = verdict_of(tmp_path, "kill_after_commit", "kill_after_commit", looks=False)
    assert verdict.doubled > 0, str(verdict)
    assert verdict.wrong > 0, str(verdict)


def test_owners_end_and_are_stopped(tmp_path: Path):
    """An owner that ends as it should costs nobody an error, and a stopped one that is killed nobody an addition."""
    verdict = verdict_of(tmp_path, "end", "stop_and_kill", "end")
    verdict.check()


@pytest.mark.soak
def test_a_hundred_owners_are_killed(tmp_path: Path):
    """A hundred kills: at random moments, between a commit and its answers, and after the owner was stopped for a while."""
    seed, kills = soak_seed(), soak_size("KILLS", 100)
    acts = random.Random(seed).choices(["kill", "kill_after_commit", "stop_and_kill"], [6, 3, 1], k=kills)
    counting = Counting(tmp_path, seed)
    with figures("kills of owners", seed) as found:
        with counting.running():
            acts_of(counting, acts)
        found["kills"] = kills
        print(counting.verdict)  # noqa: T201  # the figures of a soak
    counting.verdict.check()
