"""What reaches the disk before the power goes: nothing, everything, or something in between."""

import random
from typing import Final, TypeVar

T = TypeVar("T")

PAGE_BYTES: Final = 4096
SECTOR_BYTES: Final = 512


class Choice:
    """Decides what reached the disk; this one decides that nothing did that was not synced.

    `MINIMAL`, `MAXIMAL` and the two between them are the extremes.

    Args:
        name: For people.
        version: The index of the version of a page, and of the size, that the disk has.
        has_names: Whether it has the changes of names.
    """

    def __init__(self, name: str, *, version: int, has_names: bool) -> None:
        self.name = name
        self._version = version
        self._has_names = has_names

    def size(self, sizes: list[int]) -> int:
        """Return the size that the disk has."""
        return sizes[self._version]

    def page(self, versions: list[bytes]) -> bytes:
        """Return what the disk has of a page."""
        return versions[self._version]

    def has_name(self) -> bool:
        """Return whether the disk has a change of names; it then also has those that the change comes after."""
        return self._has_names


class RandomChoice(Choice):
    """Decides at random, repeatably: the seed decides everything.

    How much reached the disk differs from seed to seed, so that images with one missing page are as likely as ones with one
    page that is there.
    """

    def __init__(self, seed: str) -> None:
        super().__init__(f"random {seed}", version=0, has_names=False)
        self._random = random.Random(seed)
        self._is_torn = self._random.random() < 0.2
        self._share_of_names = self._random.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        self._share_of_pages = self._random.choice([0.0, 0.05, 0.5, 0.95, 1.0])

    def size(self, sizes: list[int]) -> int:
        """Return one of the sizes."""
        return self._one(sizes)

    def page(self, versions: list[bytes]) -> bytes:
        """Return one of the versions; torn, each sector of one of them."""
        if not self._is_torn:
            return self._one(versions)
        starts = range(0, PAGE_BYTES, SECTOR_BYTES)
        return b"".join(self._one(versions)[start : start + SECTOR_BYTES] for start in starts)

    def has_name(self) -> bool:
        """Return whether the disk has a change of names, drawn for each."""
        return self._random.random() < self._share_of_names

    def _one(self, versions: list[T]) -> T:
        draw = self._random.random()
        if draw < self._share_of_pages / 2:
            return versions[-1]
        return self._random.choice(versions) if draw < self._share_of_pages else versions[0]


MINIMAL: Final = Choice("nothing unsynced", version=0, has_names=False)
MAXIMAL: Final = Choice("everything", version=-1, has_names=True)
CONTENT_ONLY: Final = Choice("content without names", version=-1, has_names=False)
NAMES_ONLY: Final = Choice("names without content", version=0, has_names=True)
EXTREMES: Final = (MINIMAL, MAXIMAL, CONTENT_ONLY, NAMES_ONLY)
