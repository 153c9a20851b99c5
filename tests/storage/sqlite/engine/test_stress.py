"""The engine under random work on many threads. ``make soak`` does it for minutes; ``SOAK_SEED`` and ``SOAK_ROUNDS`` set it."""

import asyncio
import threading
from pathlib import Path

import pytest

from engine_rig import needed_engine
from engine_stress import stress
from power.soak import figures, soak_seed, soak_size

pytestmark = pytest.mark.unmeasured


@pytest.mark.parametrize(
    "rounds", [100, pytest.param(soak_size("ROUNDS", 6000), marks=pytest.mark.soak)], ids=["short", "soak"]
)
def test_stress(tmp_path: Path, rounds: int):
    """What was acknowledged is in the files, and nothing else, whatever the other callers do. Two event loops run at once."""
    seed = soak_seed()
    before = needed_engine().counts()
    with figures("engine", seed) as found:
        failures: list[BaseException] = []
        lock = threading.Lock()

        def work(number: int) -> None:
            directory = tmp_path / str(number)
            directory.mkdir()
            try:
                done = asyncio.run(stress(directory, seed + 1000 * number, tenants=4, rounds=rounds))
                with lock:
                    found.update({name: found.get(name, 0) + count for name, count in done.items()})
            except BaseException as error:  # noqa: BLE001  # raised again on the test's thread
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        after = needed_engine().counts()
        found.update({name: after[name] - before[name] for name in after})
    if failures:
        raise ExceptionGroup(f"SOAK_SEED={seed}", failures)
    assert all(
        found[name] for name in ("ended", "in_python", "dropped", "writes", "reads", "failures", "closings")
    )
