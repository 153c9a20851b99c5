"""What tests of power failures and failing disks have: the preload library, and a worker process that has it."""

from collections.abc import Iterator

import pytest

from power.preload import build
from power.workers import Workers, workers


@pytest.fixture(scope="session")
def power_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """The worker process."""
    directory = tmp_path_factory.mktemp("power")
    with workers(build(directory), directory) as started:
        yield started
