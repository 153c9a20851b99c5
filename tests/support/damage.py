"""Ways in which a file can be damaged, for tests that no damage is overlooked.

Import it by name (``tests`` is on pytest's path): ``from damage import damaged``.
"""

import gzip
import random
import zlib
from collections.abc import Iterator

_SAMPLES = 40


def damaged(content: bytes, seed: int = 1) -> Iterator[bytes]:
    """Yield the content with one bit flipped at every position and every bit at some, cut short, and with something added."""
    chance = random.Random(seed)
    for at in range(len(content)):
        yield _flipped(content, at, chance.randrange(8))
    sample = {0, len(content) - 1, *chance.sample(range(len(content)), _SAMPLES)}
    for at in sample:
        yield from (_flipped(content, at, bit) for bit in range(8))
        yield content[:at]
        yield content[:at] + content[at + 1 :]
        yield content[:at] + b"\0" + content[at:]
    for more in (b"\0", b"\0" * 512, b"\n", content):
        yield content + more
    yield content[1:]


def _flipped(content: bytes, at: int, bit: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]


def gunzipped(content: bytes) -> bytes | None:
    """Return what a gzip file contains, or None if it cannot be decompressed."""
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error):
        return None
