"""The owner of a tenant dies under load: the other processes continue, nothing is lost, and nothing is done twice.

Three processes count in one tenant (`counting`). The owner is killed, another process becomes the owner, and a new process takes the place
of the dead one. ``make soak`` kills a hundred owners; it prints its seed and its figures, ``SOAK_SEED`` gives it a seed, and
``SOAK_KILLS`` a number of kills.
"""

import asyncio
import random
from pathlib import Path
from typing import Any, Final

import pytest

from counting import Counting, Verdict, acts_of
from power.soak import figures, soak_seed, soak_size
from registries import config
from tenantry import TenantRegistry
from tenants import HANG_SECONDS, history, python, read_line, say

_INSIDE_A_TRANSACTION: Final = """
import asyncio, sys
from registries import config
from tenantry import TenantRegistry
from tenants import make_message

async def main():
    async with TenantRegistry(config(sys.argv[1])) as registry:
        async with registry.tenant("acme").transaction() as tx:
            await tx.messages.save(make_message("inside"))
            print("inside", flush=True)
            await asyncio.Event().wait()

asyncio.run(main())
"""

pytestmark = pytest.mark.unmeasured

SEED = 1


def verdict_of(directory: Path, *acts: str, seed: int = SEED, looks: bool = True, **settings: Any) -> Verdict:
    """Return what becomes of the additions while this happens to the owner."""
    counting = Counting(directory, seed, looks=looks, **settings)
    with counting.running():
        acts_of(counting, acts)
    return counting.verdict


def test_owners_are_killed(tmp_path: Path):
    """Owners are killed at random moments, between a commit and its answers, one after the other, stopped before, and all at once."""
    acts = ("kill", "kill_after_commit", "kill_twice", "stop_and_kill", "kill_all", "kill_after_commit")
    verdict_of(tmp_path, *acts).check()


def test_tenants_that_are_handed_over(tmp_path: Path):
    """The tenant moves from process to process all the time, and its owners are killed."""
    verdict_of(tmp_path, "kill", "kill_after_commit", "kill_twice", "end", handed_over_after_calls=4).check()


def test_without_marks_units_are_done_twice(tmp_path: Path):
    """The instrument sees it: a next owner that does not look for marks runs committed units again."""
    verdict = verdict_of(tmp_path, *["kill_after_commit"] * 4, looks=False)
    assert verdict.doubled > 0, str(verdict)
    assert verdict.wrong > 0, str(verdict)


def test_owners_end(tmp_path: Path):
    """An owner that ends as it should costs nobody an error, not even a transaction."""
    verdict = verdict_of(tmp_path, "end", "end", "end")
    verdict.check()
    assert not verdict.errors


def test_a_forwarding_process_is_killed_inside_a_transaction(data_dir: Path):
    """Its transaction is rolled back at once: the owner's next write does not wait for the transaction's deadline."""

    async def write_after_its_death() -> list[str]:
        limits = {"call_timeout_seconds": 10 * HANG_SECONDS, "transaction_timeout_seconds": 10 * HANG_SECONDS}
        async with TenantRegistry(config(data_dir, **limits)) as owner:
            await owner.create("acme")
            await say(owner, "acme", "before")
            with python(_INSIDE_A_TRANSACTION, data_dir) as other:
                assert await asyncio.to_thread(read_line, other) == "inside"
                other.kill()
                async with asyncio.timeout(HANG_SECONDS):
                    await say(owner, "acme", "after")
            return await history(owner, "acme")

    assert asyncio.run(write_after_its_death()) == ["before", "after"]


@pytest.mark.soak
@pytest.mark.parametrize(
    ("about", "settings"),
    [("kills of owners", {}), ("kills of owners that hand over", {"handed_over_after_calls": 4})],
)
def test_a_hundred_owners_are_killed(about: str, settings: dict[str, Any], tmp_path: Path):
    """A hundred kills of every kind."""
    verdict = verdict_of_soak(about, tmp_path, **settings)
    verdict.check()


@pytest.mark.soak
def test_a_hundred_owners_are_killed_without_marks(tmp_path: Path):
    """The control: a next owner that does not look for marks."""
    verdict = verdict_of_soak("kills of owners without marks", tmp_path, looks=False)
    assert verdict.doubled > 0
    assert verdict.wrong > 0


def verdict_of_soak(about: str, directory: Path, **settings: Any) -> Verdict:
    """Return what becomes of the additions while owners are killed in every way, and print the figures."""
    seed, kills = soak_seed(), soak_size("KILLS", 100)
    ways = {"kill": 12, "kill_after_commit": 5, "stop_and_kill": 1, "kill_twice": 1, "kill_all": 1}
    acts = random.Random(seed).choices([*ways], [*ways.values()], k=kills)
    with figures(about, seed) as found:
        verdict = verdict_of(directory, *acts, seed=seed, **settings)
        found["kills"] = verdict.kills
        print(verdict)  # noqa: T201  # the figures of a soak
    return verdict
