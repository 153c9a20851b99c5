"""How much a soak run does: its seed, its sizes, and the figures that it prints."""

import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def soak_seed() -> int:
    """Return the seed: ``SOAK_SEED``, or a new one."""
    return int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(2**32))


def soak_size(name: str, default: int) -> int:
    """Return a number from the environment: ``SOAK_`` and the name."""
    return int(os.environ.get(f"SOAK_{name}") or default)


@contextmanager
def figures(about: str, seed: int) -> Iterator[dict[str, int]]:
    """Print the seed at the beginning, and at the end the figures that the block has put into the dict."""
    found: dict[str, int] = {}
    started = time.monotonic()
    _say(f"\n{about}: SOAK_SEED={seed}")
    try:
        yield found
    finally:
        told = ", ".join(f"{count:,} {name}" for name, count in found.items())
        _say(f"{about}: {told}, in {time.monotonic() - started:.0f} s")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
